"""Boxes of the ISO base media file format, as far as pictures and crops need them."""

from collections.abc import Iterator
import dataclasses
import struct
from typing import BinaryIO

_MOST_BYTES = 1 << 24  # of the boxes that describe a file
_SMALL_BYTES = 1 << 10  # of an item that says how others are combined
_FAR = 1 << 42  # past the end of any file


@dataclasses.dataclass(frozen=True)
class Items:
  """What a file says about its pictures, coded or derived from others.

  Attributes:
    primary: number of the item that is shown.
    kinds: of the items by number: `hvc1`, `grid`, ...
    sources: numbers of the items that an item is derived from.
    properties: names and contents of the boxes that describe an item, in order.
    places: whether an item lies in `inner` (else in the file), and its parts there: first
      byte and number of bytes.
    inner: contents of a box that holds small items.
  """

  primary: int
  kinds: dict[int, bytes]
  sources: dict[int, tuple[int, ...]]
  properties: dict[int, list[tuple[bytes, bytes]]]
  places: dict[int, tuple[bool, list[tuple[int, int]]]]
  inner: bytes

  def content(self, file: BinaryIO, item: int) -> bytes:
    """The bytes of a small item."""
    is_inner, parts = self.places[item]
    content = b""
    for start, length in parts:
      length = min(length, _SMALL_BYTES - len(content))
      if length <= 0:
        break
      if is_inner:
        content += self.inner[start : start + length]
      else:
        if start > _FAR:
          raise ValueError(f"an item at byte {start:,}")
        file.seek(start)
        content += file.read(length)
    return content


def items(file: BinaryIO) -> Items | None:
  """Reads which pictures a file has; None where it has none, or also a video.

  Args:
    file: of the MP4 family.

  Raises:
    struct.error, LookupError, ValueError: the boxes are invalid.
  """
  meta = _meta(file)
  found = dict(read(meta[4:])) if meta is not None else {}
  if meta is None or b"pitm" not in found or b"iinf" not in found:
    return None
  primary = _Reader(found[b"pitm"])
  return Items(
    primary=primary.number(4 if primary.version else 2),
    kinds=_kinds(found[b"iinf"]),
    sources=_sources(found.get(b"iref", bytes(4))),
    properties=_properties(found.get(b"iprp", b"")),
    places=_places(found.get(b"iloc", bytes(8))),
    inner=found.get(b"idat", b""),
  )


def is_cut(file: BinaryIO) -> bool:
  """Whether the last box at the top of a file reaches beyond its end."""
  end, at = file.seek(0, 2), 0
  while at + 8 <= end:
    file.seek(at)
    head = file.read(16)
    length = int.from_bytes(head[:4])
    if length == 1:
      length = int.from_bytes(head[8:])
    if length < 8:  # 0 is a box that reaches to the end.
      return False
    at += length
  return at > end


def read(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Names and contents of the boxes that follow each other.

  Raises:
    ValueError: one reaches beyond the end.
  """
  at = 0
  while at + 8 <= len(data):
    length, name, used = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], 8
    if length == 1:
      length, used = int.from_bytes(data[at + 8 : at + 16]), 16
    end = at + length if length else len(data)
    if end < at + used or end > len(data):
      raise ValueError(f"a box {name!r} of {length} bytes")
    yield name, data[at + used : end]
    at = end


def find(file: BinaryIO, name: bytes, most: int = _MOST_BYTES) -> bytes:
  """The contents of the first box of a name at the top of a file.

  Args:
    file: any; in one that is no run of boxes nothing is found.
    name: of the box.
    most: bytes to read.

  Returns:
    The contents, no more than `most`; none where there is no such box.
  """
  end, at = file.seek(0, 2), 0
  while at + 8 <= end:
    file.seek(at)
    head = file.read(16)
    length, used = int.from_bytes(head[:4]), 8
    if length == 1:
      length, used = int.from_bytes(head[8:]), 16
    length = length or end - at  # 0 is a box that reaches to the end.
    if length < used:
      break
    if head[4:8] == name:
      file.seek(at + used)
      return file.read(min(length - used, most))
    at += length
  return b""


def clean_aperture(body: bytes, height: int, width: int) -> tuple[int, int, int, int]:
  """The part of a picture that a `clap` box shows (ISO/IEC 14496-12, 12.1.4).

  Args:
    body: contents of the box: a size, and how far its middle is from the middle.
    height: of the picture, in pixels.
    width: of the picture, in pixels.

  Returns:
    The first row, the first column, the number of rows and of columns.

  Raises:
    struct.error, ZeroDivisionError: the box is invalid.
  """
  fields = struct.unpack(">4I4i", body[:32])
  wide, tall, right, down = (fields[i] / fields[i + 1] for i in (0, 2, 4, 6))
  top = max(0, round((height - tall) / 2 + down))
  left = max(0, round((width - wide) / 2 + right))
  return top, left, round(tall), round(wide)


def _meta(file: BinaryIO) -> bytes | None:
  """The box of the items; None where there is none, or there are tracks."""
  meta = None
  while len(head := file.read(8)) == 8:
    length, name, used = int.from_bytes(head[:4]), head[4:], 8
    if length == 1:
      length, used = int.from_bytes(file.read(8)), 16
    if name == b"moov":
      return None
    end = file.tell() + length - used
    if length and (length < used or end > _FAR):
      if meta is not None:  # What follows is not a box.
        break
      raise ValueError(f"a box {name!r} of {length} bytes")
    if name == b"meta":
      meta = file.read(min(length - used, _MOST_BYTES) if length else _MOST_BYTES)
    elif length:
      file.seek(end)
    if not length:  # The last box reaches to the end of the file.
      break
  return meta


class _Reader:
  """Reads the numbers of a box with a version."""

  def __init__(self, box: bytes):
    self.version, self.flags = box[0], int.from_bytes(box[1:4])
    self.box, self.at = box, 4

  def number(self, size: int) -> int:
    """The next number, of `size` bytes; 0 if that is 0."""
    if self.at + size > len(self.box):
      raise ValueError("a box ends early")
    self.at += size
    return int.from_bytes(self.box[self.at - size : self.at])


def _kinds(box: bytes) -> dict[int, bytes]:
  kinds = {}
  for name, entry in read(box[8 if box[0] else 6 :]):
    reader = _Reader(entry)
    if name == b"infe" and reader.version >= 2:
      item = reader.number(4 if reader.version > 2 else 2)
      reader.number(2)
      kinds[item] = entry[reader.at : reader.at + 4]
  return kinds


def _sources(box: bytes) -> dict[int, tuple[int, ...]]:
  sources = {}
  size = 4 if box[0] else 2
  for name, entry in read(box[4:]):
    reader = _Reader(bytes(4) + entry)
    if name == b"dimg":
      item = reader.number(size)
      sources[item] = tuple(reader.number(size) for _ in range(reader.number(2)))
  return sources


def _properties(box: bytes) -> dict[int, list[tuple[bytes, bytes]]]:
  known: list[tuple[bytes, bytes]] = []
  found: dict[int, list[tuple[bytes, bytes]]] = {}
  parts = list(read(box))
  for name, body in parts:
    if name == b"ipco":
      known = list(read(body))
  for name, body in parts:
    if name != b"ipma":
      continue
    reader = _Reader(body)
    size = 2 if reader.flags & 1 else 1
    for _ in range(reader.number(4)):
      item = reader.number(4 if reader.version else 2)
      for _ in range(reader.number(1)):
        index = reader.number(size) & (0x7FFF if size == 2 else 0x7F)
        if index:  # 0 is not a property.
          found.setdefault(item, []).append(known[index - 1])
  return found


def _places(box: bytes) -> dict[int, tuple[bool, list[tuple[int, int]]]]:
  reader, places = _Reader(box), {}
  sizes = reader.number(2)
  offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
  index = index if reader.version else 0
  wide = 4 if reader.version == 2 else 2
  for _ in range(reader.number(wide)):
    item = reader.number(wide)
    is_inner = bool(reader.version and reader.number(2) & 15)
    reader.number(2)
    start = reader.number(base)
    parts = []
    count = reader.number(2)
    if count > 1 and not index + offset + length:
      raise ValueError(f"{count} parts without a size")
    for _ in range(count):
      reader.number(index)
      parts.append((start + reader.number(offset), reader.number(length)))
    places[item] = is_inner, parts
  return places
