"""Elements of Matroska and WebM: its tracks, and where lost bytes make it not add up.

FFmpeg looks for the next cluster there and goes on, without the frames in between. Codecs
of this container may not notice: the frames of VP9 do not say that one is missing. So the
headers of all elements down to the blocks of frames are followed (RFC 9559), no content.
"""

from collections.abc import Iterator
import os
from typing import BinaryIO, NamedTuple

_SEGMENT = 0x18538067
_TRACKS = 0x1654AE6B
_CLUSTER = 0x1F43B675
# Time, three kinds of block, position, size of the cluster before, silent tracks; bytes
# without meaning, and a checksum.
_IN_CLUSTER = {0xE7, 0xA0, 0xA3, 0xAF, 0xA7, 0xAB, 0x5854, 0xEC, 0xBF}
_HEADER_BYTES = 4 + 8
_MOST_BYTES = 1 << 24  # of the description of tracks


class _Element(NamedTuple):
  """Its kind, first byte of its content and one past the last, None if it is not said."""

  id: int
  content: int
  end: int | None


def fault(path: str | os.PathLike[str]) -> int | None:
  """Finds the first place from which on a file is not what its headers say.

  Args:
    path: of a Matroska or WebM file.

  Returns:
    The first byte of the element that lost bytes, or of what is no element; None where
    all adds up as far as the file goes.
  """
  with open(path, "rb", buffering=0) as file:
    return _fault(file.fileno(), os.fstat(file.fileno()).st_size)


def tracks(file: BinaryIO) -> bytes:
  """The contents of the element that describes the tracks; none where it comes late."""
  at, size = 0, file.seek(0, 2)
  while at + _HEADER_BYTES <= size:
    found = _read(file.fileno(), at)
    if found is None or found.id == _CLUSTER:
      break
    if found.id == _TRACKS and found.end is not None:
      length = min(found.end - found.content, _MOST_BYTES)
      return os.pread(file.fileno(), length, found.content)
    if found.id == _SEGMENT:
      at = found.content
    elif found.end is None:
      break
    else:
      at = found.end
  return b""


def children(data: bytes) -> Iterator[tuple[int, bytes]]:
  """Kinds and contents of the elements that follow each other, up to one cut off."""
  at = 0
  while at < len(data):
    found = _parse(data[at : at + _HEADER_BYTES], at)
    if found is None or found.end is None or found.end > len(data):
      return
    yield found.id, data[found.content : found.end]
    at = found.end


def _fault(file: int, size: int) -> int | None:
  at, stop = 0, size
  while at + _HEADER_BYTES <= size:
    if at >= stop:
      stop = size  # A segment is over; another file may follow.
    found = _read(file, at)
    if found is None or (found.end is None and found.id not in (_SEGMENT, _CLUSTER)):
      return at
    if found.id == _SEGMENT:
      at, stop = found.content, size if found.end is None else min(found.end, size)
    elif found.end is not None and stop < found.end <= size:
      return at
    elif found.id == _CLUSTER:
      bad, at = _cluster(file, found, size)
      if bad is not None:
        return bad
    else:
      assert found.end is not None
      at = found.end
  return None


def _cluster(file: int, cluster: _Element, size: int) -> tuple[int | None, int]:
  """The faulty element of a cluster, if any; and where the cluster ends."""
  stop = size if cluster.end is None else min(cluster.end, size)
  before = at = cluster.content
  while at < stop and at + _HEADER_BYTES <= size:
    found = _read(file, at)
    if found is None or found.end is None or found.id not in _IN_CLUSTER:
      # A cluster of unknown size ends where something else begins.
      return (None, at) if cluster.end is None else (before, stop)
    if stop < found.end <= size:
      return before, stop
    before, at = at, found.end
  return None, at


def _read(file: int, at: int) -> _Element | None:
  """The header of an element; None where there is none."""
  return _parse(os.pread(file, _HEADER_BYTES, at), at)


def _parse(head: bytes, at: int) -> _Element | None:
  wide = 9 - head[0].bit_length()  # The leading zeros of a number say how long it is.
  if wide > 4 or len(head) <= wide:
    return None
  id, head = int.from_bytes(head[:wide]), head[wide:]
  more = 9 - head[0].bit_length()
  if more > 8:
    return None
  unknown = (1 << 7 * more) - 1
  length = int.from_bytes(head[:more]) & unknown
  content = at + wide + more
  return _Element(id, content, None if length == unknown else content + length)
