"""Writes a data set that a kill at any moment cannot spoil.

Records go to numbered parts of `shard_records`, one file a part, under a temporary name
until it is whole. A part counts once its list of lines, `parts/train-00007.parquet`,
has its name: that rename is the only commit. `finish` gives the parts TFDS's shard names
and writes TFDS's own files, `dataset_info.json` last; a set without that file is
unfinished, and the next writer puts the parts back first.
"""

from collections.abc import Iterator
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

from array_record.python import array_record_module
from etils import epath
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from video_dit.data import schema

# One record a group, uncompressed: the fastest to read at random (latents do not
# compress).
OPTIONS = "group_size:1,uncompressed"

_LINES = pa.schema(
  [
    ("key", pa.string()),
    ("t", pa.int32()),
    ("h", pa.int32()),
    ("w", pa.int32()),
    ("text_tokens", pa.int32()),
    ("frames_per_second", pa.float32()),
    ("caption", pa.string()),
  ]
)
_PARTS = "parts"
_SHARDS = "shards.json"
_INFO = "dataset_info.json"


@dataclasses.dataclass
class _Part:
  """A part being written."""

  name: str
  path: pathlib.Path
  file: Any
  lines: list[dict[str, Any]]


class ShardWriter:
  """Adds records to a data set; safe to kill and to run again.

      with ShardWriter(folder, metadata) as writer:
        done = writer.written_keys()
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
  ):
    """Opens a set, new or begun, and clears away what a kill left behind.

    Args:
      folder: of the data set, such as `OUT/latents`.
      metadata: who makes the set.
      shard_records: records in one file.

    Raises:
      ValueError: the folder holds a set made by others or with other settings.
    """
    self.folder = pathlib.Path(folder)
    self.metadata = metadata
    self._shard_records = shard_records
    self._parts = self.folder / _PARTS
    self._open: dict[str, _Part] = {}
    features = schema.features(metadata)
    self._features = features
    self._serializer = tfds.core.example_serializer.ExampleSerializer(
      features.get_serialized_info()
    )
    if (self.folder / schema.PROVENANCE).exists():
      _refuse_other(schema.Metadata.load(self.folder), metadata)
    metadata.save(self.folder)
    self._parts.mkdir(exist_ok=True)
    if not self.finished:
      self._unfinish()
    self._sweep()
    self._keys = set()
    for path in sorted(self._parts.glob("*.parquet")):
      self._keys.update(pq.read_table(path, columns=["key"])["key"].to_pylist())

  @property
  def finished(self) -> bool:
    """Whether the set, as it lies on disk, is complete and readable."""
    return (self.folder / _INFO).exists()

  def written_keys(self) -> set[str]:
    """Keys of all records that are safe on disk or written by this writer."""
    return set(self._keys)

  @staticmethod
  def committed(
    folder: str | os.PathLike,
  ) -> Iterator[tuple[str, list[str], list[str]]]:
    """What a set holds, finished or begun, whoever makes it; reads no record.

    Args:
      folder: of the set; need not exist.

    Yields:
      Split, keys and captions of some records, until all were named.
    """
    for path in sorted((pathlib.Path(folder) / _PARTS).glob("*-*.parquet")):
      table = pq.read_table(path, columns=["key", "caption"])
      columns = (table[name].to_pylist() for name in ("key", "caption"))
      yield path.name.split("-")[0], *columns

  def write(self, record: schema.Record, split: str) -> None:
    """Adds one record.

    Raises:
      ValueError: the key is in the set already, the split unknown, or an array has
        another dtype or shape than the set's.
    """
    if split not in schema.SPLITS:
      raise ValueError(f"{self.folder}: split {split!r} is none of {schema.SPLITS}.")
    if record.key in self._keys:
      raise ValueError(
        f"{self.folder}: key {record.key} is in the set already. Skip what"
        " written_keys() names."
      )
    example = self._features.encode_example(dataclasses.asdict(record))
    message = self._serializer.get_tf_example(example)
    part = self._open.get(split) or self._begin(split)
    part.file.write(message.SerializeToString(deterministic=True))
    part.lines.append(record.line())
    self._keys.add(record.key)
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
    parts = {
      split: sorted(p.stem for p in self._parts.glob(f"{split}-*.parquet"))
      for split in schema.SPLITS
    }
    if not any(parts.values()):
      raise ValueError(
        f"{self.folder}: no record was written, so there is no data set to finish."
        " See the rejects for the reasons."
      )
    kind = self.metadata.kind
    names = {
      part: f"{kind}-{split}.array_record-{i:05d}-of-{len(parts[split]):05d}"
      for split in schema.SPLITS
      for i, part in enumerate(parts[split])
    }
    text = json.dumps(names, indent=2)
    schema.replace(self.folder / _SHARDS, lambda path: path.write_text(text))
    for part, name in names.items():
      self._data(part).replace(self.folder / name)
    lengths = self._write_index(names)
    self._write_info(parts, names, lengths)

  def _data(self, part: str) -> pathlib.Path:
    return self._parts / f"{part}.array_record"

  def _begin(self, split: str) -> _Part:
    numbers = [int(p.stem.split("-")[1]) for p in self._parts.glob(f"{split}-*.parquet")]
    name = f"{split}-{max(numbers, default=-1) + 1:05d}"
    path = self._parts / f"{name}.unfinished"
    file = array_record_module.ArrayRecordWriter(str(path), OPTIONS)
    self._open[split] = _Part(name, path, file, [])
    return self._open[split]

  def _commit(self, split: str) -> None:
    part = self._open.pop(split)
    part.file.close()
    _sync(part.path)
    self._unfinish()
    part.path.replace(self._data(part.name))
    table = pa.Table.from_pylist(part.lines, schema=_LINES)

    def write(path: pathlib.Path) -> None:
      pq.write_table(table, path)
      _sync(path)

    schema.replace(self._parts / f"{part.name}.parquet", write)

  def _unfinish(self) -> None:
    """Puts named shards back among the parts; the set is unreadable until `finish`."""
    shards = self.folder / _SHARDS
    if not shards.exists():
      return
    for name in (_INFO, schema.INDEX):
      (self.folder / name).unlink(missing_ok=True)
    for part, name in json.loads(shards.read_text()).items():
      if (self.folder / name).exists():
        (self.folder / name).replace(self._data(part))
    shards.unlink()

  def _sweep(self) -> None:
    """Removes what was not committed."""
    for path in [*self._parts.iterdir(), *self.folder.glob("*.unfinished")]:
      committed = path.with_suffix(".parquet").exists()
      if path.is_dir():
        shutil.rmtree(path)
      elif path.suffix == ".unfinished" or not committed:
        path.unlink()

  def _write_index(self, names: dict[str, str]) -> dict[str, int]:
    """Writes `index.parquet` part by part; returns the records of each part."""
    lengths = {}
    fields = [("split", pa.string()), ("shard", pa.string()), ("offset", pa.int32())]
    columns = pa.schema([*_LINES, *(pa.field(*field) for field in fields)])

    def write(path: pathlib.Path) -> None:
      with pq.ParquetWriter(path, columns) as file:
        for part, name in names.items():
          table = pq.read_table(self._parts / f"{part}.parquet")
          n = lengths[part] = len(table)
          values = ([part.split("-")[0]] * n, [name] * n, list(range(n)))
          for (field, kind), value in zip(fields, values, strict=True):
            table = table.append_column(pa.field(field, kind), pa.array(value, kind))
          file.write_table(table)

    schema.replace(self.folder / schema.INDEX, write)
    return lengths

  def _write_info(
    self,
    parts: dict[str, list[str]],
    names: dict[str, str],
    lengths: dict[str, int],
  ) -> None:
    """Writes TFDS's `features.json`, then its `dataset_info.json`."""
    kind = self.metadata.kind
    template = tfds.core.ShardedFileTemplate(
      data_dir=epath.Path(self.folder), dataset_name=kind, filetype_suffix="array_record"
    )
    splits = [
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[lengths[part] for part in parts[split]],
        num_bytes=sum(
          (self.folder / names[part]).stat().st_size for part in parts[split]
        ),
        filename_template=template.replace(split=split),
      )
      for split in schema.SPLITS
      if parts[split]
    ]
    info = tfds.core.DatasetInfo(
      builder=tfds.core.dataset_info.DatasetIdentity(
        name=kind,
        version=tfds.core.Version(schema.VERSION),
        data_dir=str(self.folder),
        module_name="",
      ),
      description=f"Clips as {kind}, written by video_dit; see {schema.PROVENANCE}.",
      features=self._features,
    )
    info.set_file_format("array_record")
    info.set_splits(tfds.core.splits.SplitDict(splits))
    with tempfile.TemporaryDirectory(dir=self._parts, suffix=".unfinished") as folder:
      info.write_to_directory(folder)
      written = sorted(
        pathlib.Path(folder).iterdir(), key=lambda path: path.name == _INFO
      )
      for path in written:
        path.replace(self.folder / path.name)


def _refuse_other(found: schema.Metadata, wanted: schema.Metadata) -> None:
  for field in dataclasses.fields(wanted):
    old, new = getattr(found, field.name), getattr(wanted, field.name)
    if field.compare and not field.name.endswith("_path") and old != new:
      raise ValueError(
        f"{found.folder}: the set here has {field.name} {old!r}, this run has {new!r};"
        " one set has one maker. Choose another output folder, or delete this one."
      )


def _sync(path: pathlib.Path) -> None:
  with path.open("rb") as file:
    os.fsync(file.fileno())
