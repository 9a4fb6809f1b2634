"""What is written comes back."""

from fractions import Fraction
import json

import av
import numpy as np
from PIL import Image
import pytest

from video_dit import config
from video_dit.media.decode import frames
from video_dit.media.probe import probe
from video_dit.media.write import contact_sheet, write_video

MEDIA = config.Media(frames_per_second=0)


def moving(count, height, width):
  y, x = np.mgrid[:height, :width]
  clip = [np.stack([3 * x + 5 * i, 4 * y, x + y + 9 * i], -1) // 2 for i in range(count)]
  return np.clip(clip, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(48, 64), (47, 64), (48, 63), (33, 35)])
def test_mp4_keeps_size_frames_rate_and_colours(tmp_path, size):
  clip = moving(9, *size)
  write_video(tmp_path / "clip.mp4", clip, 23.976, metadata={"prompt": "a dög"}, crf=4)
  seen = probe(tmp_path / "clip.mp4", MEDIA)
  assert (seen.height, seen.width, seen.frames) == (*size, 9)
  assert seen.frames_per_second == pytest.approx(23.976, abs=1e-3)
  back = np.stack(list(frames(tmp_path / "clip.mp4", MEDIA)))
  assert np.abs(back.astype(int) - clip).mean() < 2.5
  with av.open(str(tmp_path / "clip.mp4")) as container:
    assert container.metadata["prompt"] == "a dög"
    assert container.streams.video[0].codec_context.colorspace == 1  # BT.709


def test_mp4_is_the_same_every_time_and_takes_an_iterable(tmp_path):
  clip = moving(5, 32, 32)
  write_video(tmp_path / "a.mp4", clip, 8)
  for _ in range(20):
    write_video(tmp_path / "b.mp4", (frame for frame in clip), 8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_gif_durations_add_up_exactly(tmp_path):
  write_video(tmp_path / "clip.gif", moving(24, 16, 20), 24, metadata={"seed": "7"})
  with Image.open(tmp_path / "clip.gif") as image:
    assert image.n_frames == 24
    assert json.loads(image.info["comment"]) == {"seed": "7"}
    durations = []
    for index in range(24):
      image.seek(index)
      durations.append(image.info["duration"])
  assert sum(durations) == 1000 and set(durations) == {40, 50}
  back = np.stack(list(frames(tmp_path / "clip.gif", MEDIA)))
  assert np.abs(back.astype(int) - moving(24, 16, 20)).mean() < 3


@pytest.mark.parametrize("rate", [6, 8, 12, 15, 24])
def test_a_gif_has_each_frame_once_at_its_own_rate(tmp_path, rate):
  clip = np.stack([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(25)])
  write_video(tmp_path / "clip.gif", clip, rate)
  media = config.Media(frames_per_second=rate)
  back = np.stack(list(frames(tmp_path / "clip.gif", media)))
  np.testing.assert_array_equal(back, clip)


def test_png_is_exact_and_holds_its_metadata(tmp_path):
  clip = moving(3, 17, 19)
  write_video(tmp_path / "image.png", clip, 24, metadata={"prompt": "ein Würfel"})
  assert np.array_equal(next(frames(tmp_path / "image.png", MEDIA)), clip[0])
  with Image.open(tmp_path / "image.png") as image:
    assert image.text["prompt"] == "ein Würfel"


def test_one_frame_is_a_clip_of_every_format(tmp_path):
  for name in ("a.mp4", "a.gif", "a.png"):
    write_video(tmp_path / name, moving(1, 16, 16), 24)
    assert len(list(frames(tmp_path / name, MEDIA))) == 1


def test_wrong_clips_are_refused_and_leave_nothing(tmp_path):
  good = moving(2, 16, 16)
  with pytest.raises(ValueError, match=r"\.webm"):
    write_video(tmp_path / "a.webm", good, 24)
  with pytest.raises(ValueError, match="at least one frame"):
    write_video(tmp_path / "a.mp4", good[:0], 24)
  with pytest.raises(ValueError, match="uint8"):
    write_video(tmp_path / "a.mp4", good / 255, 24)
  with pytest.raises(ValueError, match="in one clip"):
    write_video(tmp_path / "a.mp4", [good[0], good[1][:8]], 24)
  with pytest.raises(ValueError, match="frames_per_second"):
    write_video(tmp_path / "a.mp4", good, 0)
  with pytest.raises(ValueError, match=r"must be at least 0\.01"):
    write_video(tmp_path / "a.mp4", good, 0.0001)
  with pytest.raises(ValueError, match="100 frames"):
    write_video(tmp_path / "a.gif", good, 120)
  assert not list(tmp_path.iterdir())


def test_the_lowest_rate_is_written_as_it_is(tmp_path):
  write_video(tmp_path / "slow.mp4", np.zeros((2, 16, 16, 3), np.uint8), 0.01)
  with av.open(tmp_path / "slow.mp4") as clip:
    assert clip.streams.video[0].average_rate == Fraction(1, 100)


def test_contact_sheet_shows_labels_and_frames(tmp_path):
  red = np.zeros((20, 32, 48, 3), np.uint8)
  red[..., 0] = 200
  label = "a red field that goes on for many more words than fit in one line " * 2
  contact_sheet(tmp_path / "sheet.png", [(label, red), ("one", red[:1])], columns=4)
  with Image.open(tmp_path / "sheet.png") as image:
    pixels_HWC = np.array(image).astype(int)
  is_red = (np.abs(pixels_HWC - [200, 0, 0]).sum(-1) == 0).sum()
  assert is_red == 5 * 128 * 85
  assert (pixels_HWC.sum(-1) < 100).sum() > 100  # letters
  with pytest.raises(ValueError, match="rows"):
    contact_sheet(tmp_path / "none.png", [])
