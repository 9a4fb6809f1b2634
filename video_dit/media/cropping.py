"""The part of a video's frames that its container says is shown.

`clap` in MP4 and QuickTime, PixelCrop in Matroska; FFmpeg's library reads them, PyAV does
not show them. What a codec itself cuts off is cut off by its decoder.
"""

import struct
from typing import BinaryIO, NamedTuple

import av

from video_dit.media import boxes, elements

_HEADER = 78  # bytes of a video sample entry before its boxes
_VIDEO, _TYPE = 0xE0, 0x83
_SIDES = (0x54BB, 0x54AA, 0x54CC, 0x54DD)  # top, bottom, left, right


class Crop(NamedTuple):
  """Rows and columns that are cut off a frame as coded."""

  top: int
  bottom: int
  left: int
  right: int

  def size(self, height: int, width: int) -> tuple[int, int]:
    """Height and width of what is left of a frame; at least a pixel must be."""
    left = height - self.top - self.bottom, width - self.left - self.right
    return left if min(left) > 0 else (height, width)


NONE = Crop(0, 0, 0, 0)


def find(
  path: str, container: av.container.InputContainer, stream: av.VideoStream
) -> Crop:
  """Reads what a container cuts off the frames of a stream.

  Args:
    path: of the file that the container was opened from.
    container: whose format says how to read it.
    stream: of the container.

  Returns:
    The crop; `NONE` where nothing is declared, or what is declared is invalid.
  """
  try:
    with open(path, "rb") as file:
      if "mp4" in container.format.name:
        return _clean_aperture(file, stream.id)
      if "matroska" in container.format.name:
        return _pixel_crop(file, container.streams.video.index(stream))
  except (OSError, struct.error, LookupError, ValueError, ZeroDivisionError):
    pass  # The frames are still good.
  return NONE


def _clean_aperture(file: BinaryIO, track: int) -> Crop:
  for name, body in boxes.read(boxes.find(file, b"moov")):
    found = dict(boxes.read(body)) if name == b"trak" else {}
    head = found.get(b"tkhd", b"")
    if head[20 if head[:1] == b"\1" else 12 :][:4] != struct.pack(">I", track):
      continue
    inner = found[b"mdia"]
    for step in (b"minf", b"stbl", b"stsd"):
      inner = dict(boxes.read(inner))[step]
    _, entry = next(boxes.read(inner[8:]), (b"", b""))
    aperture = dict(boxes.read(entry[_HEADER:])).get(b"clap")
    if aperture is not None:
      width, height = struct.unpack_from(">HH", entry, 24)
      top, left, tall, wide = boxes.clean_aperture(aperture, height, width)
      sides = top, height - top - tall, left, width - left - wide
      return Crop(*(max(0, side) for side in sides))
  return NONE


def _pixel_crop(file: BinaryIO, number: int) -> Crop:
  """That of the n-th video track."""
  data = elements.tracks(file)
  entries = [dict(elements.children(body)) for _, body in elements.children(data)]
  videos = [dict(elements.children(e[_VIDEO])) for e in entries if e.get(_TYPE) == b"\1"]
  return Crop(*(int.from_bytes(videos[number].get(side, b"")) for side in _SIDES))
