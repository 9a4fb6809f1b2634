"""Remote paths: media and manifests from them, the output to them, through fsspec.

A file is copied to the local disk while it is looked at or decoded. The output is made
in a local folder, from which every file goes to its place as soon as it is whole; of
shards that are there only their size is kept here.
"""

import atexit
import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import contextlib
import errno
import logging
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any, TypeVar
import uuid

from video_dit.data import disk as disk_lib

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_SHARD = "array_record"
_SETS = ("latents", "pixels")
# What goes wrong on the disk here, whatever asked for it.
_HERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_MOST = 300  # characters of what a library says
_CALLS = 64  # at a time
_WAITING = 1024  # of them and of what came after them

T = TypeVar("T")


class RemoteError(Exception):
  """A remote place that does not answer, or with an error."""


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Whether a path is a URL, such as gs://bucket/folder."""
  return isinstance(path, str) and _REMOTE.match(path) is not None


def filesystem(url: str) -> tuple[Any, str]:
  """The file system of a URL, and the path in it.

  Raises:
    ValueError: what reads such URLs is not installed, or there is no such kind.
  """
  kind = url.split("://")[0]
  try:
    import fsspec
  except ImportError as error:
    raise ValueError(
      f"{url}: remote paths need fsspec. Install pip install 'video_dit[remote]'."
    ) from error
  try:
    system, path = fsspec.core.url_to_fs(url)
  except ImportError as error:
    raise ValueError(
      f"{url}: {kind}:// needs a package that is not installed ({error}). Install"
      " pip install 'video_dit[remote]'."
    ) from error
  except ValueError as error:
    raise ValueError(
      f"{url}: {kind}:// is no kind of path that fsspec knows ({error}). Use gs://,"
      " s3://, file:// or a local path."
    ) from error
  # It logs a traceback of what it raises; what is raised is told once, here.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  return system, path


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
  """Names the URL in what file systems raise, of which each has errors of its own.

  Raises:
    FileNotFoundError: as it comes.
    PermissionError: access is refused.
    RemoteError: instead of all else.
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
      raise PermissionError(errno.EACCES, f"{url}: {_said(error)}") from error
    raise RemoteError(
      f"{url}: does not answer as it should ({_said(error)}). Check its name, the"
      " network and the credentials, and run the same command again: what it had"
      " finished is kept."
    ) from error


def _is_absent(cause: BaseException | None) -> bool:
  """Whether what made a library say that a file is not there says so itself.

  fsspec's HTTP raises FileNotFoundError for all that goes wrong.
  """
  if type(cause).__module__.partition(".")[0] == "aiohttp":
    return getattr(cause, "status", 0) in (404, 410)
  return not isinstance(cause, OSError) or isinstance(cause, FileNotFoundError)


def _said(error: BaseException | None) -> str:
  """What a library says, on one line and not too long."""
  text = " ".join(f"{type(error).__name__}: {error}".split())
  return text if len(text) <= _MOST else f"{text[:_MOST]} ..."


def reading(url: str) -> Callable[[], bytes]:
  """What gives the content of a file, called from any thread."""
  # Made here: fsspec would make one file system, with its connections, for each thread.
  system, path = filesystem(url)

  def read() -> bytes:
    with reaching(url):
      return system.cat_file(path)

  return read


def stamping(url: str) -> Callable[[], str | None]:
  """What gives a stamp, called from any thread.

  A stamp changes when the file does, and is None where there is no such file. The call
  raises PermissionError where access is refused.
  """
  system, path = filesystem(url)

  def stamp() -> str | None:
    try:
      with reaching(url):
        return _stamp(system.info(path))
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
  with futures.ThreadPoolExecutor(_CALLS) as threads:
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


def _stamp(info: dict[str, Any]) -> str:
  names = ("size", "etag", "ETag", "md5Hash", "generation", "mtime", "LastModified")
  return " ".join(str(info[name]) for name in names if info.get(name) is not None)


def kind(url: str) -> str | None:
  """`file` or `directory`; None where there is nothing."""
  system, path = filesystem(url)
  with reaching(url):
    return _kind(system, path)


def _kind(system: Any, path: str) -> str | None:
  # `exists` and `isdir` of some file systems take a failure for a no.
  try:
    return system.info(path)["type"]
  except FileNotFoundError as error:
    if not _is_absent(error.__cause__):
      raise
    return None


def walk(url: str) -> Iterator[tuple[str, dict[str, str]]]:
  """Yields each folder below a URL with the names in it and their stamps, in order.

  Hidden files and folders are left out.
  """
  system, root = filesystem(url)
  root = root.rstrip("/")
  folders: dict[str, dict[str, str]] = {}
  with reaching(url):
    found = system.find(root, detail=True)
  for path, info in found.items():
    inner = path[len(root) :].lstrip("/")
    if info.get("type") == "file" and not any(
      part.startswith(".") for part in inner.split("/")
    ):
      folder, _, name = inner.rpartition("/")
      folders.setdefault(folder, {})[name] = _stamp(info)
  del found
  system.invalidate_cache()  # It holds some KB a file.
  for folder in sorted(folders):
    yield "/".join(filter(None, (url.rstrip("/"), folder))), folders[folder]


def fetch(url: str, path: str | os.PathLike[str]) -> None:
  """Copies a file to a local place.

  Raises:
    OSError: with a number; it cannot be fetched.
  """
  system, there = filesystem(url)
  try:
    with reaching(url):
      system.get_file(there, str(path))
  except FileNotFoundError as error:
    raise OSError(errno.ENOENT, "is there no more") from error
  except RemoteError as error:
    raise OSError(errno.EIO, f"cannot be fetched: {_said(error.__cause__)}") from error


def copy(url: str) -> str:
  """Copies a folder or a file to a local place that lasts as long as the process."""
  system, path = filesystem(url)
  folder = _temporary("video_dit_input")
  target = os.path.join(folder, os.path.basename(path.rstrip("/")) or "input")
  with reaching(url):
    system.get(path, target, recursive=_kind(system, path) == "directory")
  return target


class RemoteDisk(disk_lib.Disk):
  """Does at a URL what is done in a local folder, file by file.

  Its methods raise `RemoteError` where that fails.
  """

  def __init__(self, url: str, folder: pathlib.Path):
    """Nothing is read yet.

    Args:
      url: of the output.
      folder: in which it is made.
    """
    self._system, root = filesystem(url)
    self._url, self._root, self._folder = url, root.rstrip("/"), folder

  def check(self) -> None:
    """Writes and removes a file.

    Raises:
      FileNotFoundError: there is no such bucket.
    """
    there = f"{self._root}/work/writes-{uuid.uuid4().hex}"
    with reaching(self._url):
      # Not by `makedirs`, by which s3fs would make a bucket of a misspelt name.
      self._system.pipe_file(there, b"-")
      self._system.rm_file(there)

  def wrote(self, path: pathlib.Path) -> None:
    """Copies a file to its place; of a shard only the size stays here."""
    there = self._there(path)
    with reaching(self._url):
      self._system.makedirs(os.path.dirname(there), exist_ok=True)
      self._system.put_file(str(path), there)
    if _SHARD in path.name:
      _hollow(path, path.stat().st_size)

  def move(self, old: pathlib.Path, new: pathlib.Path) -> None:
    """Renames a file, here and there."""
    with reaching(self._url):
      self._system.mv(self._there(old), self._there(new))
    old.replace(new)

  def remove(self, path: pathlib.Path) -> None:
    """Removes a file, here and there."""
    with contextlib.suppress(FileNotFoundError), reaching(self._url):
      self._system.rm_file(self._there(path))
    path.unlink(missing_ok=True)

  def fetch(self, path: pathlib.Path) -> bool:
    """Brings a file up to date; False where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".fetched")
    self._system.invalidate_cache()
    there = self._there(path)
    with reaching(self._url):
      if _kind(self._system, there) is None:
        path.unlink(missing_ok=True)
        return False
      self._system.get_file(there, str(partial))
    partial.replace(path)
    return True

  def refresh(self) -> None:
    """Fetches every file; of shards only their sizes."""
    self._system.invalidate_cache()
    with reaching(self._url):
      if _kind(self._system, self._root) is None:
        return
      for there, info in self._system.find(self._root, detail=True).items():
        path = self._folder / there[len(self._root) :].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if _SHARD in path.name:
          _hollow(path, int(info["size"]))
        else:
          self._system.get_file(there, str(path))

  @contextlib.contextmanager
  def whole(self, path: pathlib.Path) -> Iterator[None]:
    """Has a shard whole here while the block lasts."""
    if path.exists():
      with reaching(self._url):
        self._system.get_file(self._there(path), str(path))
    try:
      yield
    finally:
      if path.exists():
        _hollow(path, path.stat().st_size)

  def publish(self) -> None:
    """Copies all that lies beside the data sets to its place."""
    for path in sorted(self._folder.rglob("*")):
      inner = path.relative_to(self._folder).parts
      if path.is_file() and inner[0] not in _SETS:
        self.wrote(path)

  def _there(self, path: pathlib.Path) -> str:
    return "/".join((self._root, path.relative_to(self._folder).as_posix()))


def _hollow(path: pathlib.Path, size: int) -> None:
  """Makes a file of that size that takes no room."""
  with path.open("wb") as file:
    file.truncate(size)


def output(
  path: str | os.PathLike[str], *, read_only: bool = False
) -> tuple[pathlib.Path, disk_lib.Disk]:
  """The folder in which an output is made, and what brings it to its place.

  That of a remote one lasts as long as the process.

  Args:
    path: local or remote.
    read_only: nothing is to be written.

  Raises:
    ValueError: it cannot be written.
    RemoteError: nor can it be reached.
  """
  if not is_remote(path):
    return pathlib.Path(path), disk_lib.LOCAL
  folder = _temporary("video_dit_output")
  disk = RemoteDisk(str(path), pathlib.Path(folder))
  if not read_only:
    try:
      disk.check()
    except FileNotFoundError as error:
      raise ValueError(
        f"--output={path}: there is no such bucket ({_said(error)}). Make it first, or"
        " name another."
      ) from error
  disk.refresh()
  return pathlib.Path(folder), disk


def _temporary(prefix: str) -> str:
  folder = tempfile.mkdtemp(prefix=prefix)
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder
