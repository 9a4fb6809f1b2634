"""Video files: orientation, colour, depth, shape of pixels, damage."""

from fractions import Fraction
import io
import re
import struct

import av
import numpy as np
from PIL import Image
import pytest

from video_dit import config
from video_dit.media.decode import frames
from video_dit.media.errors import MediaError
from video_dit.media.probe import probe

MEDIA = config.Media(frames_per_second=0)


def reason(path, media=MEDIA):
  with pytest.raises(MediaError) as caught:
    list(frames(path, media))
  return caught.value.reason


def quadrants(height=32, width=64):
  """Dark red, green, blue and grey quarters: every orientation looks different."""
  frame_HWC = np.zeros((height, width, 3), np.uint8)
  frame_HWC[: height // 2, : width // 2] = [160, 0, 0]
  frame_HWC[: height // 2, width // 2 :] = [0, 160, 0]
  frame_HWC[height // 2 :, : width // 2] = [0, 0, 160]
  frame_HWC[height // 2 :, width // 2 :] = 100
  return frame_HWC


@pytest.mark.parametrize(
  "matrix",
  [
    *((1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)),
    *((0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)),
  ],
)
def test_display_matrices_are_applied(tmp_path, encode, matrix):
  stored = quadrants()
  path = encode(tmp_path / "a.mp4", [stored] * 2)
  data = bytearray(path.read_bytes())
  at = data.index(b"tkhd") + 4 + 40
  a, b, c, d = (entry << 16 for entry in matrix)
  struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
  path.write_bytes(data)
  a, b, c, d = matrix
  height, width = (32, 64) if a else (64, 32)
  expected = np.zeros((height, width, 3), int)
  for y in range(32):
    for x in range(64):  # x' = a x + c y, y' = b x + d y, moved into view
      expected[(b * x + d * y) % height, (a * x + c * y) % width] = stored[y, x]
  seen = next(frames(path, MEDIA)).astype(int)
  assert seen.shape == expected.shape
  # Reversal sends 0 to 0 by the modulus: compare the quarters' middles.
  rows, columns = [height // 4, 3 * height // 4], [width // 4, 3 * width // 4]
  assert np.abs(seen - expected)[np.ix_(rows, columns)].max() < 12
  described = probe(path, MEDIA)
  assert (described.height, described.width) == (height, width)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [-90, 0, 90, 180])
def test_a_file_is_turned_by_its_rotation_and_then_mirrored(tmp_path, degrees, mirrored):
  stored, path = quadrants(64, 64), tmp_path / "a.mp4"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=8)
    stream.height, stream.width, stream.pix_fmt = *stored.shape[:2], "yuv420p"
    stream.set_display_rotation(degrees, hflip=mirrored)
    container.mux(stream.encode(av.VideoFrame.from_ndarray(stored)) + stream.encode())
  assert probe(path, MEDIA).rotation == degrees
  expected = np.rot90(stored, degrees // 90)
  expected = expected[:, ::-1] if mirrored else expected
  seen = next(frames(path, MEDIA)).astype(int)
  assert np.abs(seen - expected)[16::32, 16::32].max() < 12


@pytest.mark.parametrize("ratio", [Fraction(4, 3), Fraction(1, 2)])
def test_pixels_become_square(tmp_path, encode, ratio):
  path = encode(tmp_path / "a.mp4", [quadrants()] * 2, aspect=ratio)
  width = round(64 * ratio)
  assert [frame.shape for frame in frames(path, MEDIA)] == [(32, width, 3)] * 2
  assert probe(path, MEDIA).width == width


@pytest.mark.parametrize(
  ("codec", "pix_fmt", "name"),
  [
    ("libx264", "yuv420p", "a.mp4"),
    ("libx264", "yuvj420p", "a.mp4"),
    ("libx264", "yuv444p", "a.mp4"),
    ("libx264", "yuv420p10le", "a.mp4"),
    ("libx265", "yuv420p", "a.mp4"),
    ("libvpx-vp9", "yuv420p", "a.webm"),
    ("libvpx", "yuv420p", "a.webm"),
    ("libsvtav1", "yuv420p10le", "a.mkv"),
    ("mpeg4", "yuv420p", "a.avi"),
    ("mpeg2video", "yuv420p", "a.mpg"),
    ("mjpeg", "yuvj420p", "a.mov"),
    ("ffv1", "yuv422p12le", "a.mkv"),
    ("ffv1", "bgr0", "a.mkv"),
    ("qtrle", "rgb24", "a.mov"),
    ("wmv2", "yuv420p", "a.wmv"),
  ],
)
def test_codecs_depths_and_ranges_give_the_same_colours(
  tmp_path, encode, codec, pix_fmt, name
):
  if codec not in av.codecs_available:
    pytest.skip(f"this PyAV has no {codec}")
  options = {"libx265": {"x265-params": "log-level=none"}}.get(codec, {})
  if codec not in ("libx265", "ffv1", "qtrle", "libsvtav1"):
    options = {"b": "4000000", **options}
  clip = [quadrants(64, 96)] * 4
  path = encode(tmp_path / name, clip, codec=codec, pix_fmt=pix_fmt, options=options)
  seen = list(frames(path, MEDIA))
  assert len(seen) == 4 and seen[0].dtype == np.uint8
  middles = np.stack(seen)[:, 16::32, 24::48].astype(int)
  assert np.abs(middles - clip[0][16::32, 24::48]).max() <= 14
  described = probe(path, MEDIA)
  assert (described.kind, described.height, described.width) == ("video", 64, 96)
  depth = re.search(r"p(\d+)le", pix_fmt)
  assert described.bit_depth == (int(depth[1]) if depth else 8)


def test_the_declared_matrix_is_used_and_else_the_usual_one(tmp_path, encode):
  red = [np.full((64, 64, 3), [180, 20, 20], np.uint8)] * 2
  for tags, matrix in (({"colorspace": 1}, "ITU709"), ({"colorspace": 5}, "ITU601")):
    coded = [
      av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
        format="yuv444p", dst_colorspace=matrix
      )
      for frame in red
    ]
    options = {"crf": "1"}
    path = encode(
      tmp_path / f"{matrix}.mp4", coded, pix_fmt="yuv444p", tags=tags, options=options
    )
    assert np.abs(next(frames(path, MEDIA)).astype(int) - red[0]).max() <= 4
  for height, matrix in ((64, "ITU601"), (720, "ITU709")):
    frame = av.VideoFrame.from_ndarray(
      np.full((height, 640, 3), [180, 20, 20], np.uint8), format="rgb24"
    ).reformat(format="yuv444p", dst_colorspace=matrix)
    path = encode(
      tmp_path / "none.mp4",
      [frame],
      pix_fmt="yuv444p",
      tags={"colorspace": 2},
      options={"crf": "1"},
    )
    assert np.abs(next(frames(path, MEDIA)).astype(int) - [180, 20, 20]).max() <= 4


def test_alpha_is_laid_on_white_and_grey_is_grey(tmp_path, encode):
  rgba = np.zeros((32, 32, 4), np.uint8)
  rgba[:, 16:] = [200, 100, 0, 128]
  path = encode(tmp_path / "a.mov", [rgba] * 2, codec="png", pix_fmt="rgba")
  seen = next(frames(path, MEDIA)).astype(int)
  assert (seen[:, :16] == 255).all()
  assert np.abs(seen[:, 16:] - [227, 177, 127]).max() <= 1
  grey = np.full((32, 32, 3), 90, np.uint8)
  for pix_fmt in ("gray", "gray10le"):
    path = encode(tmp_path / "g.mkv", [grey] * 2, codec="ffv1", pix_fmt=pix_fmt)
    assert np.abs(next(frames(path, MEDIA)).astype(int) - 90).max() <= 1


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparent_webm_is_laid_on_white(tmp_path, encode, codec):
  if codec not in av.codecs_available:
    pytest.skip(f"this PyAV has no {codec}")
  rgba = np.zeros((64, 64, 4), np.uint8)
  rgba[:, 32:] = [200, 100, 0, 128]
  options = {"auto-alt-ref": "0", "b": "4000000"}
  clip = [rgba] * 4
  how = {"codec": codec, "pix_fmt": "yuva420p", "options": options}
  path = encode(tmp_path / "a.webm", clip, **how)
  seen = np.stack(list(frames(path, MEDIA))).astype(int)
  assert len(seen) == 4
  assert (seen[:, :, 4:20] > 245).all()
  assert np.abs(seen[:, :, 44:60] - [227, 177, 127]).max() <= 8


def test_cut_off_files_are_truncated(tmp_path, encode):
  noise = np.random.default_rng(0).integers(0, 255, (50, 64, 64, 3), np.uint8)
  for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx")):
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    extra = {"b": "3000000", "g": "10"} if codec == "libvpx" else {"g": "10"}
    path = encode(
      tmp_path / name, noise, codec=codec, container_options=options, options=extra
    )
    whole = len(list(frames(path, MEDIA)))
    assert whole == 50
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    assert reason(path) == "truncated", name
    keep = config.Media(frames_per_second=0, keep_truncated=True)
    assert 20 <= len(list(frames(path, keep))) <= 40, name
    early = frames(path, MEDIA, end_seconds=0.5)
    assert len(list(early)) in (12, 13)  # What comes before the damage is good.


@pytest.mark.parametrize("count", [2, 30])
@pytest.mark.parametrize(
  ("name", "codec", "sound_codec"),
  [("a.wmv", "wmv2", "wmav2"), ("a.mkv", "libx264", "aac"), ("a.mp4", "mpeg4", "aac")],
)
def test_sound_may_go_on_behind_the_last_frame(tmp_path, name, codec, sound_codec, count):
  with av.open(str(tmp_path / name), "w") as container:
    picture = container.add_stream(codec, rate=25)
    picture.width, picture.height, picture.pix_fmt = 64, 32, "yuv420p"
    sound = container.add_stream(sound_codec, rate=44100, layout="stereo")
    sound.bit_rate = 64000
    for _ in range(count):
      frame = av.VideoFrame.from_ndarray(quadrants(), format="rgb24")
      container.mux(picture.encode(frame.reformat(format="yuv420p")))
    for start in range(0, 4 * 44100, 2048):
      samples = np.zeros((2, 2048), np.float32)
      heard = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
      heard.sample_rate, heard.pts, heard.time_base = 44100, start, Fraction(1, 44100)
      container.mux(sound.encode(heard))
    container.mux([*picture.encode(None), *sound.encode(None)])
  assert len(list(frames(tmp_path / name, MEDIA))) == count


@pytest.mark.parametrize(
  ("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9")]
)
def test_damage_in_the_middle_is_seen(tmp_path, encode, name, codec):
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 255, (40, 64, 64, 3), np.uint8)
  options = {"cpu-used": "8", "deadline": "realtime", "b": "3000000"}
  path = encode(
    tmp_path / name, noise, codec=codec, options=options if "vp9" in codec else {}
  )
  data = bytearray(path.read_bytes())
  for start in range(int(0.4 * len(data)), int(0.7 * len(data)), 900):
    data[start : start + 300] = rng.bytes(300)
  path.write_bytes(data)
  assert reason(path) in ("damaged", "truncated")


def test_what_is_no_video_says_why(tmp_path, encode):
  (tmp_path / "empty.mp4").write_bytes(b"")
  (tmp_path / "page.mp4").write_text("<html>not found</html>")
  (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:5,\nother.ts\n#EXT-X-ENDLIST\n")
  (tmp_path / "text.txt").write_text("a caption\n")
  (tmp_path / "head.mp4").write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0isomisom" + bytes(90))
  with av.open(str(tmp_path / "sound.m4a"), "w") as container:
    stream = container.add_stream("aac", rate=8000)
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    sound.sample_rate = 8000
    container.mux([*stream.encode(sound), *stream.encode(None)])
  encode(
    tmp_path / "whole.mp4",
    [quadrants()] * 9,
    container_options={"movflags": "faststart"},
  )
  data = (tmp_path / "whole.mp4").read_bytes()
  for number, at in enumerate(range(data.index(b"moov") + 6, data.index(b"mdat"), 97)):
    (tmp_path / f"{number}.mp4").write_bytes(data[:at])
    assert reason(tmp_path / f"{number}.mp4") in ("unreadable", "truncated"), at
  expected = {
    "empty.mp4": "empty",
    "page.mp4": "not_media",
    "list.mp4": "not_media",
    "text.txt": "not_media",
    "head.mp4": "unreadable",
    "sound.m4a": "no_video",
    "missing.mp4": "unreadable",
  }
  assert {name: reason(tmp_path / name) for name in expected} == expected
  for name, word in expected.items():
    with pytest.raises(MediaError) as caught:
      probe(tmp_path / name, MEDIA)
    assert caught.value.reason == word


def test_limits_come_before_decoding(tmp_path, encode, counted):
  path = encode(tmp_path / "a.mp4", counted(10))
  assert reason(path, config.Media(max_source_pixels=1000)) == "too_large"
  assert reason(path, config.Media(min_side=33)) == "too_small"
  assert reason(path, config.Media(max_seconds=0.2)) == "too_long"
  assert reason(path, config.Media(timeout_seconds=0.0)) == "timeout"
  with pytest.raises(MediaError, match="exceed"):
    probe(path, config.Media(max_source_pixels=1000))


def test_side_data_unknown_to_pyav_does_no_harm(tmp_path):
  picture, exif = io.BytesIO(), Image.Exif()
  exif[0x010F] = "a camera"
  Image.fromarray(quadrants()).save(picture, "JPEG", exif=exif, quality=95)
  with av.open(str(tmp_path / "a.avi"), "w") as container:
    stream = container.add_stream("mjpeg", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 32, "yuvj420p"
    for index in range(3):
      packet = av.Packet(picture.getvalue())
      packet.stream, packet.is_keyframe = stream, True
      packet.pts = packet.dts = index
      packet.time_base = Fraction(1, 25)
      container.mux(packet)
  seen = [frame.shape for frame in frames(tmp_path / "a.avi", MEDIA)]
  assert seen == [(32, 64, 3)] * 3
