"""Pixels of Pillow's images as RGB: depth, profile, transparency."""

from collections.abc import Mapping
import io
import os
from typing import Any

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from video_dit.media.errors import MediaError

_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # by the colour space of a profile

_BITS, _PHOTOMETRIC = 0x0102, 0x0106  # TIFF tags


def to_rgb(path: str | os.PathLike, image: Image.Image) -> Image.Image:
  """Converts a loaded image to RGB.

  Args:
    path: the file, for messages.
    image: a loaded image of any mode.

  Returns:
    The image in mode RGB: 16 bits scaled to 8, colours converted from its profile to
    sRGB, then transparency composited on white.

  Raises:
    MediaError: `unsupported` for floating-point pixels, whose white is unknown.
  """
  if image.mode == "F":
    raise MediaError(path, "unsupported", "floating-point pixels; convert it to 8 bits.")
  profile, opacity = image.info.get("icc_profile"), None
  if image.mode.startswith("I"):
    grey_HW = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
      grey_HW = _as_16_bits(grey_HW, image.tag_v2)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
      opacity = Image.fromarray((grey_HW != clear).astype(np.uint8) * 255)
    image = Image.fromarray(((grey_HW + 128) // 257).astype(np.uint8))
  elif image.has_transparency_data:
    over = image.convert("RGBA")
    opacity = over.getchannel("A")
    image = image.convert("L") if image.mode == "LA" else over.convert("RGB")
  seen = standard_colour(image, profile)
  if opacity is None:
    return seen
  seen.putalpha(opacity)
  white = Image.new("RGBA", seen.size, "white")
  white.alpha_composite(seen)
  return white.convert("RGB")


def _as_16_bits(grey_HW: np.ndarray, tags: Mapping[int, Any]) -> np.ndarray:
  """Grey of a TIFF, whose 12 bits and whose white of 0 Pillow leaves as they are."""
  bits = tags.get(_BITS, (16,))[0]
  if bits < 16:
    grey_HW = grey_HW * 65535 // ((1 << bits) - 1)
  return 65535 - grey_HW if tags.get(_PHOTOMETRIC) == 0 else grey_HW


def standard_colour(image: Image.Image, profile: bytes | None) -> Image.Image:
  """Converts colours from an ICC profile to sRGB.

  Args:
    image: opaque, of 8 bits.
    profile: of its colours; with None, or a broken one, the conversion is a plain one.
  """
  if profile:
    try:
      source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
      name = ImageCms.getProfileDescription(source)
      space = _MODES.get(source.profile.xcolor_space.strip(), "")
      fits = (image.mode == "CMYK") == (space == "CMYK")
      if space and fits and (space == "CMYK" or "sRGB" not in name):
        target = ImageCms.createProfile("sRGB")
        plain = image.convert(space)
        seen = ImageCms.profileToProfile(plain, source, target, outputMode="RGB")
        return seen or image.convert("RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
      pass  # A broken profile is ignored; the pixels are still good.
  return image.convert("RGB")
