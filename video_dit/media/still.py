"""Images and animated images, read by Pillow: png, jpeg, gif, webp, avif and others.

Colour: profiles other than sRGB are applied; CMYK, palette, grey and 16 bit images
become RGB; what is transparent is composited on white (`colours`). Orientation flags are
applied.
A gif, webp, png or avif with more than one frame is a clip with its own durations;
a duration of 10 ms or less counts as 100 ms, as in browsers. The picture that a png shows
in place of its animation is not part of it. Concatenated JPEGs are a video.
"""

from collections.abc import Iterator
import contextlib
import os
import re
import struct
import warnings

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from video_dit import config
from video_dit.media import boxes, light, motion_jpeg
from video_dit.media.colours import to_rgb
from video_dit.media.errors import MediaError

# Only parsers of real images: no PostScript, no fonts, no streams.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "JPEG2000", "PPM", "QOI")
_SIZES = 1024  # bytes of a JPEG 2000 codestream that hold the depths
_ORIENTATION = 0x0112  # EXIF tag
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_TURNS = {3: 180, 4: 180, 5: -90, 6: -90, 7: 90, 8: 90}  # counter-clockwise degrees


def _too_large(path: str | os.PathLike, said: str, media: config.Media) -> MediaError:
  """Of Pillow's own limit, which may be met before ours."""
  numbers = [int(number) for number in re.findall(r"\d+", said)]
  if not numbers or numbers[0] > media.max_source_pixels:
    has = f"{numbers[0]:,} pixels" if numbers else "more pixels"
    message = f"{has} exceed media.max_source_pixels={media.max_source_pixels}."
  else:
    message = f"{said} This is Pillow's limit; make the picture smaller."
  return MediaError(path, "too_large", message)


def check_size(
  path: str | os.PathLike, height: int, width: int, media: config.Media
) -> None:
  """Refuses frames beyond the limits.

  Args:
    path: the file, for the message.
    height: of a frame, in pixels.
    width: of a frame, in pixels.
    media: limits.

  Raises:
    MediaError: `too_large` or `too_small`.
  """
  if height * width > media.max_source_pixels:
    raise MediaError(
      path,
      "too_large",
      f"{width}x{height} pixels a frame exceed media.max_source_pixels="
      f"{media.max_source_pixels}; raise the limit if the size is genuine.",
    )
  if min(height, width) < media.min_side:
    raise MediaError(
      path,
      "too_small",
      f"a frame of {width}x{height} pixels has a side below media.min_side="
      f"{media.min_side}.",
    )


@contextlib.contextmanager
def open_image(
  path: str | os.PathLike, media: config.Media
) -> Iterator[Image.Image | None]:
  """Opens an image, reading only its header, and checks its declared size.

  Args:
    path: any file.
    media: limits.

  Yields:
    The image, not yet decoded; None where the file is not an image, or FFmpeg reads it
      better: motion JPEG, JPEG 2000 of more than 8 bits, AVIF of other colours than sRGB.

  Raises:
    MediaError: the size is beyond the limits (Pillow's own, 179 million pixels,
      included), or the header is invalid.
  """
  with contextlib.ExitStack() as stack:
    image = None
    try:
      file = stack.enter_context(open(path, "rb"))
      canvas = _webp_canvas(file.read(30))
      if canvas:
        check_size(path, *canvas, media)
      file.seek(0)
      with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = stack.enter_context(Image.open(file, formats=FORMATS))
    except Image.DecompressionBombError as error:
      raise _too_large(path, str(error), media) from None
    except UnidentifiedImageError:
      pass
    except MediaError:
      raise
    except Exception as error:  # Parsers raise anything on broken headers.
      raise MediaError(path, "unreadable", f"the image does not open: {error}") from error
    if image is not None and _is_for_ffmpeg(path, image):
      image = None
    if image is not None:
      check_size(path, image.height, image.width, media)
    yield image


def _is_for_ffmpeg(path: str | os.PathLike, image: Image.Image) -> bool:
  """Whether Pillow would lose what FFmpeg keeps."""
  if image.format == "JPEG":
    return motion_jpeg.is_stream(path)
  with (
    open(path, "rb") as file,
    contextlib.suppress(struct.error, LookupError, ValueError),
  ):
    if image.format == "JPEG2000":
      start = file.read(_SIZES)
      if not start.startswith(b"\xff\x4f"):  # Else it is a codestream, without boxes.
        start = boxes.find(file, b"jp2c", _SIZES)
      (count,) = struct.unpack_from(">H", start, 40)  # ISO/IEC 15444-1, A.5.1
      return any(1 + (bits & 0x7F) > 8 for bits in start[42 : 42 + 3 * count : 3])
    if image.format == "AVIF" and image.mode == "RGB" and "icc_profile" not in image.info:
      found = boxes.items(file)
      described = found.properties.get(found.primary, []) if found else []
      points = [body[4:8] for name, body in described if name + body[:4] == b"colrnclx"]
      return any(light.is_converted(*struct.unpack(">HH", both)) for both in points)
  return False


def orientation(image: Image.Image) -> int:
  """The EXIF orientation, 1 to 8, read without decoding the pixels.

  Args:
    image: an opened image.

  Returns:
    The orientation that is still to be applied; 1 where there is none.
  """
  if image.format == "TIFF":  # Pillow applies it while loading.
    return 1
  if image.format == "PNG" and "exif" not in image.info:  # getexif() would decode.
    return 1
  try:
    value = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # Broken EXIF is not a reason to lose an image.
    return 1
  return value if value in range(1, 9) else 1


def displayed_size(image: Image.Image) -> tuple[int, int]:
  """Height and width in pixels after the orientation is applied."""
  turned = orientation(image) in _TURNED
  return (image.width, image.height) if turned else (image.height, image.width)


def rotation(image: Image.Image) -> int:
  """Counter-clockwise degrees that turn the image upright; it is mirrored afterwards."""
  if isinstance(image, TiffImagePlugin.TiffImageFile):
    return _TURNS.get(image.tag_v2.get(_ORIENTATION, 1), 0)
  return _TURNS.get(orientation(image), 0)


def is_animated(path: str | os.PathLike, image: Image.Image) -> bool:
  """Whether an opened image moves; pages and stereo pairs do not.

  Args:
    path: the file, for messages.
    image: an opened image.

  Raises:
    MediaError: `damaged` where the second image of a gif is invalid.
  """
  if image.format not in ("GIF", "WEBP", "PNG", "AVIF"):
    return False
  try:
    return getattr(image, "is_animated", False)
  except Exception as error:  # Parsers raise anything on broken files.
    raise MediaError(path, "damaged", f"image 1 is invalid: {error}") from error


def shown(
  path: str | os.PathLike, image: Image.Image
) -> Iterator[tuple[float, float, np.ndarray]]:
  """Frames of an image with the time at which each is shown.

  Args:
    path: the file, for messages.
    image: an opened image, its size checked.

  Yields:
    `(seconds, duration_seconds, frame_HWC)`, the uint8 RGB frames as displayed; an
    image that does not move is one frame at 0 s that lasts 0 s.

  Raises:
    MediaError: `truncated`, `damaged` or `unsupported`.
  """
  turn = orientation(image)
  seconds = 0.0
  # A png's fallback picture need not be part of its animation.
  first = 1 if getattr(image, "default_image", False) else 0
  for index in range(first, 1 << 31):
    try:
      if index:
        image.seek(index)
      image.load()
      duration = _duration(image)
      frame_HWC = _upright(to_rgb(path, image), turn)
      animated = is_animated(path, image)
    except EOFError:
      break
    except MediaError:
      raise
    except Exception as error:  # Decoders raise anything on broken files.
      reason = "truncated" if "truncated" in str(error) else "damaged"
      raise MediaError(path, reason, f"image {index} does not decode: {error}") from error
    yield seconds, duration if animated else 0.0, frame_HWC
    if not animated:
      return
    seconds += duration
  if image.format == "GIF" and not _has_trailer(path):
    raise MediaError(path, "truncated", "the gif ends without its trailer.")


def _upright(image: Image.Image, turn: int) -> np.ndarray:
  """uint8 pixels `(H, W, 3)` of an RGB image, an EXIF orientation applied."""
  return np.array(image.transpose(_UPRIGHT[turn]) if turn != 1 else image)


def _duration(image: Image.Image) -> float:
  """Seconds that the loaded frame of an animation is shown."""
  milliseconds = float(image.info.get("duration") or 0)
  return (milliseconds if milliseconds > 10 else 100.0) / 1000


def _has_trailer(path: str | os.PathLike) -> bool:
  """Whether a gif's blocks end with a trailer, whatever follows it (GIF89a, 27)."""
  with open(path, "rb") as file:

    def skip_colours(flags: int) -> None:
      file.seek(3 << (flags & 7) + 1 if flags & 0x80 else 0, os.SEEK_CUR)

    def skip_blocks() -> None:
      while size := file.read(1):
        if not size[0]:
          return
        file.seek(size[0], os.SEEK_CUR)

    file.seek(10)  # after the signature and the screen's size
    skip_colours(int.from_bytes(file.read(3)[:1]))
    while kind := file.read(1):
      if kind == b";":
        return True
      if kind == b"!":
        file.seek(1, os.SEEK_CUR)
        skip_blocks()
      elif kind == b",":
        skip_colours(int.from_bytes(file.read(9)[8:]))
        file.seek(1, os.SEEK_CUR)
        skip_blocks()
  return False


def _webp_canvas(header: bytes) -> tuple[int, int] | None:
  """Height and width that a webp declares: Pillow allocates it while opening."""
  if len(header) < 30 or header[:4] != b"RIFF" or header[8:12] != b"WEBP":
    return None
  if header[12:16] == b"VP8X":
    width, height = header[24:27], header[27:30]
    return 1 + int.from_bytes(height, "little"), 1 + int.from_bytes(width, "little")
  if header[12:16] == b"VP8L":
    bits = struct.unpack("<I", header[21:25])[0]
    return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
  width, height = struct.unpack("<HH", header[26:30])
  return height & 0x3FFF, width & 0x3FFF
