"""The clips that a data set holds, which a later run keeps where possible."""

import hashlib
import os
from typing import Any

import numpy as np

from video_dit.data import existing
from video_dit.preprocess import rows as rows_lib


class Held:
  """Keys of records, and a digest of caption and split, in 40 bytes a record."""

  def __init__(self, folder: str | os.PathLike[str] | None = None):
    """Reads what a set holds, without reading records.

    Args:
      folder: of the set; need not exist. None holds nothing.
    """
    keys, marks = [np.empty(0, "S32")], [np.empty(0, "S8")]
    for split, its, captions in existing.committed(folder) if folder is not None else ():
      keys.append(np.array(its, "S32"))
      marks.append(np.array([_mark(split, texts[0]) for texts, _ in captions], "S8"))
    found = np.concatenate(keys)
    order = np.argsort(found, kind="stable")
    self._keys, self._marks = found[order], np.concatenate(marks)[order]

  def has_key(self, key: str) -> bool:
    """Whether there is a record of this clip."""
    return self._place(key) is not None

  def has(self, row: dict[str, Any]) -> bool:
    """Whether there is a record of this row's clip, of its caption and split."""
    place = None if "reason" in row else self._place(row["key"])
    if place is None:
      return False
    texts, _ = rows_lib.captions(row)
    return bool(self._marks[place] == _mark(row["split"], texts[0]))

  def _place(self, key: str) -> int | None:
    wanted = key.encode("ascii")
    place = int(np.searchsorted(self._keys, wanted))
    is_there = place < len(self._keys) and self._keys[place] == wanted
    return place if is_there else None


def _mark(split: str, caption: str) -> bytes:
  digest = hashlib.blake2b(f"{split}\0{caption}".encode(), digest_size=4)
  return digest.hexdigest().encode("ascii")
