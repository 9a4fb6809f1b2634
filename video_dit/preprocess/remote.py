"""Remote paths, through fsspec: what lies there, and its bytes.

`fetched` holds media while they are looked at or decoded, `remote_disk` brings an output
to its place.
"""

import atexit
import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import contextlib
import errno
import logging
import os
import re
import shutil
import tempfile
from typing import Any, TypeVar

from video_dit import extras

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_ONE_SLASH = re.compile(r"(?!tfds:)[a-z][a-z0-9+.-]+:/[^/]", re.IGNORECASE)
# Errors of the local disk, whatever caused the access.
_HERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_MOST = 300  # characters of a library's message
CALLS = 64  # at a time
_WAITING = 1024  # of them and of what came after them

T = TypeVar("T")


class RemoteError(Exception):
  """A remote place that does not answer, or answers with an error."""


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Whether a path is a URL, such as gs://bucket/folder."""
  return isinstance(path, str) and _REMOTE.match(path) is not None


def check_slashes(flag: str, path: str | os.PathLike[str]) -> None:
  """Refuses a URL with one slash, which would be a local folder.

  Raises:
    ValueError: it looks like one, and no such folder is there.
  """
  if isinstance(path, str) and _ONE_SLASH.match(path) and not os.path.exists(path):
    raise ValueError(
      f"{flag}={path}: a URL has two slashes, {path.replace(':/', '://', 1)}. For a local"
      f" folder of that name give ./{path}."
    )


def filesystem(url: str) -> tuple[Any, str]:
  """The file system of a URL, and the path in it.

  Raises:
    ValueError: the package for such URLs is not installed, the kind is unknown, or the
      URL is only a kind.
  """
  kind = url.split("://")[0]
  try:
    import fsspec
  except ImportError as error:
    raise ValueError(
      f"{url}: remote paths need fsspec. Install it with {extras.command('remote')}."
    ) from error
  try:
    system, path = fsspec.core.url_to_fs(url)
  except ImportError as error:
    raise ValueError(
      f"{url}: {kind}:// needs a package that is not installed ({error}). Install it with"
      f" {extras.command('remote')}."
    ) from error
  except ValueError as error:
    raise ValueError(
      f"{url}: fsspec does not support {kind}:// ({error}). Use gs://,"
      " s3://, file:// or a local path."
    ) from error
  if not path.strip("/"):
    raise ValueError(
      f"{url}: has no bucket or folder. Give one, like {kind}://bucket/folder."
    )
  # It logs a traceback of what it raises; the error is reported once, here.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  return system, path


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
  """Adds the URL to errors of file systems, each of which has its own types.

  Raises:
    FileNotFoundError: as it comes.
    PermissionError: access is refused.
    RemoteError: instead of all others.
  """
  try:
    yield
  except (MemoryError, RemoteError):
    raise
  except Exception as error:
    if isinstance(error, FileNotFoundError) and _is_absent(error.__cause__):
      raise
    if isinstance(error, OSError) and error.errno in _HERE:
      raise
    # gcsfs has no class for it.
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden"):
      raise PermissionError(errno.EACCES, f"{url}: {said(error)}") from error
    shown = error.__cause__ if isinstance(error, FileNotFoundError) else error
    raise RemoteError(
      f"{url}: could not be accessed ({said(shown)}). Check the name, the"
      " network and the credentials, and run the same command again: finished"
      " work is kept."
    ) from error


def _is_absent(cause: BaseException | None) -> bool:
  """Whether the cause of a library's FileNotFoundError is one as well.

  fsspec's HTTP raises FileNotFoundError for every failure.
  """
  if type(cause).__module__.partition(".")[0] == "aiohttp":
    return getattr(cause, "status", 0) in (404, 410)
  return not isinstance(cause, OSError) or isinstance(cause, FileNotFoundError)


def said(error: BaseException | None) -> str:
  """A library's message, on one line and not too long."""
  text = " ".join(f"{type(error).__name__}: {error}".split())
  return text if len(text) <= _MOST else f"{text[:_MOST]} ..."


def reading(url: str) -> Callable[[], bytes]:
  """A function that returns the content of a file, called from any thread."""
  # Made here: fsspec would make one file system, with its connections, for each thread.
  system, path = filesystem(url)

  def read() -> bytes:
    with reaching(url):
      return system.cat_file(path)

  return read


def stamping(url: str) -> Callable[[], str | None]:
  """A function that returns a stamp, called from any thread.

  A stamp changes when the file does, and is None where there is no such file. The call
  raises PermissionError where access is refused.
  """
  system, path = filesystem(url)

  def stamp() -> str | None:
    try:
      with reaching(url):
        return stamp_of(system.info(path))
    except FileNotFoundError:
      return None

  return stamp


def in_order(calls: Iterable[tuple[T, Callable[[T], T] | None]]) -> Iterator[T]:
  """Waits for many calls to a network at a time.

  Args:
    calls: values, each with what completes it, or with None where it is complete.

  Yields:
    The values completed, in order.
  """
  waiting: collections.deque[futures.Future[T]] = collections.deque()
  with futures.ThreadPoolExecutor(CALLS) as threads:
    try:
      for value, call in calls:
        if call is None:
          waiting.append(futures.Future())
          waiting[-1].set_result(value)
        else:
          waiting.append(threads.submit(call, value))
        if len(waiting) > _WAITING:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()


def stamp_of(info: dict[str, Any]) -> str:
  names = ("size", "etag", "ETag", "md5Hash", "generation", "mtime", "LastModified")
  return " ".join(str(info[name]) for name in names if info.get(name) is not None)


def kind(url: str) -> str | None:
  """`file` or `directory`; None where there is nothing."""
  system, path = filesystem(url)
  with reaching(url):
    return kind_of(system, path)


def kind_of(system: Any, path: str) -> str | None:
  """As `kind`, of a path in a file system, whose errors are raised as they come."""
  # `exists` and `isdir` of some file systems treat a failure as absence.
  try:
    return system.info(path)["type"]
  except FileNotFoundError as error:
    if not _is_absent(error.__cause__):
      raise
    return None


def download(url: str, path: str | os.PathLike[str]) -> None:
  """Copies a file to a local place, and raises as `reaching`."""
  system, there = filesystem(url)
  with reaching(url):
    system.get_file(there, str(path))


def fetch(url: str, path: str | os.PathLike[str]) -> None:
  """As `download`.

  Raises:
    OSError: with an errno; it cannot be fetched.
  """
  try:
    download(url, path)
  except FileNotFoundError as error:
    raise OSError(errno.ENOENT, "the file no longer exists") from error
  except RemoteError as error:
    raise OSError(errno.EIO, f"could not be fetched: {said(error.__cause__)}") from error


def copy(url: str) -> str:
  """Copies a folder or a file to a local place that lasts as long as the process."""
  system, path = filesystem(url)
  folder = temporary("video_dit_input")
  target = os.path.join(folder, os.path.basename(path.rstrip("/")) or "input")
  with reaching(url):
    system.get(path, target, recursive=kind_of(system, path) == "directory")
  return target


def temporary(prefix: str) -> str:
  """A folder that lasts as long as the process."""
  folder = tempfile.mkdtemp(prefix=prefix)
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder
