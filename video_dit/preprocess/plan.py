"""What a data set should hold, in a hundred bytes a clip, and what it holds already."""

import dataclasses
import hashlib
import os
import pathlib

import numpy as np
import pyarrow.parquet

from video_dit.data import existing, schema
from video_dit.preprocess import rows as rows_lib

_COLUMNS = {
  "line": np.int64,
  "first_frame": np.int64,
  "frames": np.int32,
  "height": np.int32,
  "width": np.int32,
  "tokens": np.int32,
  "start_seconds": np.float64,
  "frames_per_second": np.float32,
}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
  """Columns of the table of clips, ordered by shape, then by place in the input.

  Attributes:
    key: `(n,)` bytes of 32 hexadecimal digits.
    mark: `(n,)` uint64, of split and of the captions that a record keeps; another mark
      is another record.
    is_validation: `(n,)` bool.
    row: `(n,)` int64, number of the clip's row in the table.
    several: some record keeps more than one caption.
    line, first_frame, frames, height, width, tokens, start_seconds, frames_per_second:
      as in the table.
  """

  key: np.ndarray
  mark: np.ndarray
  is_validation: np.ndarray
  row: np.ndarray
  several: bool
  line: np.ndarray
  first_frame: np.ndarray
  frames: np.ndarray
  height: np.ndarray
  width: np.ndarray
  tokens: np.ndarray
  start_seconds: np.ndarray
  frames_per_second: np.ndarray

  def __len__(self) -> int:
    return len(self.key)

  def shape(self, i: int) -> tuple[int, int, int]:
    """Frames, height and width of clip i."""
    return int(self.frames[i]), int(self.height[i]), int(self.width[i])


def read(path: str | os.PathLike[str], kind: schema.Kind) -> Plan:
  """Reads the columns needed from the table of clips for a data set of a kind."""
  parts: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
  keys, marks, splits, several = [], [], [], False
  with pyarrow.parquet.ParquetFile(path) as file:
    texts = ["caption", "captions", "caption_weights"]
    names = ["key", "split", *_COLUMNS]
    names += [name for name in texts if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=8192, columns=names):
      split = batch["split"].to_pylist()
      keys.append(np.array(batch["key"].to_pylist(), "S32"))
      rows = batch.select([n for n in texts if n in batch.schema.names]).to_pylist()
      captions = [rows_lib.captions(row) for row in rows]
      if kind == "pixels":  # whose records keep the heaviest caption
        captions = [(texts[:1], weights[:1]) for texts, weights in captions]
      several = several or any(len(texts) > 1 for texts, _ in captions)
      marks.append(_marks(captions, split))
      splits.append(np.array([s == "validation" for s in split], bool))
      for name in _COLUMNS:
        parts[name].append(batch[name].to_numpy(zero_copy_only=False))
  columns = {name: _join(parts[name], dtype) for name, dtype in _COLUMNS.items()}
  columns |= {"key": _join(keys, "S32"), "mark": _join(marks, np.uint64)}
  columns["is_validation"] = _join(splits, bool)
  columns["row"] = np.arange(len(columns["key"]))
  by_shape = (columns[n] for n in ("first_frame", "line", "width", "height", "frames"))
  order = np.lexsort(tuple(by_shape))
  return Plan(
    several=several, **{name: column[order] for name, column in columns.items()}
  )


def _join(parts: list[np.ndarray], dtype) -> np.ndarray:
  return np.concatenate(parts).astype(dtype) if parts else np.empty(0, dtype)


def _marks(
  captions: list[tuple[list[str], list[float]]], splits: list[str]
) -> np.ndarray:
  marks = []
  for (texts, weights), split in zip(captions, splits, strict=True):
    parts = [split, *texts]
    if len(texts) > 1:
      parts += [f"{weight:.6g}" for weight in weights]
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    marks.append(int.from_bytes(digest, "big"))
  return np.array(marks, np.uint64)


def compare(plan: Plan, folder: pathlib.Path) -> tuple[np.ndarray, dict[str, str]]:
  """Compares a data set, finished or not, with the plan.

  Args:
    plan: what is wanted.
    folder: of the data set; need not exist.

  Returns:
    `(n,)` bool, which clips of the plan are there; and the keys of records that are
    there and are not of the plan, with the reason.
  """
  order = np.argsort(plan.key)
  present = np.zeros(len(plan), bool)
  stale = {}
  for split, keys, captions in existing.committed(folder):
    marks = _marks(captions, [split] * len(keys))
    found = np.array(keys, "S32")
    wanted = same = np.zeros(len(found), bool)
    if len(order):
      places = np.searchsorted(plan.key, found, sorter=order)
      i = order.take(places, mode="clip")
      wanted = plan.key[i] == found
      same = wanted & (plan.mark[i] == marks)
      present[i[same]] = True
    for key, is_wanted in zip(found[~same].tolist(), wanted[~same], strict=True):
      reason = "now has another caption or split" if is_wanted else "is no longer wanted"
      stale[key.decode()] = reason
  return present, stale
