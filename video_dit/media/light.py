"""Colours of frames that are not sRGB: high dynamic range, wide gamuts, limited greys.

PQ and HLG (ITU-R BT.2100) are light on a display of 1,000 cd/m2. They are tone-mapped to
sRGB by the curve of ITU-R BT.2390 (section 5.4, "EETF"), whose target is the reference
white of BT.2408, 203 cd/m2: nothing changes up to 93 cd/m2, and brighter light is
compressed, so that 1,000 cd/m2 becomes white. The gain is that of the brightest channel,
so that hues stay. What a file says about the monitor that it was graded on is not used:
two files with the same pixels look the same.

Primaries of BT.2020 and P3 (D65) become those of sRGB; colours outside are clipped.
Other primaries and curves, such as those of standard definition, count as those of sRGB.
"""

import functools
from typing import NamedTuple

import av
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
import numpy as np

_WHITE, _PEAK = 203.0, 1000.0  # cd/m2
_HIGHEST = _PEAK / _WHITE
_PQ, _HLG = int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)
_WIDE = (int(ColorPrimaries.BT2020), int(ColorPrimaries.SMPTE432))
# Chromaticities x, y of red, green, blue; white is D65 in all (H.273, table 2).
_CHROMATICITIES = {
  ColorPrimaries.BT709: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
  ColorPrimaries.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
  ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_LUMINANCE = np.array((0.2627, 0.6780, 0.0593), np.float32)  # of BT.2020
_STEPS = 4096  # of the table of gains
_ROWS = 32  # converted at once: what they need stays in the cache


def is_converted(primaries: int, transfer: int) -> bool:
  """Whether colours with these code points (ITU-T H.273) must be converted to sRGB."""
  return transfer in (_PQ, _HLG) or primaries in _WIDE


class Colours(NamedTuple):
  """How the 16 bit RGB that swscale makes of a frame becomes sRGB.

  Attributes:
    primaries: code point of H.273: BT.2020, P3, or anything else for those of sRGB.
    transfer: code point of H.273: PQ, HLG, or anything else for the curve of sRGB.
    black: value of black.
    white: value of white, or of the most light.
  """

  primaries: int
  transfer: int
  black: int
  white: int

  def to_srgb(self, pixels_HWC: np.ndarray) -> np.ndarray:
    """Converts uint16 RGB `(H, W, 3)`, or with alpha 4, to uint8; alpha only rounds."""
    made_HWC = np.empty(pixels_HWC.shape, np.uint8)
    made_HWC[..., 3:] = pixels_HWC[..., 3:] >> 8
    for top in range(0, len(pixels_HWC), _ROWS):
      rows = slice(top, top + _ROWS)
      made_HWC[rows, :, :3] = self._rows(pixels_HWC[rows, :, :3])
    return made_HWC

  def _rows(self, pixels_HWC: np.ndarray) -> np.ndarray:
    light_HWC = _linear(self.transfer, self.black, self.white)[pixels_HWC]
    if self.transfer in (_PQ, _HLG):
      peak_HW = np.maximum(light_HWC[..., 0], light_HWC[..., 1])
      np.maximum(peak_HW, light_HWC[..., 2], out=peak_HW)
      gain_HW = 1.0
      if self.transfer == _HLG:  # Of a scene; BT.2100, table 5, gives that of a display.
        gain_HW = _HIGHEST * (light_HWC @ _LUMINANCE) ** np.float32(0.2)
      steps_HW = peak_HW * gain_HW * np.float32((_STEPS - 1) / _HIGHEST)
      gain_HW = gain_HW * _gains()[steps_HW.astype(np.uint16)]
      light_HWC *= gain_HW[..., None]
    if self.primaries in _WIDE:
      light_HWC = light_HWC @ _to_srgb_primaries(self.primaries).T
    np.clip(light_HWC, 0, 1, out=light_HWC)
    light_HWC *= 65535
    light_HWC += 0.5
    return _encoded()[light_HWC.astype(np.uint16)]


def colours(frame: av.VideoFrame, *, managed: bool = False) -> Colours | None:
  """How the colours of a frame become sRGB; None where swscale's RGB is that already.

  Args:
    frame: as decoded.
    managed: a profile says what the colours are, whatever the frame does.
  """
  primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
  if managed:
    primaries = transfer = int(ColorPrimaries.UNSPECIFIED)
  if transfer in (_PQ, _HLG) and primaries == ColorPrimaries.UNSPECIFIED:
    primaries = int(ColorPrimaries.BT2020)
  parts, span = frame.format.components, frame.color_range
  bits = min(16, parts[0].bits)
  grey = len(parts) < 3 and 8 <= parts[0].bits <= 16 and not frame.format.has_palette
  if grey and span == ColorRange.MPEG:
    return Colours(primaries, transfer, 16 << 8, 235 << 8)  # swscale leaves it as it is.
  if not is_converted(primaries, transfer) and not (grey and bits > 8):
    return None  # Of deep greys swscale's 8 bits are up to a level too light.
  # Of luma of limited range swscale makes 255 << 8; other values it shifts.
  full = grey or frame.format.is_rgb or span == ColorRange.JPEG
  return Colours(primaries, transfer, 0, (1 << 16) - (1 << (16 - bits if full else 8)))


@functools.lru_cache(maxsize=32)
def _linear(transfer: int, black: int, white: int) -> np.ndarray:
  """Light of each 16 bit value, `(65536,)`; 1 is the white of sRGB, or HLG's most."""
  signal = np.clip((np.arange(1 << 16) - black) / (white - black), 0, 1)
  if transfer == _PQ:
    light = np.minimum(_pq_to_light(signal) / _WHITE, _HIGHEST)
  elif transfer == _HLG:  # BT.2100, table 5
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
  else:
    light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
  return light.astype(np.float32)


@functools.cache
def _encoded() -> np.ndarray:
  """The level of sRGB for each 65,535th of white, uint8 `(65536,)`."""
  light = np.arange(1 << 16) / 65535
  curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
  return np.rint(255 * curve).astype(np.uint8)


@functools.cache
def _gains() -> np.ndarray:
  """What light is multiplied by, from none to the most in equal steps, `(4096,)`."""
  light = np.linspace(0, _HIGHEST, _STEPS)
  top = _light_to_pq(_PEAK)
  signal, most = _light_to_pq(light * _WHITE) / top, _light_to_pq(_WHITE) / top
  knee = 1.5 * most - 0.5
  t = np.clip((signal - knee) / (1 - knee), 0, 1)
  bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee)
  bent += (-2 * t**3 + 3 * t**2) * most
  mapped = _pq_to_light(np.where(signal < knee, signal, bent) * top) / _WHITE
  gains = np.where(signal < knee, 1.0, mapped / np.maximum(light, 1e-9))
  return gains.astype(np.float32)


_M1, _M2, _C1, _C2, _C3 = 1305 / 8192, 2523 / 32, 107 / 128, 2413 / 128, 2392 / 128


def _pq_to_light(signal: np.ndarray) -> np.ndarray:
  """Light in cd/m2 of a PQ signal (BT.2100, table 4)."""
  power = signal ** (1 / _M2)
  return 1e4 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def _light_to_pq(light: np.ndarray | float) -> np.ndarray:
  power = (np.asarray(light) / 1e4) ** _M1
  return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


@functools.cache
def _to_srgb_primaries(primaries: int) -> np.ndarray:
  """The matrix `(3, 3)` from light of these primaries to that of sRGB's."""

  def to_xyz(place: ColorPrimaries) -> np.ndarray:
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in _CHROMATICITIES[place]]).T
    white = np.array((0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290))
    return xyz * np.linalg.solve(xyz, white)

  ours = to_xyz(ColorPrimaries.BT709)
  return np.linalg.solve(ours, to_xyz(ColorPrimaries(primaries))).astype(np.float32)
