"""What a container cuts off its frames."""

import struct

import numpy as np
import pytest

from video_dit import config
from video_dit.media.decode import frames
from video_dit.media.probe import probe

MEDIA = config.Media(frames_per_second=0)
HEIGHT, WIDTH = 64, 96


@pytest.fixture
def plain(tmp_path, encode):
  """Function that makes a lossless file of blocks, and tells its pixels."""
  blocks = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
  frame = blocks.repeat(4, 0).repeat(4, 1)

  def make(name):
    codec = "libx264rgb" if name.endswith("mp4") else "ffv1"
    pix_fmt = "rgb24" if name.endswith("mp4") else "bgr0"
    return encode(
      tmp_path / name, [frame] * 3, codec=codec, pix_fmt=pix_fmt, options={"qp": "0"}
    )

  return make, frame


def _with_clap(data, fields):
  """A file of the MP4 family with its index last, and a box in its sample entry."""
  added = struct.pack(">I4s4I4i", 40, b"clap", *fields)
  at = data.index(b"avc1", data.index(b"stsd")) - 4
  at += int.from_bytes(data[at : at + 4])
  data = bytearray(data[:at] + added + data[at:])
  for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
    where = data.index(name, data.index(b"moov")) - 4
    data[where : where + 4] = struct.pack(
      ">I", struct.unpack_from(">I", data, where)[0] + 40
    )
  return bytes(data)


def _with_pixel_crop(data, top, bottom, left, right):
  """A Matroska file with elements added to those of its video."""
  added = b""
  for id, value in ((0x54BB, top), (0x54AA, bottom), (0x54CC, left), (0x54DD, right)):
    added += struct.pack(">HBB", id, 0x81, value)
  tracks = data.rindex(b"\x16\x54\xae\x6b")  # The first is in a list of places.
  entry = data.index(b"\xae\x01", tracks)
  video = data.index(b"\xe0", data.index(b"V_FFV1") + 8)
  while data[video + 2] != 0xB0:  # its width comes first
    video = data.index(b"\xe0", video + 1)
  data = bytearray(data)
  for at, size in (
    (data.index(b"\x18\x53\x80\x67") + 4, 8),
    (tracks + 4, 2),
    (entry + 1, 8),
    (video + 1, 1),
  ):
    length = int.from_bytes(data[at : at + size]) + len(added)
    data[at : at + size] = length.to_bytes(size)
  return bytes(data[: video + 2]) + added + bytes(data[video + 2 :])


@pytest.mark.parametrize("size", [None, (30, 50)], ids=str)
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_what_is_not_shown_is_cut_off(plain, kind, size):
  make, frame_HWC = plain
  path = make(f"a.{kind}")
  top, bottom, left, right = 12, 4, 8, 20
  if kind == "mp4":  # A size, and how far its middle lies from the middle.
    wide, tall = WIDTH - left - right, HEIGHT - top - bottom
    fields = wide, 1, tall, 1, (left - right), 2, (top - bottom), 2
    path.write_bytes(_with_clap(path.read_bytes(), fields))
  else:
    path.write_bytes(_with_pixel_crop(path.read_bytes(), top, bottom, left, right))
  wanted_HWC = frame_HWC[top : HEIGHT - bottom, left : WIDTH - right]
  described = probe(path, MEDIA)
  assert (described.height, described.width) == wanted_HWC.shape[:2]
  seen = list(frames(path, MEDIA, size=size))
  assert len(seen) == 3
  if size is None:
    np.testing.assert_array_equal(seen[0], wanted_HWC)
  else:
    whole = make(f"b.{kind}")
    near_HWC = next(frames(whole, MEDIA, size=size)).astype(int)
    assert seen[0].shape == (*size, 3)
    assert np.abs(seen[0] - near_HWC).mean() > 20


@pytest.mark.parametrize(
  "fields", [(96, 1, 64, 0, 0, 1, 0, 1), (0, 1, 64, 1, 0, 1, 0, 1)]
)
def test_a_crop_that_makes_no_sense_is_ignored(plain, fields):
  make, frame_HWC = plain
  path = make("a.mp4")
  path.write_bytes(_with_clap(path.read_bytes(), fields))
  np.testing.assert_array_equal(next(frames(path, MEDIA)), frame_HWC)
