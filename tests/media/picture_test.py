"""Frames in planes of RGB hold what swscale makes of them in packed RGB."""

import gc

import av
from av.video.reformatter import Interpolation, VideoReformatter
import einops
import numpy as np
import pytest

from video_dit import config
from video_dit.media import decode, picture, write

_SIZE = (54, 96)
_FULL = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
  """A stream of square pixels."""
  path = tmp_path_factory.mktemp("picture") / "clip.mkv"
  with av.open(str(path), "w") as container:
    made = container.add_stream("ffv1", rate=8)
    made.height, made.width, made.pix_fmt = (*_SIZE, "yuv420p")
    frame = av.VideoFrame.from_ndarray(np.zeros((*_SIZE, 3), np.uint8))
    container.mux(made.encode(frame.reformat(format="yuv420p")) + made.encode())
  with av.open(str(path)) as container:
    yield container.streams.video[0]


def _frame(name: str) -> av.VideoFrame:
  """Saturated colours, hard edges and, where the format has it, transparency."""
  rng = np.random.default_rng(0)
  blocks = rng.choice([0, 60, 255], size=(9, 16, 4)).astype(np.uint8)
  pixels = einops.repeat(blocks, "h w c -> (h a) (w b) c", a=6, b=6)
  if name == "pal8":
    colours = rng.integers(256, size=(256, 4), dtype=np.uint8)
    return av.VideoFrame.from_ndarray((pixels[..., 0], colours), format="pal8")
  frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgba")
  return frame.reformat(format=name, interpolation=_FULL)


@pytest.mark.parametrize("size", [_SIZE, (40, 70), (81, 101)], ids=str)
@pytest.mark.parametrize(
  "name",
  "yuv420p yuvj420p yuv444p yuv420p10le nv12 uyvy422 yuva420p yuva444p gray rgb24 bgra"
  " gbrp gbrap pal8".split(),
)
def test_planes_hold_the_packed_values(stream, name, size):
  frame = _frame(name)
  alpha = name in ("yuva420p", "yuva444p", "bgra", "gbrap", "pal8")
  wanted_HWC = (
    VideoReformatter()
    .reformat(
      frame,
      *reversed(size),
      format="rgba" if alpha else "rgb24",
      interpolation=_FULL,
      src_colorspace="ITU601" if name.startswith(("yuv", "nv", "uyvy")) else None,
    )
    .to_ndarray()
  )
  if alpha:
    share_HW1 = wanted_HWC[..., 3:] / 255
    wanted_HWC = np.rint(wanted_HWC[..., :3] * share_HW1 + 255 * (1 - share_HW1))
  found_HWC = picture.Painter(stream, size)(frame)
  assert found_HWC.shape == (*size, 3) and found_HWC.dtype == np.uint8
  assert found_HWC.flags.c_contiguous
  assert len(np.unique(found_HWC)) > 1
  # Without alpha they are equal; compositing rounds halves its own way.
  np.testing.assert_allclose(found_HWC, wanted_HWC, atol=1 if alpha else 0)


@pytest.mark.parametrize("name", ["yuv420p", "yuvj420p", "yuv422p"])
def test_turned_frames_have_exact_colours(stream, name, monkeypatch):
  frame = _frame(name)
  exact_HWC = (
    VideoReformatter()
    .reformat(
      frame,
      format="rgb24",
      interpolation=_FULL | Interpolation.ACCURATE_RND,
      src_colorspace="ITU601",
    )
    .to_ndarray()
  )
  turn = picture._Turn(transposed=True)
  monkeypatch.setattr(picture, "_display_matrix", lambda frame: turn)
  found_HWC = picture.Painter(stream, _SIZE[::-1])(frame)
  wanted_HWC = einops.rearrange(exact_HWC, "h w c -> w h c")
  assert np.abs(found_HWC.astype(int) - wanted_HWC).mean() < 0.2


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
  "name", "yuv422p nv12 uyvy422 yuyv422 vuyx vuya ayuv64le y210le xv30le xv36le".split()
)
def test_the_matrix_follows_from_the_size_in_every_layout(stream, name, large):
  green = np.full((576, 1024 if large else 720, 3), [40, 160, 20], np.uint8)
  matrix = "ITU709" if large else "ITU601"
  # Packed formats are made of planes: what swscale makes of RGB by itself is BT.601.
  planes = av.VideoFrame.from_ndarray(green).reformat(
    format="yuv444p", dst_colorspace=matrix, interpolation=_FULL
  )
  frame = planes.reformat(format=name)
  frame.colorspace = 2
  found_HWC = picture.Painter(stream, _SIZE)(frame)
  assert np.abs(found_HWC.astype(int) - green[0, 0]).max() <= 3


def test_no_frame_outlives_its_picture(tmp_path):
  path = tmp_path / "clip.mp4"  # x264 says its settings in side data.
  write.write_video(path, [np.full((64, 96, 3), 9 * i, np.uint8) for i in range(24)], 8)
  gc.collect()
  gc.disable()
  try:
    count = sum(1 for _ in decode.frames(path, config.Media(frames_per_second=0.0)))
    alive = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
  finally:
    gc.enable()
  assert count == 24
  assert alive <= 2
