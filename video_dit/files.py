"""Files that appear whole or not at all, and what is said of one that is damaged."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import tempfile
from typing import Any


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Names a file in an error that does not, as that of a full disk; use as a context."""
  try:
    yield
  except OSError as error:
    if error.errno and error.filename is None:
      error.filename = os.fspath(path)
    raise


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A name beside `path` to write a file under; use as a context.

  If all goes well the file takes the place of `path` once it is on the disk, so neither a
  killed process nor a power cut leaves half of it there; otherwise it is removed.
  """
  path = pathlib.Path(path)
  unfinished = path.with_name(path.name + ".unfinished")
  try:
    with naming(path):
      yield unfinished
      with unfinished.open("rb") as file:
        os.fsync(file.fileno())
      unfinished.replace(path)
  finally:
    unfinished.unlink(missing_ok=True)


def check_writable(folder: str | os.PathLike[str]) -> None:
  """Tries to write into a folder, or the nearest above it that is there; leaves nothing.

  Raises:
    OSError: what writing there would end with; it names the folder.
  """
  folder = pathlib.Path(folder).absolute()
  there = next(place for place in (folder, *folder.parents) if place.is_dir())
  try:
    with tempfile.TemporaryFile(dir=there) as file:
      file.write(b"\0")
  except OSError as error:
    raise OSError(error.errno, error.strerror, os.fspath(there)) from error


def write(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file whole; text as UTF-8."""
  data = content.encode("utf-8") if isinstance(content, str) else content
  with replacing(path) as unfinished:
    unfinished.write_bytes(data)


def read_json(path: str | os.PathLike, remedy: str) -> dict[str, Any]:
  """Reads a JSON file that contains an object.

  Args:
    path: of the file.
    remedy: what to do about a damaged file; the last sentence of the message.

  Raises:
    ValueError: it is truncated, not JSON, or no object.
  """
  try:
    found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path}: is not JSON ({error}). {remedy}") from error
  if not isinstance(found, dict):
    kind = type(found).__name__
    raise ValueError(f"{path}: holds a {kind}; an object of keys is expected. {remedy}")
  return found
