"""Folders and manifests at remote paths as lines, like local ones."""

from collections.abc import Callable, Iterator
import dataclasses
import os
import pathlib
import tempfile

from video_dit.preprocess import remote, sources


def lines(url: str) -> Iterator[sources.Line]:
  """Yields the lines of a remote folder or manifest.

  Raises:
    FileNotFoundError: nothing is there.
    ValueError: as `sources.lines`, or its kind of path cannot be read here.
    remote.RemoteError: it cannot be reached.
  """
  kind = remote.kind(url)
  if kind is None:
    raise FileNotFoundError(
      f"--input={url}: there is no such folder or file. Name a folder of media, or a"
      " manifest."
    )
  if url.startswith("memory://"):  # which other processes cannot see
    return sources.lines(remote.copy(url))
  if kind == "directory":
    return _folder(url)
  sources.require_manifest(url)
  return sources.stamped(_rows(url))


def _folder(url: str) -> Iterator[sources.Line]:
  def calls() -> Iterator[tuple[sources.Line, Callable | None]]:
    for found in remote.walk(url):
      if found.problem:
        yield sources.refused(found.folder, found.problem), None
      for line, beside in sources.listing(found.folder, sorted(found.stamps)):
        name = line.file.rpartition("/")[2]
        line = dataclasses.replace(line, stamp=found.stamps.get(name, ""))
        yield line, _captioning(beside) if beside else None

  return remote.in_order(calls())


def _captioning(beside: str) -> Callable[[sources.Line], sources.Line]:
  read = remote.reading(beside)
  return lambda line: sources.captioned(line, beside, read)


def _rows(url: str) -> Iterator[sources.Line]:
  """The lines of a manifest, those with relative paths at its own place."""
  root, _, name = url.rpartition("/")
  with tempfile.TemporaryDirectory(prefix="video_dit_manifest") as folder:
    path = pathlib.Path(folder) / name
    remote.download(url, path)
    for line in sources.manifest(path):
      if line.error is None and not remote.is_remote(line.file):
        file = f"{root}/{os.path.relpath(line.file, folder)}"
        line = dataclasses.replace(line, path=sources.printable(file), file=file)
      yield line
