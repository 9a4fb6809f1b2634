"""Motion JPEG: concatenated pictures, whose first bytes look like a single JPEG.

Phones, too, append a second JPEG to a picture: a gain map, depth, the other eye. Such a
picture has EXIF or an index of its parts; a stream has neither, and its pictures have one
size.
"""

import mmap
import os
import re

_END = 0xD9
_START_OF_SCAN = 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF markers, which hold the size
_PHOTOS = ((0xE1, b"Exif"), (0xE2, b"MPF\0"))
# Within coded pixels 0xff is followed by 0 or by a restart marker.
_MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def is_stream(path: str | os.PathLike) -> bool:
  """Whether a file begins with two JPEGs of one size that are not parts of a photo."""
  with open(path, "rb") as file:
    if file.read(3) != b"\xff\xd8\xff":
      return False
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
      first, end = _picture(data, 0)
      if first is None or data[end : end + 3] != b"\xff\xd8\xff":
        return False
      return first == _picture(data, end)[0]


def _picture(data: mmap.mmap, start: int) -> tuple[bytes | None, int]:
  """The size of a JPEG, as coded, and its end; None for a photo or a broken one."""
  size, at = None, start + 2
  while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
    kind = data[at + 1]
    if kind == 0xFF:
      at += 1
      continue
    if any(kind == mark and data[at + 4 : at + 8] == name for mark, name in _PHOTOS):
      return None, at
    if kind in _FRAMES:
      size = data[at + 5 : at + 9]
    at += 2 + int.from_bytes(data[at + 2 : at + 4])
    if kind == _START_OF_SCAN:
      found = _MARK.search(data, at)
      if found is None:
        return None, at
      at = found.start()
    if data[at : at + 2] == bytes((0xFF, _END)):
      return size, at + 2
  return None, at
