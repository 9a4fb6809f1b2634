"""One decoded frame of PyAV as RGB pixels: colour, orientation, square pixels.

Range and matrix are those that the frame declares; where it declares no matrix, frames
of at most 720x576 pixels are BT.601 and larger ones BT.709, as players have it. High
dynamic range (PQ, HLG) is tone-mapped to sRGB. Transparent pixels are laid on white.
Interlaced frames stay as they are.
"""

import functools
import struct
import threading
from typing import Any

import av
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import (
  ColorPrimaries,
  Colorspace,
  ColorTrc,
  Interpolation,
  VideoReformatter,
)
import einops
import numpy as np

_STANDARD_DEFINITION = 720 * 576
_UNSPECIFIED = (2, 3)  # AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_RESERVED
# Of counter-clockwise degrees: transpose, reverse rows, reverse columns.
_TURNS = {
  0: (False, False, False),
  90: (True, True, False),
  180: (False, True, True),
  270: (True, False, True),
}
_HIGH_DYNAMIC_RANGE = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


def displayed_size(
  stream: av.VideoStream, frame: av.VideoFrame | None = None
) -> tuple[int, int]:
  """Height and width with square pixels, upright where a frame is given.

  Args:
    stream: gives the shape of a pixel, and the size where there is no frame.
    frame: gives size and orientation.

  Returns:
    `(height, width)` in pixels; the height of an unturned frame is kept, its width
    multiplied by the sample aspect ratio.
  """
  source = stream if frame is None else frame
  ratio = float(stream.sample_aspect_ratio or 1) or 1.0
  height, width = source.height, max(1, round(source.width * ratio))
  if frame is not None and _display_matrix(frame)[0]:
    return width, height
  return height, width


class Painter:
  """Makes RGB frames of one size from the decoded frames of one stream."""

  def __init__(self, stream: av.VideoStream, size: tuple[int, int] | None):
    """Prepares for a stream.

    Args:
      stream: that the frames come from.
      size: `(height, width)` of the frames made; None is each frame's displayed size.
    """
    self.stream, self.size = stream, size
    self.scale = VideoReformatter()

  def __call__(self, frame: av.VideoFrame) -> np.ndarray:
    """The uint8 RGB pixels `(H, W, 3)` of a frame: upright, square, of the size."""
    transposed, flip_rows, flip_columns = _display_matrix(frame)
    height, width = self.size or displayed_size(self.stream, frame)
    if transposed:
      height, width = width, height
    pixels_HWC = self._rgb(frame, height, width)
    if transposed:
      pixels_HWC = einops.rearrange(pixels_HWC, "h w c -> w h c")
    if flip_rows:
      pixels_HWC = pixels_HWC[::-1]
    if flip_columns:
      pixels_HWC = pixels_HWC[:, ::-1]
    return np.ascontiguousarray(pixels_HWC)

  def _rgb(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    work = {"width": width, "height": height, "threads": 1}
    # Full chroma keeps saturated colours exact; it counts only where sizes change.
    work["interpolation"] = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT
    if frame.colorspace in _UNSPECIFIED and _is_luma_chroma(frame):
      large = frame.height * frame.width > _STANDARD_DEFINITION
      work["src_colorspace"] = Colorspace.ITU709 if large else Colorspace.ITU601
    if _has_alpha(frame.format.name):
      return _on_white(self.scale.reformat(frame, format="rgba", **work).to_ndarray())
    if frame.color_trc not in _HIGH_DYNAMIC_RANGE:
      return self.scale.reformat(frame, format="rgb24", **work).to_ndarray()
    # Mapping tones costs far more than resizing, so it comes second.
    small = self.scale.reformat(frame, format=frame.format.name, **work)
    mapper = _tone_mapper(
      threading.get_ident(), height, width, frame.format.name, frame.color_trc
    )
    standard = mapper.reformat(
      small,
      format="rgb24",
      dst_color_trc=ColorTrc.IEC61966_2_1,
      dst_color_primaries=ColorPrimaries.BT709,
      threads=1,
    )
    return standard.to_ndarray()


@functools.lru_cache(maxsize=16)
def _tone_mapper(*work) -> VideoReformatter:
  """One for each kind of work: its tables take seconds, and changed work drops them."""
  del work
  return VideoReformatter()


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
  return frame.format.name.startswith(("yuv", "nv", "p0", "p2", "p4", "uyvy", "yvyu"))


def _display_matrix(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
  """What brings a frame upright: transpose, then reverse rows, then columns."""
  try:
    data: Any = frame.side_data.get(SideData.DISPLAYMATRIX)  # type: ignore[call-overload]
  except ValueError:  # PyAV does not know the type of some other side data.
    return _TURNS.get(frame.rotation % 360, _TURNS[0])
  if data is None:
    return _TURNS[0]
  # x' = a x + c y and y' = b x + d y, each entry in 16.16 fixed point.
  a, b, _, c, d, *_ = struct.unpack("<9i", bytes(data)[:36])
  if abs(a) + abs(d) >= abs(b) + abs(c):
    return False, d < 0, a < 0
  return True, b < 0, c < 0
