"""A set of keys that takes 32 bytes for each; Python's own takes over a hundred."""

from collections.abc import Collection, Iterable

import numpy as np

_RECENT = 1 << 16  # keys kept in a `set` before they are sorted in among the others


class Keys:
  """Keys of records; grows without being sorted anew for each."""

  def __init__(self, keys: Iterable[np.ndarray] = ()):
    """Holds what is in these arrays of keys."""
    together = np.concatenate([np.empty(0, "S32"), *keys])
    together.sort()
    repeats = np.flatnonzero(together[1:] == together[:-1])
    self._sorted = np.delete(together, repeats) if len(repeats) else together
    self._recent: set[bytes] = set()

  def __len__(self) -> int:
    return len(self._sorted) + len(self._recent)

  def __contains__(self, key: str) -> bool:
    wanted = key.encode()
    place = np.searchsorted(self._sorted, wanted)
    is_sorted = place < len(self._sorted) and self._sorted[place] == wanted
    return bool(is_sorted) or wanted in self._recent

  def has(self, keys: Collection[str] | np.ndarray) -> np.ndarray:
    """Which of some keys are here: bool, one for each."""
    wanted = _array(keys)
    found = np.zeros(len(wanted), bool)
    if len(self._sorted):
      places = np.searchsorted(self._sorted, wanted)
      found = self._sorted.take(places, mode="clip") == wanted
    if self._recent:
      found |= np.fromiter((key in self._recent for key in wanted.tolist()), bool)
    return found

  def add(self, keys: Collection[str] | np.ndarray) -> None:
    """Adds keys; those that are here stay once."""
    new = _array(keys)
    self._recent.update(new[~self.has(new)].tolist())
    if len(self._recent) > _RECENT:
      recent = np.sort(np.array(list(self._recent), "S32"))
      places = np.searchsorted(self._sorted, recent)
      self._sorted = np.insert(self._sorted, places, recent)
      self._recent = set()

  def remove(self, keys: Collection[str] | np.ndarray) -> None:
    """Removes keys; those that are not here are passed over."""
    gone = Keys([_array(keys)])
    self._recent.difference_update(gone._sorted.tolist())
    self._sorted = self._sorted[~gone.has(self._sorted)]


def _array(keys: Collection[str] | np.ndarray) -> np.ndarray:
  return keys if isinstance(keys, np.ndarray) else np.array(list(keys), "S32")
