"""One split of one data set: its index in a few bytes per clip, its records at random."""

import functools
import hashlib
import os
import pathlib
import time
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from video_dit.data import schema, shards

# Seconds before what a file system refused is read again: a hiccup of a mounted bucket
# is no damage, and leaving a record out for it would train on other batches.
_PAUSES = (0.2, 1.0)


class RecordError(ValueError):
  """A record that cannot be read; names the shard and the record."""


class NoSplit(ValueError):
  """The data set has no split of this name."""


class Index:
  """Columns of `index.parquet` for one split, in the order of the records.

  Attributes:
    t, h, w: `(n,)` int32, latent extents (pixels' frames, height and width).
    text_tokens: `(n,)` int32.
  """

  def __init__(self, path: pathlib.Path, split: str):
    self._path = path
    self._split = split
    self.t, self.h, self.w, self.text_tokens = self.columns("t", "h", "w", "text_tokens")

  def __len__(self) -> int:
    return len(self.t)

  @functools.cached_property
  def key(self) -> np.ndarray:
    """`(n,)` bytes of 32 hexadecimal digits; read when first asked for."""
    return self.column("key").astype("S32")

  def digest_of_keys(self) -> str:
    """Hash of all keys in order, 16 digits; they are not all held at once."""
    digest = hashlib.sha256()
    with pq.ParquetFile(self._path) as file:
      for batch in file.iter_batches(columns=["key", "split"]):
        rows = batch.filter(pc.equal(batch["split"], self._split))
        digest.update(rows["key"].to_numpy(zero_copy_only=False).astype("S32").tobytes())
    return digest.hexdigest()[:16]

  def column(self, name: str) -> np.ndarray:
    """Any column: key, t, h, w, text_tokens, frames_per_second, caption, shard, ..."""
    return self.columns(name)[0]

  def columns(self, *names: str) -> list[np.ndarray]:
    """Some columns, read at once."""
    table = pq.read_table(self._path, columns=[*names, "split"])
    rows = table.filter(pc.field("split") == self._split)
    return [rows[name].to_numpy() for name in names]


class Joined(Index):
  """The lines of several indices in one order."""

  def __init__(self, parts: list[Index], order: np.ndarray):
    """Joins.

    Args:
      parts: the indices.
      order: `(n,)` line of the parts end to end, for each line here.
    """
    self._parts = parts
    self._order = order
    self.t, self.h, self.w, self.text_tokens = (
      np.concatenate([getattr(part, name) for part in parts])[order]
      for name in ("t", "h", "w", "text_tokens")
    )

  def digest_of_keys(self) -> str:
    """Hash of the parts' digests, 16 digits."""
    digests = "".join(part.digest_of_keys() for part in self._parts)
    return hashlib.sha256(digests.encode()).hexdigest()[:16]

  def columns(self, *names: str) -> list[np.ndarray]:
    parts = zip(*(part.columns(*names) for part in self._parts), strict=True)
    return [np.concatenate(column)[self._order] for column in parts]


class Split:
  """One split of one folder; `len`, and `[i]` for the record. Thread-safe.

  Attributes:
    folder: of the data set.
    metadata: what made it.
    index: the columns that planning needs.
  """

  def __init__(self, folder: str | os.PathLike, split: str):
    """Opens a finished set; no record is read yet.

    Raises:
      NoSplit: the set has no such split.
      ValueError: there is no set, it is unfinished, or lacks a shard.
    """
    self.folder = pathlib.Path(folder)
    self.metadata = schema.Metadata.load(self.folder)
    if not (self.folder / "dataset_info.json").exists():
      raise ValueError(
        f"{self.folder}: the data set is unfinished (no dataset_info.json). Run"
        " `python -m video_dit.preprocess` again; it resumes where it stopped."
      )
    builder = tfds.builder_from_directory(str(self.folder))
    if split not in builder.info.splits:
      raise NoSplit(
        f"{self.folder}: no split {split!r}, only {sorted(builder.info.splits)}."
        " Preprocess more files, raise media.validation_fraction, or name files for it"
        " in the column `split` of a manifest."
      )
    info = builder.info.splits[split]
    paths = [os.fspath(path) for path in info.filepaths]
    names = set(os.listdir(self.folder))  # Once: to ask for each may take minutes.
    for path in paths:
      if os.path.basename(path) not in names:
        raise ValueError(f"{path}: a shard of the data set is missing. Put it back.")
    self._name = split
    self._source = shards.Shards(paths, info.shard_lengths)
    self.index = Index(self.folder / schema.INDEX, split)
    if len(self.index) != len(self._source):
      raise ValueError(
        f"{self.folder / schema.INDEX}: {len(self.index)} lines for {len(self._source)}"
        f" records of split {split!r}. Delete dataset_info.json and preprocess again."
      )

  def __len__(self) -> int:
    return len(self.index)

  def __getitem__(self, i: int) -> Any:
    """The record at `i`.

    Raises:
      RecordError: its bytes are damaged, or still refused after some attempts.
      HostError: as `shards.refuse_host_error`, also after them.
    """
    path, offset = self._source.place(i)
    try:
      return schema.parse(self.metadata, self._bytes(int(i)))
    except MemoryError:
      raise
    except Exception as error:
      shards.refuse_host_error(path, error)
      raise RecordError(
        f"{path}: record {offset} of split {self._name!r} cannot be read"
        f" ({type(error).__name__}: {error}). Restore the file or preprocess again."
      ) from error

  def _bytes(self, i: int) -> bytes:
    for pause in _PAUSES:
      try:
        return self._source[i]
      except (OSError, RuntimeError):  # ArrayRecord's own is the latter.
        time.sleep(pause)
    return self._source[i]
