"""Writes a data set that a kill at any moment cannot damage.

Records go to numbered parts of `shard_records`, one file a part, under a temporary name
until it is whole, then under the name of a TFDS shard, which says the number and not how
many there are: a set grows without renaming, which buckets do by copying. A part counts
once its list of lines, `parts/train-00007.parquet`, has its name: that rename is the only
commit. `finish` moves the last parts into gaps between the numbers, where there are any,
and writes TFDS's own files, `dataset_info.json` last; a set without that file is
unfinished, and the next writer puts the parts back first.

Several hosts may write one set at a time: the numbers go round among them, and each
leaves the parts of others alone; the first of them begins and finishes the set.
"""

from collections.abc import Collection
import json
import os
import pathlib
import re
import shutil
from typing import Any

from absl import logging
import numpy as np
import tensorflow_datasets as tfds

from video_dit import files
from video_dit.data import disk as disk_lib
from video_dit.data import existing, schema
from video_dit.data import finish as finish_lib
from video_dit.data import keys as keys_lib
from video_dit.data import parts as parts_lib


class DiskError(ValueError):
  """The disk refused a write; what was committed before is safe."""


class ShardWriter:
  """Adds records to a data set; safe to kill and to run again.

      with ShardWriter(folder, metadata) as writer:
        done = {key for _, keys, _ in existing.committed(folder) for key in keys}
        for record in (make(clip) for clip in clips if clip.key not in done):
          writer.write(record, split="train")
        writer.finish()

  Leaving the block commits the records written so far, also after an error.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    metadata: schema.Metadata,
    *,
    shard_records: int = 512,
    host: int = 0,
    hosts: int = 1,
    disk: disk_lib.Disk = disk_lib.LOCAL,
  ):
    """Opens a set, new or unfinished, and removes what a kill left behind.

    Args:
      folder: of the data set, such as `OUT/latents`.
      metadata: what makes the set.
      shard_records: records in one file.
      host, hosts: which of how many writers at a time this is.
      disk: where files are made visible.

    Raises:
      ValueError: the folder holds a set made by other encoders or settings.
    """
    self.folder = pathlib.Path(folder)
    self._shard_records = shard_records
    self._host, self._hosts, self._disk = host, hosts, disk
    self._parts = self.folder / parts_lib.PARTS
    self._open: dict[str, parts_lib.Part] = {}
    self._next: dict[str, int] = {}  # number of the next part of a split, once known
    self.metadata = metadata = existing.check(self.folder, metadata)
    self._features = schema.features(metadata)
    self._serializer = tfds.core.example_serializer.ExampleSerializer(
      self._features.get_serialized_info()
    )
    if host == 0:
      metadata.save(self.folder)
      for name in (schema.EMPTY, schema.PROVENANCE):
        if (self.folder / name).exists():
          disk.wrote(self.folder / name)
    self._parts.mkdir(parents=True, exist_ok=True)
    if host == 0 and not (self.finished and self._has_all_shards()):
      self.reopen()
    self._sweep()
    self._keys = keys_lib.Keys(map(parts_lib.keys, self._parts.glob("*.parquet")))
    number = len(self._keys)
    if host == 0 and self.finished and not finish_lib.is_whole(self.folder, number):
      self.reopen()  # `finish` makes anew what is missing.
      self._sweep()

  @property
  def finished(self) -> bool:
    """Whether the set on disk is complete and readable."""
    return (self.folder / finish_lib.INFO).exists()

  def write(self, record: schema.Record, split: str) -> None:
    """Adds one record.

    Raises:
      ValueError: the key is in the set already, the split unknown, or an array has
        another dtype or shape than the set's.
      DiskError: there is no room, or the disk is broken.
    """
    if split not in schema.SPLITS:
      raise ValueError(f"{self.folder}: split {split!r} is not one of {schema.SPLITS}.")
    if record.key in self._keys:
      raise ValueError(
        f"{self.folder}: key {record.key} is in the set already. Skip what"
        " `existing.committed` names, and what was written since."
      )
    values = schema.fields(self.metadata, record)
    message = self._serializer.get_tf_example(self._features.encode_example(values))
    part = self._open.get(split) or self._begin(split)
    try:
      part.file.write(message.SerializeToString(deterministic=True))
    except (OSError, RuntimeError) as error:
      raise self._give_up(part, split, error) from error
    part.lines.append(record.line())
    self._keys.add([record.key])
    if len(part.lines) == self._shard_records:
      self._commit(split)

  def close(self) -> None:
    """Commits the parts being written, however short."""
    for split in list(self._open):
      self._commit(split)

  def __enter__(self) -> "ShardWriter":
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def finish(self) -> None:
    """Names the shards and writes TFDS's files and the index; does nothing twice.

    Raises:
      ValueError: there is no record.
    """
    self.close()
    if self.finished:
      return
    self.drop_repeated()
    if not any(self._parts.glob("*.parquet")):
      raise ValueError(
        f"{self.folder}: no record was written, so there is no data set to finish."
        " See the rejects for the reasons."
      )
    names: dict[str, str] = {}
    for split in schema.SPLITS:
      names |= parts_lib.without_gaps(self.metadata.kind, split, self._numbers(split))
    text = json.dumps(names, indent=2)
    files.write(self.folder / parts_lib.SHARDS, text)
    self._disk.wrote(self.folder / parts_lib.SHARDS)
    for part, name in names.items():
      if self._data(part).name != name:
        self._disk.move(self._data(part), self.folder / name)
    lengths = finish_lib.write_index(self.folder, self._parts, names)
    self._disk.wrote(self.folder / schema.INDEX)
    finish_lib.write_info(self.folder, self.metadata, names, lengths, self._disk)

  def drop_repeated(self) -> int:
    """Removes the records whose keys an earlier part has; returns how many.

    Hosts that were started again in another number may have made clips twice. What else
    is in their parts stays, as with `drop`.

    Raises:
      DiskError: there is no room for a part, or what is to stay of it cannot be read.
    """
    names = [f"{s}-{n:05d}" for s in schema.SPLITS for n in self._numbers(s)]
    paths = [self._parts / f"{name}.parquet" for name in names]
    parts = [parts_lib.keys(path) for path in paths]
    ends = np.cumsum([0, *map(len, parts)])
    keys = np.concatenate([np.empty(0, "S32"), *parts])
    del parts
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    repeated = np.zeros(len(keys), bool)
    repeated[order[1:][in_order[1:] == in_order[:-1]]] = True
    dropped = int(repeated.sum())
    for path, first, end in zip(paths, ends[:-1], ends[1:], strict=True):
      unique = np.flatnonzero(~repeated[first:end]).tolist()
      if len(unique) < end - first:
        lines = finish_lib.read_lines(path).to_pylist()
        self._rewrite(path, lines, unique, lossy=False)
        self._keys.add(keys[first:end])  # An earlier part has those that are gone here.
    if dropped:
      logging.warning(
        "%s: clips that two hosts had made, of which one record stays: %d.",
        self.folder,
        dropped,
      )
    return dropped

  def drop(self, keys: Collection[str]) -> None:
    """Removes records: of each part that holds some, the others are written again.

    Others that cannot be read go with them. A kill while a part is written again costs
    that part, as if all of its records had been dropped.

    Raises:
      DiskError: there is no room for a part.
    """
    if not self._keys.has(keys).any():
      return
    self.reopen()
    gone = keys_lib.Keys([np.array(list(keys), "S32")])
    for path in sorted(self._parts.glob("*.parquet")):
      is_gone = gone.has(parts_lib.keys(path))
      if is_gone.any():
        lines = finish_lib.read_lines(path).to_pylist()
        self._rewrite(path, lines, np.flatnonzero(~is_gone).tolist(), lossy=True)

  def _rewrite(
    self,
    path: pathlib.Path,
    lines: list[dict[str, Any]],
    kept: list[int],
    *,
    lossy: bool,
  ) -> None:
    """Leaves only some records of a part; where `lossy`, of those that can be read."""
    part = self._copy(path.stem, lines, kept)
    if len(part.lines) < len(kept) and not lossy:
      part.path.unlink()
      raise DiskError(
        f"{self._data(path.stem)}: {len(kept) - len(part.lines)} of its records cannot be"
        " read. Remove this file, and run again: its clips are made again."
      )
    self._keys.remove([line["key"] for line in lines])
    self._next.clear()  # The part may have been the last.
    self._disk.remove(path)  # From here on the part is none, until its list is there.
    if part.lines:
      self._place(part)
    else:
      part.path.unlink()
      self._disk.remove(self._data(part.name))

  def reopen(self) -> None:
    """Puts moved shards back to their numbers; the set is unreadable until `finish`."""
    shards = self.folder / parts_lib.SHARDS
    if not shards.exists():
      return
    names = parts_lib.names(self.folder)
    for name in (finish_lib.INFO, schema.INDEX):
      self._disk.remove(self.folder / name)
    for part, name in names.items():
      if name != self._data(part).name and (self.folder / name).exists():
        self._disk.move(self.folder / name, self._data(part))
    self._disk.remove(shards)

  def _has_all_shards(self) -> bool:
    names = parts_lib.names(self.folder)
    return all((self.folder / name).exists() for name in names.values())

  def _data(self, part: str) -> pathlib.Path:
    return self.folder / parts_lib.shard_name(self.metadata.kind, part)

  def _numbers(self, split: str) -> list[int]:
    """Numbers of the committed parts of a split, in order."""
    parts = self._parts.glob(f"{split}-*.parquet")
    return sorted(int(path.stem.rpartition("-")[2]) for path in parts)

  def _is_mine(self, path: pathlib.Path) -> bool:
    """Whether a part's file, shard or list, whole or not, is of this host."""
    number = re.search(r"-(\d+)", path.name)
    return number is not None and int(number[1]) % self._hosts == self._host

  def _begin(self, split: str) -> parts_lib.Part:
    if split not in self._next:
      mine = [n for n in self._numbers(split) if n % self._hosts == self._host]
      self._next[split] = mine[-1] + self._hosts if mine else self._host
    name = f"{split}-{self._next[split]:05d}"
    self._open[split] = parts_lib.begin(self._parts, name)
    return self._open[split]

  def _commit(self, split: str) -> None:
    part = self._open[split]
    try:
      parts_lib.close(part)
      if not self._hosts > 1:
        self.reopen()
      self._place(part)
    except (OSError, RuntimeError) as error:
      raise self._give_up(part, split, error) from error
    del self._open[split]
    self._next[split] = int(part.name.rpartition("-")[2]) + self._hosts

  def _place(self, part: parts_lib.Part) -> None:
    """Gives a part that is whole its name, then its list."""
    part.path.replace(self._data(part.name))
    self._disk.wrote(self._data(part.name))
    lines = self._parts / f"{part.name}.parquet"
    parts_lib.write_lines(lines, part.lines)
    self._disk.wrote(lines)
    self._keys.add([line["key"] for line in part.lines])

  def _copy(
    self, name: str, lines: list[dict[str, Any]], kept: list[int]
  ) -> parts_lib.Part:
    """Writes some records of a committed part again, under a temporary name."""
    part = parts_lib.begin(self._parts, name)
    try:
      with self._disk.whole(self._data(name)):
        for i, record in parts_lib.read(self._data(name), kept):
          part.file.write(record)
          part.lines.append(lines[i])
      parts_lib.close(part)
    except (OSError, RuntimeError) as error:
      part.path.unlink(missing_ok=True)
      raise DiskError(
        f"{part.path}: could not write the shard again ({error})."
        " What was there is safe. Free some space, and run again."
      ) from error
    return part

  def _give_up(self, part: parts_lib.Part, split: str, error: Exception) -> DiskError:
    """Drops a part that the disk refuses."""
    self._open.pop(split, None)
    self._keys.remove([line["key"] for line in part.lines])
    for path in (part.path, self._data(part.name)):
      path.unlink(missing_ok=True)
    if not self._parts.is_dir():
      return DiskError(
        f"{self.folder}: was removed while it was written, or its disk is gone. Bring it"
        " back, or run again to make it anew."
      )
    number = len(self._keys)
    safe = "record before it is" if number == 1 else "records before it are"
    return DiskError(
      f"{part.path}: could not write the current shard ({error}). The"
      f" {number:,} {safe} safe. Free some space, and run again."
    )

  def _sweep(self) -> None:
    """Removes what was not committed, or lacks its half; of this host, or of all."""
    for path in self._parts.glob("*.unfinished"):
      if self._is_mine(path):
        path.unlink()
    named = parts_lib.names(self.folder)  # of a set that the first host finishes, too
    for path in self.folder.glob("*.array_record-*"):
      if not path.name[-1].isdigit():  # a copy that somebody made
        continue
      part = parts_lib.part_name(path.name)
      committed = (self._parts / f"{part}.parquet").exists()
      if self._is_mine(path) and not committed and path.name not in named.values():
        self._disk.remove(path)
    if self._host:
      return
    for path in self._parts.glob("*.parquet"):
      if path.stem not in named and not self._data(path.stem).exists():
        self._disk.remove(path)
    for path in self.folder.glob("*.unfinished"):
      shutil.rmtree(path) if path.is_dir() else path.unlink()
