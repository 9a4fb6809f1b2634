"""Reads data sets: one, or several that are trained on together."""

from collections.abc import Sequence
import os
import pathlib
from typing import Any

import numpy as np

from video_dit.data import schema
from video_dit.data import split as split_lib
from video_dit.data.split import RecordError

__all__ = ["Dataset", "RecordError", "check", "held_out", "named", "set_folders"]

# Of the provenance, what data sets that are trained on together must share.
_SHARED = ("kind", "autoencoder", "channels", "space", "time", "text", "text_width")


def named(path: str) -> list[pathlib.Path]:
  """The folders that `data.path` names: one, or several separated by commas."""
  names = [path] if os.path.exists(path) else path.split(",")
  return [pathlib.Path(name).expanduser() for name in names if name]


def set_folders(path: str, kind: schema.Kind) -> list[pathlib.Path]:
  """Folders of data sets: inside outputs of preprocess, or these themselves.

  Args:
    path: as in `named`.
    kind: of the sets.

  Raises:
    ValueError: no path is configured, or one twice.
  """
  if not (outputs := named(path)):
    raise ValueError(
      "config.data.path is empty: it must name the folder that"
      " `python -m video_dit.preprocess` wrote, or several separated by commas. Set"
      " --config.data.path=FOLDER."
    )
  folders: list[pathlib.Path] = []
  for folder in outputs:
    found = folder if (folder / schema.PROVENANCE).is_file() else folder / kind
    if any(os.path.realpath(found) == os.path.realpath(other) for other in folders):
      raise ValueError(
        f"config.data.path={path!r}: {folder} is named twice. To see its clips more often"
        " than others, name it once and raise its entry of data.weights."
      )
    folders.append(found)
  return folders


class Dataset:
  """One split of one data set or of several; `len`, and `[i]`. Thread-safe.

  The records of several sets alternate evenly, so that any part of them is a sample of
  all.

  Attributes:
    sets: the split of each folder.
    metadata: what made them: that of the first, with whose encoders all agree.
    index: the columns that planning needs.
    damaged: records found unusable so far, by number, and why.
  """

  def __init__(
    self,
    folders: str | os.PathLike | Sequence[str | os.PathLike],
    split: str = "train",
  ):
    """Opens finished sets; no record is read yet.

    Raises:
      ValueError: as `Split`, or the sets were made by different encoders.
    """
    named = [folders] if isinstance(folders, (str, os.PathLike)) else folders
    self.sets = [split_lib.Split(folder, split) for folder in named]
    self.metadata = self.sets[0].metadata
    for one in self.sets[1:]:
      _check_together(self.metadata, one.metadata)
    self.damaged: dict[int, str] = {}
    self._starts = np.cumsum([0, *map(len, self.sets)])
    self._order: np.ndarray | None = None
    self.index = self.sets[0].index
    if len(self.sets) > 1:
      self._order = _alternating([len(one) for one in self.sets])
      self.index = split_lib.Joined([one.index for one in self.sets], self._order)

  def __len__(self) -> int:
    return len(self.index)

  def __getitem__(self, i: int) -> Any:
    """The record at `i`.

    Raises:
      RecordError: its bytes are damaged, or still refused after some attempts.
      HostError: as `shards.refuse_host_error`, also after them.
    """
    if not 0 <= i < len(self):
      raise IndexError(f"{self.metadata.folder}: no record {i} of {len(self)}.")
    number, place = self._locate(i)
    return self.sets[number][place]

  def clip(self, i: int) -> str:
    """Which clip record i is, for messages."""
    return f"{self.sets[self._locate(i)[0]].folder}: clip {self.index.key[i].decode()}"

  def set_of(self) -> np.ndarray:
    """`(n,)` int32: the number of each record's set."""
    if self._order is None:
      return np.zeros(len(self), np.int32)
    found = np.searchsorted(self._starts, self._order, side="right") - 1
    return found.astype(np.int32)

  def _locate(self, i: int) -> tuple[int, int]:
    """The number of a record's set, and its place there."""
    place = i if self._order is None else int(self._order[i])
    number = int(np.searchsorted(self._starts, place, side="right")) - 1
    return number, place - int(self._starts[number])


def held_out(folders: Sequence[str | os.PathLike]) -> Dataset:
  """The validation clips of those sets that have some.

  Raises:
    ValueError: none has; or as `Dataset`.
  """
  if len(folders) == 1:
    return Dataset(folders, "validation")
  having, reasons = [], []
  for folder in folders:
    try:
      if len(split_lib.Split(folder, "validation")):
        having.append(folder)
    except split_lib.NoSplit as error:
      reasons.append(error)
  if not having and reasons:
    raise reasons[0]
  return Dataset(having or folders, "validation")


def _alternating(sizes: Sequence[int]) -> np.ndarray:
  """Places in sets laid end to end, so that each comes evenly: `(n,)` int64."""
  shares = [(np.arange(size) + 0.5) / max(size, 1) for size in sizes]
  return np.argsort(np.concatenate(shares), kind="stable")


def _check_together(first: schema.Metadata, other: schema.Metadata) -> None:
  """Refuses sets that one model cannot be trained on."""
  for name in _SHARED:
    a, b = getattr(first, name), getattr(other, name)
    if a != b:
      raise ValueError(
        f"{other.folder}: made with {name}={b!r}, but {first.folder} with {a!r}. Data"
        " sets of one data.path need the same encoders: preprocess one of them again,"
        " or train on them one after the other."
      )
  if (first.empty is None) != (other.empty is None):
    raise ValueError(
      f"{first.folder} and {other.folder}: only one has the encoding of the empty caption"
      f" ({schema.EMPTY}). Preprocess the other again."
    )


def check(
  metadata: schema.Metadata,
  autoencoder_fingerprint: str | None = None,
  text_fingerprint: str | None = None,
  *,
  kind: schema.Kind = "latents",
) -> None:
  """Refuses a set of another kind, or one made by other encoders.

  Args:
    metadata: of the set.
    autoencoder_fingerprint, text_fingerprint: of the encoders in use; None is unchecked.
    kind: what is wanted.

  Raises:
    ValueError: naming the folder, both values and the remedy.
  """
  if metadata.kind != kind:
    raise ValueError(
      f"{metadata.folder}: a data set of {metadata.kind!r} where {kind!r} are needed."
      " Correct data.path, or config.objective."
    )
  encoders = {
    "autoencoder": (
      metadata.autoencoder,
      metadata.autoencoder_path,
      autoencoder_fingerprint,
    ),
    "text encoder": (metadata.text, metadata.text_path, text_fingerprint),
  }
  for name, (made, path, used) in encoders.items():
    if used is not None and made != used:
      raise ValueError(
        f"{metadata.folder}: made by the {name} with fingerprint {made!r}"
        f" ({path or 'path unknown'}), but the one in use has {used!r}."
        f" Use that {name}, or preprocess again with this one."
      )
