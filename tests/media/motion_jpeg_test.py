"""Motion JPEG without a container, and photos that look alike."""

import io

from PIL import Image
import pytest

from video_dit import config
from video_dit.media.decode import frames
from video_dit.media.probe import probe

OWN = config.Media(frames_per_second=0)


def jpeg(pixels_HWC, **options):
  out = io.BytesIO()
  Image.fromarray(pixels_HWC).save(out, "JPEG", quality=95, **options)
  return out.getvalue()


@pytest.mark.parametrize("name", ["a.mjpeg", "a.jpg", "a"])
def test_pictures_behind_each_other_are_a_clip(tmp_path, counted, indices, name):
  path = tmp_path / name
  path.write_bytes(b"".join(jpeg(frame, restart_marker_rows=1) for frame in counted(12)))
  assert indices(frames(path, OWN)) == list(range(12))
  described = probe(path, OWN)
  assert (described.kind, described.codec) == ("video", "mjpeg")
  rest = frames(path, config.Media(frames_per_second=25), start_seconds=0.2)
  assert indices(rest) == list(range(5, 12))


def test_a_photo_is_one_picture_whatever_follows_it(tmp_path, counted):
  first, second = counted(2, 64, 96)
  exif = Image.Exif()
  exif[0x010F] = "a camera"
  many = io.BytesIO()
  Image.fromarray(first).save(
    many, "MPO", save_all=True, append_images=[Image.fromarray(second)]
  )
  contents = {
    "exif.jpg": jpeg(first, exif=exif) + jpeg(second),
    "small.jpg": jpeg(first) + jpeg(second[:32, :48]),
    "film.jpg": jpeg(first) + b"\0\0\0\x18ftypmp42" + bytes(100),
    "eyes.jpg": many.getvalue(),
    "plain.jpg": jpeg(first),
  }
  for name, content in contents.items():
    (tmp_path / name).write_bytes(content)
    assert [one.shape for one in frames(tmp_path / name, OWN)] == [(64, 96, 3)], name
    assert probe(tmp_path / name, OWN).kind == "image", name
