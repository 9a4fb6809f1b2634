"""Images of every kind, as displayed."""

from fractions import Fraction
import struct
import zlib

import av
import numpy as np
from PIL import Image
import pytest

from video_dit import config
from video_dit.media.decode import frames
from video_dit.media.errors import MediaError
from video_dit.media.probe import probe

MEDIA = config.Media(frames_per_second=0, min_side=1)


def only(path):
  (frame_HWC,) = frames(path, MEDIA)
  return frame_HWC


def reason(path, media=MEDIA):
  with pytest.raises(MediaError) as caught:
    list(frames(path, media))
  with pytest.raises(MediaError):
    probe(path, media)
  return caught.value.reason


def ramp(height=24, width=40):
  y, x = np.mgrid[:height, :width]
  return np.stack([6 * x, 10 * y, 3 * (x + y)], -1).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
  upright = ramp()
  stored = {
    1: upright,
    2: upright[:, ::-1],
    3: upright[::-1, ::-1],
    4: upright[::-1],
    5: upright.swapaxes(0, 1),
    6: np.rot90(upright),
    7: upright[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(upright, -1),
  }[orientation]
  exif = Image.Exif()
  exif[0x0112] = orientation
  for name in ("a.png", "a.webp", "a.tif"):
    image = Image.fromarray(np.ascontiguousarray(stored))
    image.save(tmp_path / name, exif=exif, **({"lossless": True} if "w" in name else {}))
    assert np.array_equal(only(tmp_path / name), upright), name
    seen = probe(tmp_path / name, MEDIA)
    assert (seen.kind, seen.height, seen.width) == ("image", 24, 40)
    turned = np.rot90(stored, seen.rotation // 90)  # Then it is mirrored, or is not.
    mirrored = np.array_equal(turned[:, ::-1], upright)
    assert seen.rotation in (-90, 0, 90, 180)
    assert np.array_equal(turned, upright) or mirrored, orientation


@pytest.mark.parametrize(
  "name", "rgb24 gbrp10le gbrp12le rgb48le gray10le gray16le rgba64le".split()
)
def test_jpeg_2000_of_any_depth_has_its_levels(tmp_path, encode, name):
  levels = np.repeat(np.linspace(0, 65535, 8).astype(np.uint16), 8)
  pixels = np.broadcast_to(levels[:, None], (64, 64, 3))
  frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb48le")
  frame = frame.reformat(format=name, interpolation="BICUBIC")
  codec = av.CodecContext.create("jpeg2000", "w")
  codec.height, codec.width, codec.pix_fmt, codec.time_base = 64, 64, name, Fraction(1, 8)
  codec.options = {"pred": "1", "format": "1"}  # lossless, in boxes
  data = b"".join(bytes(packet) for packet in codec.encode(frame) + codec.encode())
  start = data.index(b"\xff\x4f\xff\x51")
  for name, part in (("a.jp2", data), ("a.j2k", data[start:])):
    (tmp_path / name).write_bytes(part)
    seen = only(tmp_path / name)
    assert np.abs(seen.astype(int) - np.rint(pixels / 257)).max() <= 1, name
    assert probe(tmp_path / name, MEDIA).codec == "jpeg2000"


@pytest.mark.parametrize(
  "bits, white_is_zero", [(8, False), (8, True), (12, False), (16, False), (16, True)]
)
def test_greys_of_tiff_have_their_levels(tmp_path, bits, white_is_zero):
  most = (1 << bits) - 1
  levels = [round(most * share) for share in (0, 0.25, 0.75, 1)]
  stored = [most - level if white_is_zero else level for level in levels]
  if bits == 12:
    joined = "".join(f"{level:03x}" for level in stored)
    row = bytes.fromhex(joined)
  else:
    row = b"".join(level.to_bytes(bits // 8, "little") for level in stored)
  fields = {256: 4, 257: 2, 258: bits, 259: 1, 262: 0 if white_is_zero else 1}
  fields |= {273: 200, 277: 1, 278: 2, 279: 2 * len(row)}
  entries = b"".join(struct.pack("<HHII", tag, 3, 1, n) for tag, n in fields.items())
  head = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4)
  (tmp_path / "a.tif").write_bytes(head.ljust(200, b"\0") + row * 2)
  assert only(tmp_path / "a.tif")[1, :, 0] == pytest.approx([0, 64, 191, 255], abs=1)


def test_sixteen_bits_are_scaled(tmp_path):
  levels_HW = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
  Image.fromarray(levels_HW).save(tmp_path / "grey.png")
  exact = np.repeat((levels_HW / 257)[..., None], 3, -1)
  assert np.abs(only(tmp_path / "grey.png") - exact).max() <= 0.5
  _png_of_16_bits(tmp_path / "rgb.png", np.repeat(levels_HW[..., None], 3, -1))
  assert np.abs(only(tmp_path / "rgb.png") - exact).max() <= 1
  Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "float.tif")
  with pytest.raises(MediaError, match="floating-point"):
    only(tmp_path / "float.tif")


def test_transparency_is_laid_on_white(tmp_path):
  rgba = np.zeros((16, 16, 4), np.uint8)
  rgba[:, 4:, :] = [100, 0, 200, 128]
  rgba[:, 8:, 3] = 255
  Image.fromarray(rgba).save(tmp_path / "a.png")
  seen = only(tmp_path / "a.png").astype(int)
  assert (seen[0, 0] == 255).all() and (seen[0, 15] == [100, 0, 200]).all()
  assert np.abs(seen[0, 5] - [177, 127, 227]).max() <= 1
  palette = Image.fromarray(rgba[..., :3]).quantize(4)
  palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
  assert (only(tmp_path / "p.png")[0, 0] == 255).all()
  Image.fromarray(rgba).convert("LA").save(tmp_path / "la.png")
  assert (only(tmp_path / "la.png")[0, 0] == 255).all()


def test_profiles_are_applied_before_transparency(tmp_path, swapped_profile):
  red = np.full((16, 16, 4), [200, 30, 30, 255], np.uint8)
  red[:, 8:, 3] = 0
  image = Image.fromarray(red)
  palette = Image.fromarray(red[..., :3]).quantize(4)
  profile = {"icc_profile": swapped_profile}
  image.save(tmp_path / "a.png", **profile)
  image.save(tmp_path / "a.tif", **profile)
  image.save(tmp_path / "a.webp", lossless=True, exact=True, **profile)
  palette.save(tmp_path / "p.png", **profile)
  image.convert("RGB").save(tmp_path / "rgb.png", **profile)
  for name in ("a.png", "a.tif", "a.webp", "p.png", "rgb.png"):
    seen = only(tmp_path / name)
    assert seen[0, 0, 0] < 40 and seen[0, 0, 1] > 180, name
    if name.startswith("a."):
      assert (seen[:, 8:] == 255).all(), name
  image.convert("LA").save(tmp_path / "la.png", **profile)  # A profile that can't fit.
  assert (only(tmp_path / "la.png")[:, 8:] == 255).all()


def test_grey_of_16_bits_may_be_transparent(tmp_path):
  levels_HW = np.full((16, 16), 20000, np.uint16)
  levels_HW[:, 8:] = 20001
  _png_of_16_bits(
    tmp_path / "a.png", levels_HW[..., None], _chunk(b"tRNS", struct.pack(">H", 20000))
  )
  seen = only(tmp_path / "a.png")
  assert (seen[:, :8] == 255).all() and (seen[:, 8:] == 78).all()


def test_grey_palette_bilevel_and_cmyk_become_rgb(tmp_path):
  image = Image.fromarray(ramp())
  for mode, name in (("L", "l.png"), ("P", "p.png"), ("1", "1.png"), ("CMYK", "c.tif")):
    image.convert(mode).save(tmp_path / name)
    expected = np.array(image.convert(mode).convert("RGB")).astype(int)
    assert np.abs(only(tmp_path / name) - expected).max() <= 1, name


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animations_are_clips_with_their_own_durations(tmp_path, counted, indices, name):
  images = [Image.fromarray(frame) for frame in counted(4, step=50)]
  images[0].save(
    tmp_path / name,
    save_all=True,
    append_images=images[1:],
    duration=[100, 300, 0, 200],
    **({"lossless": True} if name.endswith("webp") else {}),
  )
  seen = probe(tmp_path / name, MEDIA)
  assert (seen.kind, seen.frames) == ("video", 4)
  assert seen.duration_seconds == pytest.approx(0.7)
  assert indices(frames(tmp_path / name, MEDIA), 50) == [0, 1, 2, 3]
  ten = config.Media(frames_per_second=10)
  assert indices(frames(tmp_path / name, ten), 50) == [0, 1, 1, 1, 2, 3, 3]
  part = frames(tmp_path / name, ten, start_seconds=0.3, end_seconds=0.6, size=(8, 16))
  assert indices(part, 50) == [1, 2, 3]
  short = config.Media(max_seconds=0.5)
  assert reason(tmp_path / name, short) == "too_long"


def test_a_picture_in_place_of_an_animation_is_no_part_of_it(tmp_path, counted, indices):
  first, *rest = (Image.fromarray(frame) for frame in counted(4, step=50))
  path = tmp_path / "a.png"
  first.save(path, save_all=True, append_images=rest, default_image=True, duration=200)
  assert indices(frames(path, MEDIA), 50) == [1, 2, 3]
  seen = probe(path, MEDIA)
  assert (seen.kind, seen.frames) == ("video", 3)
  assert seen.duration_seconds == pytest.approx(0.6)


def test_of_an_icon_the_largest_picture_is_taken(tmp_path):
  image = Image.fromarray(ramp(96, 128))
  image.save(tmp_path / "a.ico", sizes=[(32, 24), (128, 96), (64, 48)])
  assert np.abs(only(tmp_path / "a.ico").astype(int) - ramp(96, 128)).max() <= 1
  seen = probe(tmp_path / "a.ico", MEDIA)
  assert (seen.kind, seen.height, seen.width) == ("image", 96, 128)


@pytest.mark.parametrize(("light", "level"), [(0.214, 127), (1.0, 255), (4.0, 255)])
def test_the_light_of_exr_becomes_srgb(tmp_path, light, level):
  _exr(tmp_path / "a.exr", np.full((16, 24), light, np.float32))
  assert np.abs(only(tmp_path / "a.exr").astype(int) - level).max() <= 1


def test_floating_point_pixels_are_refused(tmp_path):
  grey = np.full((16, 24), 0.5, np.float32)
  (tmp_path / "a.pfm").write_bytes(b"PF\n24 16\n-1.0\n" + grey.repeat(3).tobytes())
  with pytest.raises(MediaError, match="convert it to 8 bits"):
    only(tmp_path / "a.pfm")


def test_what_is_no_image_is_no_media_whatever_its_name(tmp_path):
  noise = np.random.default_rng(0).bytes(5000)
  for name in ("a.jpg", "a.png", "a.webp", "a.tiff", "a.mjpeg"):
    for content in (noise, b"a text, and nothing else\n" * 30):
      (tmp_path / name).write_bytes(content)
      assert reason(tmp_path / name) == "not_media", name


def test_a_picture_of_an_unknown_codec_is_unreadable(tmp_path):
  head = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl "
  (tmp_path / "a.jxl").write_bytes(head + bytes(200))
  assert reason(tmp_path / "a.jxl") == "unreadable"


def test_bombs_are_refused_by_their_header(tmp_path):
  limit = config.Media(max_source_pixels=10_000)
  Image.new("P", (200, 100)).save(tmp_path / "a.png")
  assert reason(tmp_path / "a.png", limit) == "too_large"
  bomb = bytearray((tmp_path / "a.png").read_bytes())  # beyond Pillow's limit, too
  bomb[16:24] = struct.pack(">II", 60000, 60000)
  bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
  (tmp_path / "b.png").write_bytes(bomb)
  with pytest.raises(MediaError, match=r"media.max_source_pixels=10000") as caught:
    probe(tmp_path / "b.png", limit)
  assert caught.value.reason == "too_large"
  canvas = struct.pack("<I", 16383)[:3]
  chunk = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas + canvas
  body = b"WEBP" + chunk + b"ANIM" + struct.pack("<IIH", 6, 0, 0)
  data = b"RIFF" + struct.pack("<I", len(body)) + body
  (tmp_path / "a.webp").write_bytes(data)
  assert reason(tmp_path / "a.webp") == "too_large"
  Image.fromarray(ramp(80, 100)).save(tmp_path / "fits.png")
  assert only(tmp_path / "fits.png").shape == (80, 100, 3)


def test_cut_off_images_are_truncated_and_tiny_ones_too_small(tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  for name in ("a.jpg", "a.png"):
    Image.fromarray(noise).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    for keep in (False, True):
      with pytest.raises(MediaError) as caught:
        list(frames(tmp_path / name, config.Media(keep_truncated=keep)))
      assert caught.value.reason == "truncated"
  Image.fromarray(noise).resize((7, 64)).save(tmp_path / "small.png")
  assert reason(tmp_path / "small.png", config.Media()) == "too_small"


def test_a_gif_cut_between_frames_is_truncated(tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)
  images = [Image.fromarray(frame) for frame in noise]
  images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:])
  data = (tmp_path / "a.gif").read_bytes()
  for rest in (b"", b"\0!\xfe\x03a;b"):  # no trailer; a comment that does not end
    (tmp_path / "a.gif").write_bytes(data[: -2 if rest else -1] + rest)
    with pytest.raises(MediaError) as caught:
      list(frames(tmp_path / "a.gif", MEDIA))
    assert caught.value.reason == "truncated"
    keep = config.Media(frames_per_second=0, keep_truncated=True)
    assert len(list(frames(tmp_path / "a.gif", keep))) == 3


def test_a_gif_is_whole_whatever_follows_its_trailer(tmp_path):
  image = Image.new("P", (32, 32))
  image.putpalette(bytes(range(256)) * 3)
  others = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime")]
  image.save(tmp_path / "a.gif", save_all=True, append_images=others, comment="c;" * 300)
  with open(tmp_path / "a.gif", "ab") as file:
    file.write(b"<!-- served by a cache -->" * 40)
  assert len(list(frames(tmp_path / "a.gif", config.Media(frames_per_second=0)))) == 3


def _chunk(name, data):
  body = name + data
  return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _png_of_16_bits(path, pixels_HWC, extra=b""):
  """Pillow writes no RGB of 16 bits, nor a transparent level of grey."""
  height, width, channels = pixels_HWC.shape
  rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels_HWC)
  kind = {1: 0, 3: 2}[channels]
  header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
  path.write_bytes(
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", header)
    + extra
    + _chunk(b"IDAT", zlib.compress(rows))
    + _chunk(b"IEND", b"")
  )


def _exr(path, light_HW):
  """Light of three equal channels, uncompressed; Pillow writes none."""
  height, width = light_HW.shape

  def field(name, kind, data):
    return name + b"\0" + kind + b"\0" + struct.pack("<I", len(data)) + data

  box = struct.pack("<4i", 0, 0, width - 1, height - 1)
  channels = b"".join(
    name + b"\0" + struct.pack("<4I", 2, 0, 1, 1) for name in (b"B", b"G", b"R")
  )
  head = b"\x76\x2f\x31\x01\x02\0\0\0"
  head += field(b"channels", b"chlist", channels + b"\0")
  head += field(b"compression", b"compression", b"\0")
  head += field(b"dataWindow", b"box2i", box) + field(b"displayWindow", b"box2i", box)
  head += field(b"lineOrder", b"lineOrder", b"\0")
  head += field(b"pixelAspectRatio", b"float", struct.pack("<f", 1))
  head += field(b"screenWindowCenter", b"v2f", struct.pack("<2f", 0, 0))
  head += field(b"screenWindowWidth", b"float", struct.pack("<f", 1)) + b"\0"
  size = 3 * 4 * width
  start = len(head) + 8 * height
  places = [struct.pack("<Q", start + row * (8 + size)) for row in range(height)]
  rows = [
    struct.pack("<ii", row, size) + 3 * light_HW[row].astype("<f4").tobytes()
    for row in range(height)
  ]
  path.write_bytes(head + b"".join(places) + b"".join(rows))
