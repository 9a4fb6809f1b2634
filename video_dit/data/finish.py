"""TFDS's own files and the index of a data set whose shards are named."""

import pathlib
import tempfile

from etils import epath
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from video_dit import files
from video_dit.data import disk as disk_lib
from video_dit.data import schema

INFO, FEATURES = "dataset_info.json", "features.json"
LINES = pa.schema(
  [
    ("key", pa.string()),
    ("t", pa.int32()),
    ("h", pa.int32()),
    ("w", pa.int32()),
    ("text_tokens", pa.int32()),
    ("frames_per_second", pa.float32()),
    ("caption", pa.string()),
    ("captions", pa.list_(pa.string())),
    ("caption_weights", pa.list_(pa.float32())),
  ]
)


def read_lines(path: pathlib.Path) -> pa.Table:
  """The lines of a part; a part from before several captions has no list of them.

  Raises:
    ValueError: the file is damaged.
  """
  table = read_table(path)
  for name in (n for n in LINES.names if n not in table.schema.names):
    table = table.append_column(
      LINES.field(name), pa.nulls(len(table), LINES.field(name).type)
    )
  return table


def read_table(path: pathlib.Path, columns: list[str] | None = None) -> pa.Table:
  """The lines of a part, or some columns of them, as they are.

  Raises:
    ValueError: the file is damaged.
  """
  try:
    with path.open("rb") as file:  # A folder would be read file by file.
      return pq.read_table(file, columns=columns)
  except (IsADirectoryError, pa.ArrowException) as error:
    raise ValueError(
      f"{path}: is no list of records, or damaged ({error}). Remove it, and run"
      " preprocess again: the records of its shard are made anew."
    ) from error


def is_whole(folder: pathlib.Path, records: int) -> bool:
  """Whether a finished set has all of its files: an index of so many records, too."""
  try:
    with pq.ParquetFile(folder / schema.INDEX) as file:
      listed = sum(len(batch) for batch in file.iter_batches())
  except (OSError, pa.ArrowException):
    return False
  return listed == records and (folder / FEATURES).is_file()


def write_index(
  folder: pathlib.Path, parts: pathlib.Path, names: dict[str, str]
) -> dict[str, int]:
  """Writes `index.parquet` part by part.

  Args:
    folder: of the data set.
    parts: where the lines of each part are.
    names: shard of each part, in order.

  Returns:
    The records of each part.
  """
  lengths = {}
  fields = [("split", pa.string()), ("shard", pa.string()), ("offset", pa.int32())]
  columns = pa.schema([*LINES, *(pa.field(*field) for field in fields)])

  with (
    files.replacing(folder / schema.INDEX) as unfinished,
    pq.ParquetWriter(unfinished, columns) as file,
  ):
    for part, name in names.items():
      table = read_lines(parts / f"{part}.parquet")
      n = lengths[part] = len(table)
      values = ([part.split("-")[0]] * n, [name] * n, list(range(n)))
      for (field, kind), value in zip(fields, values, strict=True):
        table = table.append_column(pa.field(field, kind), pa.array(value, kind))
      file.write_table(table)
  return lengths


def write_info(
  folder: pathlib.Path,
  metadata: schema.Metadata,
  names: dict[str, str],
  lengths: dict[str, int],
  disk: disk_lib.Disk,
) -> None:
  """Writes TFDS's `features.json`, then its `dataset_info.json`, which ends a set.

  Args:
    folder: of the data set.
    metadata: what made it.
    names: shard of each part, in order.
    lengths: records of each part.
    disk: where they are made visible.
  """
  kind = metadata.kind
  template = tfds.core.ShardedFileTemplate(
    data_dir=epath.Path(folder),
    template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
    dataset_name=kind,
    filetype_suffix="array_record",
  )
  splits = []
  for split in schema.SPLITS:
    parts = [part for part in names if part.split("-")[0] == split]
    if parts:
      splits.append(
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=[lengths[part] for part in parts],
          num_bytes=sum((folder / names[part]).stat().st_size for part in parts),
          filename_template=template.replace(split=split),
        )
      )
  info = tfds.core.DatasetInfo(
    builder=tfds.core.dataset_info.DatasetIdentity(
      name=kind,
      version=tfds.core.Version(schema.VERSION),
      data_dir=str(folder),
      module_name="",
    ),
    description=f"Clips as {kind}, written by video_dit; see {schema.PROVENANCE}.",
    features=schema.features(metadata),
  )
  info.set_file_format("array_record")
  info.set_splits(tfds.core.splits.SplitDict(splits))
  with tempfile.TemporaryDirectory(dir=folder, suffix=".unfinished") as made:
    info.write_to_directory(made)
    files = pathlib.Path(made).iterdir()
    for path in sorted(files, key=lambda path: path.name == INFO):
      path.replace(folder / path.name)
      disk.wrote(folder / path.name)
