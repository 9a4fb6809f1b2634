"""Files that appear whole or not at all."""

from collections.abc import Iterator
import contextlib
import os
import pathlib


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A name beside `path` to write a file under; use as a context.

  If all goes well the file takes the place of `path` once it is on the disk, so neither a
  killed process nor a power cut leaves half of it there; otherwise it is removed.
  """
  path = pathlib.Path(path)
  unfinished = path.with_name(path.name + ".unfinished")
  try:
    yield unfinished
    with unfinished.open("rb") as file:
      os.fsync(file.fileno())
    unfinished.replace(path)
  finally:
    unfinished.unlink(missing_ok=True)


def write(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file whole; text as UTF-8."""
  data = content.encode("utf-8") if isinstance(content, str) else content
  with replacing(path) as unfinished:
    unfinished.write_bytes(data)
