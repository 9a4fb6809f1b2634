"""A remote output: made in a local folder, and uploaded file by file.

Every file is uploaded once it is complete; of uploaded shards only their size is
kept here.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import uuid

from video_dit.data import disk as disk_lib
from video_dit.preprocess import remote

_SHARD = "array_record"
_SETS = ("latents", "pixels")
_BUCKETS = ("s3", "s3a", "gs", "gcs")


class RemoteDisk(disk_lib.Disk):
  """Does at a URL what is done in a local folder, file by file.

  Its methods raise `remote.RemoteError` where that fails.
  """

  def __init__(self, url: str, folder: pathlib.Path):
    """Nothing is read yet.

    Args:
      url: of the output.
      folder: in which it is made.
    """
    self._system, root = remote.filesystem(url)
    self._url, self._root, self._folder = url, root.rstrip("/"), folder

  def check(self) -> None:
    """Writes and removes a file.

    Raises:
      FileNotFoundError: there is no such bucket.
    """
    there = f"{self._root}/work/writes-{uuid.uuid4().hex}"
    with remote.reaching(self._url):
      # Buckets need no folders, and s3fs would make a bucket of a misspelt name.
      if self._url.partition("://")[0].lower() not in _BUCKETS:
        self._system.makedirs(os.path.dirname(there), exist_ok=True)
      self._system.pipe_file(there, b"-")
      self._system.rm_file(there)

  def wrote(self, path: pathlib.Path) -> None:
    """Copies a file to its place; of a shard only the size stays here."""
    there = self._there(path)
    with remote.reaching(self._url):
      self._system.makedirs(os.path.dirname(there), exist_ok=True)
      self._system.put_file(str(path), there)
    if _SHARD in path.name:
      _hollow(path, path.stat().st_size)

  def move(self, old: pathlib.Path, new: pathlib.Path) -> None:
    """Renames a file, here and there."""
    with remote.reaching(self._url):
      self._system.mv(self._there(old), self._there(new))
    old.replace(new)

  def remove(self, path: pathlib.Path) -> None:
    """Removes a file, here and there."""
    with contextlib.suppress(FileNotFoundError), remote.reaching(self._url):
      self._system.rm_file(self._there(path))
    path.unlink(missing_ok=True)

  def fetch(self, path: pathlib.Path) -> bool:
    """Brings a file up to date; False where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".fetched")
    self._system.invalidate_cache()
    there = self._there(path)
    with remote.reaching(self._url):
      if remote.kind_of(self._system, there) is None:
        path.unlink(missing_ok=True)
        return False
      self._system.get_file(there, str(partial))
    partial.replace(path)
    return True

  def refresh(self) -> None:
    """Fetches every file; of shards only their sizes.

    Raises:
      ValueError: the name of one leads out of the folder.
    """
    self._system.invalidate_cache()
    with remote.reaching(self._url):
      if remote.kind_of(self._system, self._root) is None:
        return
      found = self._system.find(self._root, detail=True)
    for there, path in [(there, self._here(there)) for there in found]:
      path.parent.mkdir(parents=True, exist_ok=True)
      if _SHARD in path.name:
        _hollow(path, int(found[there]["size"]))
      else:
        with remote.reaching(self._url):
          self._system.get_file(there, str(path))

  @contextlib.contextmanager
  def whole(self, path: pathlib.Path) -> Iterator[None]:
    """Keeps a whole shard here while the block lasts."""
    if path.exists():
      with remote.reaching(self._url):
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

  def _here(self, there: str) -> pathlib.Path:
    """The place of a file that was found there; keys of buckets may be any text."""
    name = there[len(self._root) :].lstrip("/")
    if ".." in name.split("/"):
      raise ValueError(
        f"{self._url}: holds {name!r}, whose '..' points outside it. Remove that file, or"
        " choose another output."
      )
    return self._folder / name


def _hollow(path: pathlib.Path, size: int) -> None:
  """Makes a sparse file of that size."""
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
    ValueError: it cannot be written, or holds a name that points outside it.
    remote.RemoteError: it cannot be reached.
  """
  if not remote.is_remote(path):
    return pathlib.Path(path), disk_lib.LOCAL
  folder = remote.temporary("video_dit_output")
  disk = RemoteDisk(str(path), pathlib.Path(folder))
  if not read_only:
    try:
      disk.check()
    except FileNotFoundError as error:
      raise ValueError(
        f"--output={path}: no such bucket or folder ({remote.said(error)})."
        " Create it first, or name another."
      ) from error
  disk.refresh()
  return pathlib.Path(folder), disk
