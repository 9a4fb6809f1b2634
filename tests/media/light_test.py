"""High dynamic range and wide gamuts become sRGB; limited greys are expanded."""

import av
import numpy as np
import pytest

from video_dit import config
from video_dit.media.decode import frames
from video_dit.media.picture import Painter
from video_dit.media.probe import probe

MEDIA = config.Media(frames_per_second=0)
BT709, BT2020, P3, PQ, HLG = 1, 9, 12, 16, 18  # ITU-T H.273
LEVELS = (20, 50, 90, 203, 300, 600, 1000, 4000)  # cd/m2


def pq(light):
  """The signal of light in cd/m2 (SMPTE ST 2084)."""
  power = (np.asarray(light) / 10000) ** 0.1593017578125
  return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def srgb(light):
  """The level of sRGB, 0 to 255, of a share of white."""
  light = np.asarray(light)
  return 255 * np.where(
    light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
  )


def grey(signals, name="yuv420p10le"):
  """A frame with a stripe of 32 columns for each signal, 0 to 1, of limited range."""
  frame = av.VideoFrame(32 * len(signals), 64, name)
  bits = frame.format.components[0].bits
  depth = np.uint8 if bits == 8 else np.uint16
  luma = np.repeat(np.rint((16 + 219 * np.asarray(signals)) * 2 ** (bits - 8)), 32)
  for index, plane in enumerate(frame.planes):
    room = np.full((plane.height, plane.line_size // depth().itemsize), 1 << bits - 1)
    if not index:
      room[:, : len(luma)] = luma
    plane.update(room.astype(depth).tobytes())
  frame.color_range = 1
  return frame


def tagged(frame, primaries, transfer, matrix=9):
  frame.color_primaries, frame.color_trc, frame.colorspace = primaries, transfer, matrix
  return frame


def stripes(pixels_HWC):
  """The middle of each stripe."""
  width = pixels_HWC.shape[1] // 8
  return pixels_HWC[len(pixels_HWC) // 2, width // 2 :: width].astype(int)


@pytest.fixture(scope="module")
def stream(tmp_path_factory, encode, counted):
  """A stream of square pixels."""
  path = encode(tmp_path_factory.mktemp("light") / "a.mp4", counted(1))
  with av.open(str(path)) as container:
    yield container.streams.video[0]


def test_light_below_the_knee_is_exact_and_highlights_stay_apart(stream):
  frame = tagged(grey(pq(LEVELS)), BT2020, PQ)
  for size in (None, (40, 160)):
    seen_KC = stripes(Painter(stream, size)(frame))
    assert np.ptp(seen_KC, axis=1).max() <= 1
    np.testing.assert_allclose(seen_KC[:3, 0], srgb(np.array(LEVELS[:3]) / 203), atol=1)
    assert 220 <= seen_KC[3, 0] <= 235  # diffuse white: there is room above it
    assert (np.diff(seen_KC[3:7, 0]) > 0).all()
    assert (seen_KC[6:] == 255).all()
  declared_HWC = Painter(stream, None)(frame)
  frame.color_range = 0  # Without a declaration, luma has limited range.
  np.testing.assert_array_equal(Painter(stream, None)(frame), declared_HWC)


def test_hlg_is_the_light_of_a_display_of_1000_nits(stream):
  # 75 % is 203 cd/m2 (BT.2408); BT.2100, table 5, gives the others.
  a, b, c = 0.17883277, 0.28466892, 0.55991073
  signals = np.array((0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0))
  scene = np.where(signals <= 0.5, signals**2 / 3, (np.exp((signals - c) / a) + b) / 12)
  light = 1000 * scene**1.2
  assert light[5] == pytest.approx(203, abs=1)
  seen = Painter(stream, None)(tagged(grey(signals), BT2020, HLG))
  wanted = Painter(stream, None)(tagged(grey(pq(light)), BT2020, PQ))
  np.testing.assert_allclose(stripes(seen), stripes(wanted), atol=1)


def test_what_the_grading_monitor_was_changes_nothing(tmp_path, encode):
  if "libx265" not in av.codecs_available:
    pytest.skip("this PyAV has no libx265")
  monitor = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)"
  seen = []
  for name, more in (
    ("plain.mkv", ""),
    (
      "1000.mkv",
      f":repeat-headers=1:master-display={monitor}L(10000000,50):max-cll=1000,400",
    ),
    ("4000.mkv", f":repeat-headers=1:master-display={monitor}L(40000000,50)"),
  ):
    path = encode(
      tmp_path / name,
      [tagged(grey(pq(LEVELS)), BT2020, PQ)] * 2,
      codec="libx265",
      pix_fmt="yuv420p10le",
      options={"x265-params": "log-level=none:crf=4" + more},
      tags={"color_primaries": BT2020, "color_trc": PQ, "colorspace": 9},
    )
    with av.open(str(path)) as container:
      assert next(container.decode(video=0)).color_trc == PQ
    seen += [next(frames(path, MEDIA)), next(frames(path, MEDIA, size=(32, 128)))]
  for first, again in zip(seen[:2], seen[2:4], strict=True):
    np.testing.assert_array_equal(first, again)
  for first, again in zip(seen[:2], seen[4:], strict=True):
    np.testing.assert_array_equal(first, again)
  np.testing.assert_allclose(
    stripes(seen[0])[:3, 0], srgb(np.array((20, 50, 90)) / 203), 0, 2
  )


# The red, green and grey of sRGB in other primaries (CSS Color 4, by its matrices).
_SAME = [
  (P3, (0.91749, 0.20029, 0.13856), (255, 0, 0)),
  (P3, (0.45840, 0.98527, 0.29832), (0, 255, 0)),
  (P3, (0.5, 0.5, 0.5), (128, 128, 128)),
  (BT2020, (0.81419, 0.29154, 0.13386), (255, 0, 0)),
]


@pytest.mark.parametrize("size", [None, (40, 60)], ids=str)
@pytest.mark.parametrize("name", ["yuv444p10le", "yuv444p", "gbrp", "gbrp10le"])
@pytest.mark.parametrize("primaries, signal, wanted", _SAME)
def test_wide_gamuts_become_srgb(stream, name, size, primaries, signal, wanted):
  pixels = np.broadcast_to(np.rint(65535 * np.array(signal)), (64, 96, 3))
  frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint16), format="rgb48le")
  frame = frame.reformat(format=name, dst_colorspace="ITU709", interpolation="BICUBIC")
  seen_HWC = Painter(stream, size or (64, 96))(tagged(frame, primaries, 13, matrix=1))
  bits = frame.format.components[0].bits
  # Where the curve of sRGB is steep, a level of 8 bits is several of the result.
  np.testing.assert_allclose(seen_HWC[9, 9], wanted, atol=12 if bits == 8 else 4)


def test_other_colours_stay_as_they_are(stream):
  frame = grey(np.linspace(0, 1, 8))
  plain = Painter(stream, None)(tagged(frame, 2, 2, matrix=1))
  for primaries, transfer in ((BT709, BT709), (6, 6), (5, 5), (2, 13)):
    seen = Painter(stream, None)(tagged(frame, primaries, transfer, matrix=1))
    np.testing.assert_array_equal(seen, plain)


@pytest.mark.parametrize("size", [None, (40, 160)], ids=str)
@pytest.mark.parametrize("name", ["gray", "gray10le", "gray12le"])
def test_greys_have_their_levels(stream, name, size):
  levels = np.array((16, 40, 90, 126, 150, 180, 220, 235))
  frame = grey((levels - 16) / 219, name)
  wanted = np.rint((levels - 16) / 219 * 255)
  seen_KC = stripes(Painter(stream, size)(frame))
  np.testing.assert_array_equal(seen_KC, np.repeat(wanted[:, None], 3, 1))
  frame.color_range = 2
  seen_KC = stripes(Painter(stream, size)(frame))
  bits = frame.format.components[0].bits
  wanted = np.rint(255 * levels * 2 ** (bits - 8) / (2**bits - 1))
  np.testing.assert_array_equal(seen_KC, np.repeat(wanted[:, None], 3, 1))


def test_pictures_in_avif_are_converted_as_videos_are(tmp_path, encode):
  if not {"avif"} <= av.formats_available or "libsvtav1" not in av.codecs_available:
    pytest.skip("this PyAV writes no AVIF")
  for primaries, transfer in ((BT2020, PQ), (BT2020, HLG), (P3, 13), (BT709, 13)):
    frame = tagged(grey(pq(LEVELS)), primaries, transfer)
    path = encode(
      tmp_path / f"{primaries}.{transfer}.avif",
      [frame],
      codec="libsvtav1",
      pix_fmt="yuv420p10le",
      options={"crf": "1", "preset": "10", "svtav1-params": "avif=1"},
      tags={"color_primaries": primaries, "color_trc": transfer, "colorspace": 9},
    )
    (seen_HWC,) = frames(path, MEDIA)
    described = probe(path, MEDIA)
    assert (described.kind, described.width) == ("image", 256)
    with av.open(str(path)) as container:
      source = container.streams.video[0]
      coded = next(container.decode(source))
    wanted_HWC = Painter(source, None)(tagged(coded, primaries, transfer))
    np.testing.assert_allclose(stripes(seen_HWC), stripes(wanted_HWC), atol=1)
