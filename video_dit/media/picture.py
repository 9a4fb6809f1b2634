"""One decoded frame of PyAV as RGB pixels: colour, orientation, square pixels.

Range and matrix are those that the frame declares; where it declares no matrix, frames
of at most 720x576 pixels are BT.601 and larger ones BT.709, as in players. High dynamic
range and wide gamuts become sRGB (`light`). What the container says is not shown is cut
off before frames are scaled. Transparent pixels are composited on white. Interlaced
frames stay as they are.
"""

import functools
import struct
from typing import Any, NamedTuple

import av
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
import numpy as np

from video_dit.media import cropping, light

_STANDARD_DEFINITION = 720 * 576
_UNSPECIFIED = (2, 3)  # AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_RESERVED
# Formats that swscale converts to packed RGB fast where sizes stay, by tables: 1.6 to 2
# levels off on average, 0.3 to 0.9 too dark. Planar RGB is exact up to rounding; for
# these formats it takes 1.2 ms longer for 854x480, as long as decoding h264 does, for
# others half or a third of the time of packed RGB (measured with swscale 9.5).
_QUICK = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuva420p")


class _Turn(NamedTuple):
  """How to turn a frame upright: axes to transpose first, then to reverse."""

  transposed: bool = False
  flips_rows: bool = False
  flips_columns: bool = False

  @property
  def rotation(self) -> int:
    """Counter-clockwise degrees; then, if it mirrors, left and right are exchanged."""
    if self.transposed:
      return 90 if self.flips_rows else -90
    return 180 if self.flips_rows else 0


# By counter-clockwise degrees.
_TURNS = {
  0: _Turn(),
  90: _Turn(transposed=True, flips_rows=True),
  180: _Turn(flips_rows=True, flips_columns=True),
  270: _Turn(transposed=True, flips_columns=True),
}


def displayed_size(
  stream: av.VideoStream,
  frame: av.VideoFrame | None = None,
  crop: cropping.Crop = cropping.NONE,
) -> tuple[int, int]:
  """Height and width with square pixels, upright where a frame is given.

  Args:
    stream: gives the shape of a pixel, and the size where there is no frame.
    frame: gives size and orientation.
    crop: what is cut off the frame as coded.

  Returns:
    `(height, width)` in pixels; the height of an unturned frame is kept, its width
    multiplied by the sample aspect ratio.
  """
  source = stream if frame is None else frame
  ratio = float(stream.sample_aspect_ratio or 1) or 1.0
  height, width = crop.size(source.height, source.width)
  width = max(1, round(width * ratio))
  if frame is not None and _display_matrix(frame).transposed:
    return width, height
  return height, width


class Painter:
  """Converts the decoded frames of one stream to RGB frames of one size."""

  def __init__(
    self,
    stream: av.VideoStream,
    size: tuple[int, int] | None,
    *,
    crop: cropping.Crop = cropping.NONE,
    upright: bool = True,
    managed: bool = False,
  ):
    """Prepares for a stream.

    Args:
      stream: that the frames come from.
      size: `(height, width)` of the result; None is each frame's displayed size.
      crop: what is cut off each frame.
      upright: turns frames as they declare; else they stay as coded.
      managed: the caller converts colours by a profile; else they become sRGB here.
    """
    self.stream, self.size, self.crop = stream, size, crop
    self.upright, self.managed = upright, managed
    # Each remembers its last work, and prepares for another anew.
    self.scale, self.whole = VideoReformatter(), VideoReformatter()

  def __call__(self, frame: av.VideoFrame) -> np.ndarray:
    """The uint8 RGB pixels `(H, W, 3)` of a frame: upright, square, of the size."""
    turn = _display_matrix(frame) if self.upright else _Turn()
    height, width = self.size or displayed_size(self.stream, frame, self.crop)
    if turn.transposed:
      height, width = width, height
    cut = self.crop.size(frame.height, frame.width) != (frame.height, frame.width)
    resized = (height, width) != (frame.height, frame.width)
    quick = not _is_luma_chroma(frame) or frame.format.name in _QUICK
    seen = light.colours(frame, managed=self.managed)
    alpha = _has_alpha(frame.format.name)
    if quick and seen is None and not (resized or cut or any(turn)):
      packed = _reformat(self.scale, frame, height, width, "rgba" if alpha else "rgb24")
      pixels_HWC = packed.to_ndarray()
    else:
      name = ("gbrap" if alpha else "gbrp") + ("16le" if seen else "")
      if cut:
        whole = _reformat(self.whole, frame, frame.height, frame.width, name)
        frame = _cropped(whole, self.crop)
      pixels_HWC = _interleave(_reformat(self.scale, frame, height, width, name), turn)
    pixels_HWC = seen.to_srgb(pixels_HWC) if seen else pixels_HWC
    return _on_white(pixels_HWC) if alpha else np.ascontiguousarray(pixels_HWC)


def _reformat(
  scale: VideoReformatter, frame: av.VideoFrame, height: int, width: int, name: str
) -> av.VideoFrame:
  """Scales a frame to RGB of a format, by the range and matrix of its colours."""
  work = {"width": width, "height": height, "threads": 1}
  # Full chroma keeps saturated colours exact; it matters only where sizes change.
  work["interpolation"] = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT
  if name.startswith("gbr"):  # Else tables are used here as well, 3 levels off.
    work["interpolation"] |= Interpolation.ACCURATE_RND
  if frame.colorspace in _UNSPECIFIED and _is_luma_chroma(frame):
    large = frame.height * frame.width > _STANDARD_DEFINITION
    work["src_colorspace"] = Colorspace.ITU709 if large else Colorspace.ITU601
  return scale.reformat(frame, format=name, **work)


def _cropped(frame: av.VideoFrame, crop: cropping.Crop) -> av.VideoFrame:
  """A part of a frame in planes of RGB."""
  height, width = crop.size(frame.height, frame.width)
  part = av.VideoFrame(width, height, frame.format.name)
  for source_HW, target in zip(_planes(frame), part.planes, strict=True):
    values_HW = source_HW[crop.top : crop.top + height, crop.left : crop.left + width]
    room = target.line_size // values_HW.itemsize - width
    target.update(np.pad(values_HW, ((0, 0), (0, room))).tobytes())
  return part


def _planes(frame: av.VideoFrame) -> list[np.ndarray]:
  """The values `(H, W)` of each plane of RGB, of 8 or 16 bits."""
  depth = np.uint16 if frame.format.name.endswith("16le") else np.uint8
  lines = (np.asarray(memoryview(plane)).view(depth) for plane in frame.planes)
  return [line.reshape(frame.height, -1)[:, : frame.width] for line in lines]


def _interleave(frame: av.VideoFrame, turn: _Turn) -> np.ndarray:
  """The pixels `(H, W, 3)`, or with alpha 4, of a frame in planes G, B, R, A, upright."""
  height, width = frame.height, frame.width
  shape = (width, height) if turn.transposed else (height, width)
  planes = _planes(frame)
  pixels_HWC = np.empty((*shape, len(planes)), planes[0].dtype)
  for channel, values_HW in zip((1, 2, 0, 3), planes, strict=False):
    if turn.transposed:
      values_HW = values_HW.T
    rows = slice(None, None, -1 if turn.flips_rows else 1)
    columns = slice(None, None, -1 if turn.flips_columns else 1)
    pixels_HWC[..., channel] = values_HW[rows, columns]
  return pixels_HWC


def _on_white(pixels_HWC: np.ndarray) -> np.ndarray:
  """Composites uint8 RGBA on white, rounding to nearest."""
  opacity_HW1 = pixels_HWC[..., 3:].astype(np.uint16)
  over_HWC = pixels_HWC[..., :3] * opacity_HW1 + 255 * (255 - opacity_HW1)
  return ((over_HWC + 127) // 255).astype(np.uint8)


@functools.cache
def _has_alpha(name: str) -> bool:
  """Whether pixels of a format can be transparent; a palette may hold such colours."""
  format = av.VideoFormat(name)
  return format.has_palette or any(part.is_alpha for part in format.components)


def _is_luma_chroma(frame: av.VideoFrame) -> bool:
  """Whether pixels are YUV rather than RGB, grey or a palette."""
  format = frame.format
  colours = sum(not part.is_alpha for part in format.components)
  return colours == 3 and not format.is_rgb and not format.name.startswith("xyz")


def rotation(frame: av.VideoFrame) -> int:
  """Counter-clockwise degrees that turn a frame upright: -90, 0, 90 or 180.

  Where it is also mirrored, they are those after which left and right are exchanged.
  """
  return _display_matrix(frame).rotation


def _display_matrix(frame: av.VideoFrame) -> _Turn:
  """How to turn a frame upright."""
  try:
    # Not the frame's own `side_data`: once made, the two refer to each other, and frames
    # stay until the garbage collector runs; 70 frames of 4K took 0.9 GB.
    found = SideDataContainer(frame)  # type: ignore[call-arg]
    data: Any = found.get(SideData.DISPLAYMATRIX)  # type: ignore[call-overload]
  except ValueError:  # PyAV does not know the type of some other side data.
    return _TURNS.get(frame.rotation % 360, _TURNS[0])
  if data is None:
    return _TURNS[0]
  # x' = a x + c y and y' = b x + d y, each entry in 16.16 fixed point.
  a, b, _, c, d, *_ = struct.unpack("<9i", bytes(data)[:36])
  if abs(a) + abs(d) >= abs(b) + abs(c):
    return _Turn(False, d < 0, a < 0)
  return _Turn(True, b < 0, c < 0)
