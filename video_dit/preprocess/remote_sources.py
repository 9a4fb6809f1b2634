"""Folders and manifests at remote paths as lines, like local ones."""

from collections.abc import Iterator
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
  return _folder(url) if kind == "directory" else _manifest(url)


def _folder(url: str) -> Iterator[sources.Line]:
  for folder, stamps in remote.walk(url):
    names = sorted(stamps)
    for line in sources.listing(folder, names, remote.read):
      name = line.file.rpartition("/")[2]
      yield dataclasses.replace(line, stamp=stamps.get(name, ""))


def _manifest(url: str) -> Iterator[sources.Line]:
  root, _, name = url.rpartition("/")
  with tempfile.TemporaryDirectory(prefix="video_dit_manifest") as folder:
    path = pathlib.Path(folder) / name
    path.write_bytes(remote.read(url))
    for line in sources.lines(path):
      if line.error is not None or remote.is_remote(line.file):
        yield line
        continue
      file = f"{root}/{os.path.relpath(line.file, folder)}"
      line = dataclasses.replace(line, path=sources.printable(file), file=file)
      yield sources.stamped(line)
