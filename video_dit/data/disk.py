"""What makes files visible to others; where they are local, nothing needs be done."""

from collections.abc import Iterator
import contextlib
import pathlib


class Disk:
  """A local folder. A remote one does the same there, file by file."""

  def wrote(self, path: pathlib.Path) -> None:
    """A file is whole and may be seen."""

  def move(self, old: pathlib.Path, new: pathlib.Path) -> None:
    """Renames a file that may be seen."""
    old.replace(new)

  def remove(self, path: pathlib.Path) -> None:
    """Removes a file, if it is there."""
    path.unlink(missing_ok=True)

  def fetch(self, path: pathlib.Path) -> bool:
    """Brings a file up to date; False where there is none."""
    return path.is_file()

  @contextlib.contextmanager
  def whole(self, path: pathlib.Path) -> Iterator[None]:
    """Has a shard here to be read while the block lasts, if it is there."""
    yield

  def publish(self) -> None:
    """All that lies in the folder beside data sets is whole and may be seen."""

  def refresh(self) -> None:
    """Brings all that lies in the folder up to date."""


LOCAL = Disk()
