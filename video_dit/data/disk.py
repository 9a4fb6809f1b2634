"""Makes files visible to others; local ones need nothing done."""

from collections.abc import Iterator
import contextlib
import pathlib


class Disk:
  """A local folder. A remote one does the same, file by file."""

  def wrote(self, path: pathlib.Path) -> None:
    """Publishes a complete file."""

  def move(self, old: pathlib.Path, new: pathlib.Path) -> None:
    """Renames a published file."""
    old.replace(new)

  def remove(self, path: pathlib.Path) -> None:
    """Removes a file, if it exists."""
    path.unlink(missing_ok=True)

  def fetch(self, path: pathlib.Path) -> bool:
    """Brings a file up to date; False where there is none."""
    return path.is_file()

  @contextlib.contextmanager
  def whole(self, path: pathlib.Path) -> Iterator[None]:
    """Keeps a shard available locally while the block runs, if it exists."""
    yield

  def publish(self) -> None:
    """Publishes everything in the folder besides data sets."""

  def refresh(self) -> None:
    """Brings everything in the folder up to date."""


LOCAL = Disk()
