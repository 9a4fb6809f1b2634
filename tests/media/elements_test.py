"""Where Matroska and WebM stop adding up, and what is whole though it looks odd."""

import numpy as np
import pytest

from video_dit import config
from video_dit.media import decode, elements
from video_dit.media.errors import MediaError

MEDIA = config.Media(frames_per_second=0)


def _path(tmp_path, encode, name, live=False):
  """Clusters of a second each; of unknown sizes where they are live."""
  noise = np.random.default_rng(0).integers(0, 255, (75, 64, 64, 3), np.uint8)
  options = {"cpu-used": "8", "deadline": "realtime", "b": "500000", "g": "25"}
  containing = {"live": "1"} if live else {}
  codec = "libvpx-vp9" if name.endswith("webm") else "libvpx"
  return encode(
    tmp_path / name, noise, codec=codec, options=options, container_options=containing
  )


@pytest.mark.parametrize("name", ["a.webm", "a.mkv"])
@pytest.mark.parametrize("live", [False, True])
def test_lost_bytes_are_damage_where_codecs_do_not_notice(tmp_path, encode, name, live):
  path = _path(tmp_path, encode, name, live)
  data = path.read_bytes()
  assert elements.fault(path) is None
  assert len(list(decode.frames(path, MEDIA))) == 75
  half, lost = len(data) // 2, len(data) // 10
  hole, zeros = data[half + lost :], bytes(lost) + data[half + lost :]
  for rest in (hole, zeros):
    path.write_bytes(data[:half] + rest)
    fault = elements.fault(path)
    assert half - lost < fault < half + 2 * lost
    with pytest.raises(MediaError) as caught:
      list(decode.frames(path, MEDIA))
    assert caught.value.reason == "damaged"
    keep = config.Media(frames_per_second=0, keep_truncated=True)
    assert 20 < len(list(decode.frames(path, keep))) < 45


def test_files_that_go_on_end_early_or_follow_each_other_add_up(tmp_path, encode):
  whole, live = (_path(tmp_path, encode, f"{i}.webm", live=i == 1) for i in (0, 1))
  data = whole.read_bytes()
  for content in (
    data[: len(data) // 2],
    live.read_bytes()[: len(data) // 2],
    data + data,
    live.read_bytes() + data,
    data[:0],
  ):
    (tmp_path / "b.webm").write_bytes(content)
    assert elements.fault(tmp_path / "b.webm") is None


def test_zeros_behind_the_last_frame_do_no_harm(tmp_path, encode):
  path = _path(tmp_path, encode, "a.webm", live=True)
  path.write_bytes(path.read_bytes() + bytes(5000))
  assert len(list(decode.frames(path, MEDIA))) == 75
