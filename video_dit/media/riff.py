"""The chunks of an AVI file, as far as FFmpeg leaves them out: empty ones.

A RIFF file is chunks of a name (4 bytes), a size (4 bytes, little end first) and data,
padded to an even size; `RIFF` and `LIST` hold chunks, behind 4 bytes that tell which.
Frames are in the list `movi`, each in a chunk named by the number of its stream and `dc`
or `db` (Microsoft, AVI RIFF File Reference).
"""

import struct
from typing import BinaryIO

_LISTS = (b"RIFF", b"LIST")
_SKIPPED = (b"hdrl", b"INFO")


def last_repeats(file: BinaryIO, stream: int) -> int:
  """How often the last frame is repeated: empty chunks of a stream behind its last.

  Args:
    file: an AVI file.
    stream: number of the stream.
  """
  names = tuple(b"%02d%s" % (stream, kind) for kind in (b"dc", b"db"))
  at, repeats = 0, 0
  while True:
    file.seek(at)
    head = file.read(12)
    if len(head) < 8:
      return repeats
    name, size = struct.unpack("<4sI", head[:8])
    if not name.strip().isalnum():  # not a chunk
      return repeats
    if name in names:
      repeats = 0 if size else repeats + 1
    inside = name in _LISTS and head[8:] not in _SKIPPED
    at += 12 if inside else 8 + size + size % 2
