"""Names of files that differ only in how Unicode spells them.

An accented letter may be one character (NFC) or a letter and an accent (NFD). Files that
come from macOS often have the second, and what people type is the first.
"""

from collections.abc import Collection, Iterable
import functools
import os
import unicodedata


def pairs(names: Collection[str], others: Collection[str]) -> dict[str, str]:
  """For each name that has no equal among the others, the one that is spelt differently.

  A name is left out where several others are spelt so, and where the only one has an
  equal among the names.
  """
  alike = _by_text(others)
  found = {}
  for name in names:
    if name.isascii() or name in others:
      continue
    spelt = alike.get(unicodedata.normalize("NFC", name), [])
    if len(spelt) == 1 and spelt[0] not in names:
      found[name] = spelt[0]
  return found


class Disk:
  """Paths as the disk spells them; folders are listed once."""

  def __init__(self, root: str):
    """Takes the folder that the paths lie below."""
    self._root = root
    self._listed = functools.lru_cache(maxsize=16)(_listed)

  def path(self, file: str) -> str:
    """The path of a file, which may be spelt differently where it does not exist.

    It is changed only if at each step one file or folder is spelt so.
    """
    if file.isascii() or os.path.lexists(file):
      return file
    found = self._root
    for part in os.path.relpath(file, self._root).split(os.sep):
      if not part.isascii() and not os.path.lexists(os.path.join(found, part)):
        spelt = self._listed(found).get(unicodedata.normalize("NFC", part), [])
        if len(spelt) != 1:
          return file
        (part,) = spelt
      found = os.path.join(found, part)
    return found


def _listed(folder: str) -> dict[str, list[str]]:
  try:
    return _by_text(name for name in os.listdir(folder) if not name.isascii())
  except OSError:
    return {}


def _by_text(names: Iterable[str]) -> dict[str, list[str]]:
  alike: dict[str, list[str]] = {}
  for name in names:
    alike.setdefault(unicodedata.normalize("NFC", name), []).append(name)
  return alike
