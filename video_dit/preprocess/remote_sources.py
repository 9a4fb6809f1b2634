"""Folders and manifests at remote paths as lines, like local ones."""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import dataclasses
import os
import pathlib
import tempfile
from typing import Any

from video_dit.preprocess import caption_fields, folders, inputs, manifests, remote

_LISTED = 200_000  # files of the folders that are listed at a time


def lines(url: str, output: str = "") -> Iterator[inputs.Line]:
  """Yields the lines of a remote folder or manifest, as `sources.lines` does.

  Raises:
    FileNotFoundError: nothing is there.
    ValueError: as `sources.lines`, or its kind of path cannot be read here.
    remote.RemoteError: it cannot be reached.
  """
  kind = remote.kind(url)
  if kind is None:
    raise FileNotFoundError(
      f"--input={url}: no such folder or file. Name a folder of media, or a manifest."
    )
  if kind == "directory":
    return _folder(url, output)
  manifests.require(url)
  return manifests.stamped(_rows(url))


def _folder(url: str, output: str) -> Iterator[inputs.Line]:
  def calls() -> Iterator[tuple[inputs.Line, Callable | None]]:
    for found in walk(url, output):
      if found.problem:
        yield folders.refused(found.folder, found.problem), None
      for line, beside in folders.listing(found.folder, sorted(found.stamps)):
        name = line.file.rpartition("/")[2]
        line = dataclasses.replace(line, stamp=found.stamps.get(name, ""))
        yield line, _captioning(beside) if beside else None

  return remote.in_order(calls())


@dataclasses.dataclass(frozen=True)
class Listing:
  """The contents of one folder.

  Attributes:
    folder: its URL.
    stamps: of each file by its name.
    folders: names of those in it, sorted.
    problem: why it, or some of it, cannot be listed; empty if it can.
  """

  folder: str
  stamps: dict[str, str]
  folders: tuple[str, ...] = ()
  problem: str = ""


def walk(url: str, output: str = "") -> Iterator[Listing]:
  """Lists a folder and those below it, each before those in it, in order of names.

  Many are listed at a time, but not many large ones: a file takes some KB while its
  folder is listed, and its name and stamp while the folder waits for its turn. Hidden
  files and folders are left out, and so is the output where it lies here.

  Raises:
    remote.RemoteError: a folder cannot be listed.
  """
  system, root = remote.filesystem(url)

  def call(inner: str) -> Listing:
    there, folder = (
      "/".join(filter(None, (place.rstrip("/"), inner))) for place in (url, root)
    )
    try:
      with remote.reaching(there):
        return _listing(system, there, folder)
    except FileNotFoundError:  # removed since its parent was listed
      return Listing(there, {})
    except PermissionError as error:
      return Listing(there, {}, problem=error.strerror or str(error))

  # The next one last; those that come soon are asked for.
  waiting: list[tuple[str, list[futures.Future[Listing]]]] = [("", [])]
  most = 1  # files of a folder so far
  with futures.ThreadPoolExecutor(remote.CALLS) as threads:
    try:
      while waiting:
        for inner, asked in waiting[-max(1, min(remote.CALLS, _LISTED // most)) :]:
          if not asked:
            asked.append(threads.submit(call, inner))
        inner, (found,) = waiting.pop()
        listing = found.result()
        most = max(most, len(listing.stamps))
        waiting.extend(
          ("/".join(filter(None, (inner, name))), [])
          for name in reversed(listing.folders)
          if f"{listing.folder}/{name}" != output.rstrip("/")
        )
        yield listing
    finally:
      for _, asked in waiting:
        for future in asked:
          future.cancel()


def _listing(system: Any, url: str, folder: str) -> Listing:
  stamps, folders, problem = {}, [], ""
  for info in system.ls(folder, detail=True):
    name = info["name"].rstrip("/").removeprefix(folder).lstrip("/")
    if info["type"] == "directory" and not name:
      # A mark that stands for the folder; or one inside it that has no name.
      if lost := len(system.find(folder, prefix="/")):
        problem = (
          f"{lost} of its files have two slashes in a row in their names, and were not"
          " read. Rename them"
        )
    elif name and not name.startswith("."):
      if info["type"] == "directory":
        folders.append(name)
      else:
        stamps[name] = remote.stamp_of(info)
  system.invalidate_cache(folder)  # It holds some KB a file.
  return Listing(url, stamps, tuple(sorted(folders)), problem)


def _captioning(beside: Sequence[str]) -> Callable[[inputs.Line], inputs.Line]:
  readers = {path: remote.reading(path) for path in beside}
  return lambda line: caption_fields.beside(line, beside, lambda path: readers[path]())


def _rows(url: str) -> Iterator[inputs.Line]:
  """The lines of a manifest, those with relative paths at its own place."""
  root, _, name = url.rpartition("/")
  with tempfile.TemporaryDirectory(prefix="video_dit_manifest") as folder:
    path = pathlib.Path(folder) / name
    remote.download(url, path)
    for line in manifests.lines(path):
      if line.error is None and not remote.is_remote(line.file):
        file = f"{root}/{os.path.relpath(line.file, folder)}"
        line = dataclasses.replace(line, path=inputs.printable(file), file=file)
      yield line
