"""Remote media on the local disk, while they are examined or decoded and a bit longer.

The clips of a long video are decoded one after another by several processes, and a
manifest may name many parts of one file: each file is fetched once for all that want it
at about the same time.
"""

from collections.abc import Iterator
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import tempfile
from typing import IO

from video_dit.preprocess import remote

# Limits for unused files; nor may their bytes exceed a quarter of the free space.
_MOST_FILES, _MOST_BYTES = 64, 4 << 30
_LOCK = ".lock"
_NAME = 60  # characters


@contextlib.contextmanager
def local(path: str, folder: str | None = None) -> Iterator[str]:
  """A local file with the content of `path`, readable until the block is left.

  Args:
    path: local or remote.
    folder: in which remote files are held, by any number of processes. None holds the
      file as long as the block.

  Raises:
    OSError: with an errno; it cannot be fetched.
  """
  if not remote.is_remote(path):
    yield path
  elif folder is None:
    with tempfile.TemporaryDirectory(prefix="video_dit_media") as own:
      yield _fetch(path, pathlib.Path(own, "file"))
  else:
    with _held(path, pathlib.Path(folder)) as file:
      yield file
    _make_room(pathlib.Path(folder))


def _fetch(url: str, folder: pathlib.Path) -> str:
  # Some formats are known by a name's end; a bucket's may be longer than a disk's.
  file = folder / (os.path.basename(url.rstrip("/"))[-_NAME:] or "file")
  if not file.exists():
    folder.mkdir(exist_ok=True)
    partial = folder.with_suffix(".partial")
    remote.fetch(url, partial)
    partial.replace(file)
  os.utime(folder)
  return str(file)


@contextlib.contextmanager
def _held(url: str, folder: pathlib.Path) -> Iterator[str]:
  """Fetches a file if it is missing, and keeps others from removing it."""
  own = folder / hashlib.sha256(url.encode()).hexdigest()[:32]
  while True:
    with open(own.with_suffix(_LOCK), "wb") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not _is_there(lock):
        continue
      file = _fetch(url, own)
      fcntl.flock(lock, fcntl.LOCK_SH)  # For a moment it is not held.
      if _is_there(lock) and os.path.exists(file):
        yield file
        return


def _make_room(folder: pathlib.Path) -> None:
  """Removes the least recently used files, until the rest is small enough."""
  held = []
  for own in (lock.with_suffix("") for lock in folder.glob(f"*{_LOCK}")):
    with contextlib.suppress(FileNotFoundError):  # Other processes do the same.
      size = sum(file.stat().st_size for file in own.iterdir())
      held.append((own.stat().st_mtime_ns, size, own))
  most = min(_MOST_BYTES, shutil.disk_usage(folder).free // 4)
  files, total = len(held), sum(size for _, size, _ in held)
  for _, size, own in sorted(held):
    if files <= _MOST_FILES and total <= most:
      return
    with (
      contextlib.suppress(FileNotFoundError, BlockingIOError),
      open(own.with_suffix(_LOCK), "rb") as lock,
    ):
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if _is_there(lock):
        shutil.rmtree(own)
        os.unlink(lock.name)
    files, total = files - 1, total - size


def _is_there(lock: IO[bytes]) -> bool:
  """Whether an open file is still the one at its path."""
  try:
    return os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))
  except FileNotFoundError:
    return False
