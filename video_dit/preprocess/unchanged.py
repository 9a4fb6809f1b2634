"""Whether a file is the one that was examined, and stays so while it is read.

Size and time of change tell that cheaply. Where they differ the bytes decide: a copy on
another host has a time of its own.
"""

from collections.abc import Iterator
import contextlib
import functools
import hashlib
import os

from video_dit.media import errors

_READ_BYTES = 1 << 20
_MESSAGE = "changed since it was examined; run again"


def stamp(file: str) -> str:
  """Size and time of change of a file."""
  stat = os.stat(file)
  return f"{stat.st_size} {stat.st_mtime_ns}"


def digest(file: str) -> str:
  """SHA-256 of a file's bytes."""
  found = hashlib.sha256()
  with open(file, "rb") as stream:
    while data := stream.read(_READ_BYTES):
      found.update(data)
  return found.hexdigest()


@contextlib.contextmanager
def while_read(file: str) -> Iterator[str]:
  """Refuses what was read of a file that changed meanwhile, errors included.

  Yields:
    Its stamp.

  Raises:
    MediaError: `changed`.
  """
  before = stamp(file)
  try:
    yield before
  except Exception as error:
    if stamp(file) != before:
      raise changed(file) from error
    raise
  if stamp(file) != before:
    raise changed(file)


def check(file: str, now: str, wanted: str, sha256: str) -> None:
  """Refuses another file than the one that was examined.

  Args:
    file: as it is now.
    now: its stamp.
    wanted: stamp of the examined one; "" where that says nothing.
    sha256: of the examined one; "" where it is unknown.

  Raises:
    MediaError: `changed`.
  """
  if sha256 and now != wanted and _digest(file, now) != sha256:
    raise changed(file)


def changed(file: str) -> errors.MediaError:
  """The error that says so."""
  return errors.MediaError(file, "changed", _MESSAGE)


@functools.lru_cache(maxsize=64)
def _digest(file: str, now: str) -> str:
  """Computed once for all clips of a file; another stamp is another file."""
  del now
  return digest(file)
