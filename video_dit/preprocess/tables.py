"""The tables of clips and of rejects: their columns, and writing them atomically."""

import json
import os
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet

CLIPS = pa.schema(
  [
    ("key", pa.string()),
    ("path", pa.string()),
    ("caption", pa.string()),
    ("split", pa.string()),
    ("kind", pa.string()),
    ("line", pa.int64()),
    ("codec", pa.string()),
    ("source_height", pa.int32()),
    ("source_width", pa.int32()),
    ("source_frames_per_second", pa.float32()),
    ("source_seconds", pa.float32()),
    ("start_seconds", pa.float64()),
    ("end_seconds", pa.float64()),
    ("frames_per_second", pa.float32()),
    ("first_frame", pa.int64()),
    ("frames", pa.int32()),
    ("frames_dropped", pa.int32()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("latent_frames", pa.int32()),
    ("latent_height", pa.int32()),
    ("latent_width", pa.int32()),
    ("tokens", pa.int32()),
    # All captions, one of which a training step takes by its weight.
    ("captions", pa.list_(pa.string())),
    ("caption_weights", pa.list_(pa.float32())),
    # What `encode` opens: a path in the file system's own bytes, or a data set's record,
    # and the part of it that `first_frame` counts from.
    ("file", pa.binary()),
    ("record", pa.int64()),
    ("line_start_seconds", pa.float64()),
    ("line_end_seconds", pa.float64()),
    # By which `encode` knows that the file is still the same; size and time of change.
    ("sha256", pa.string()),
    ("stamp", pa.string()),
    # What the file's metadata says, and what decoding it showed.
    ("rotation", pa.int32()),
    ("bit_depth", pa.int32()),
    ("audio", pa.bool_()),
    ("declared_frames", pa.int64()),
    ("decoded_frames", pa.int64()),
    ("decoded_seconds", pa.float64()),
    # What clips are chosen by (`limits`).
    ("shot", pa.int32()),
    ("black_share", pa.float32()),
    ("black_seconds", pa.float32()),
    ("frozen_share", pa.float32()),
    ("frozen_seconds", pa.float32()),
    ("motion", pa.float32()),
    ("sharpness", pa.float32()),
    ("text_share", pa.float32()),
    ("hashes", pa.list_(pa.uint64())),
  ]
)
# A reject has what is known of it, and its reason.
REJECTS = pa.schema(
  [
    *(CLIPS.field(name) for name in ("path", "caption")),
    ("reason", pa.string()),
    ("message", pa.string()),
    *(CLIPS.field(name) for name in ("line", "start_seconds", "key")),
    ("duplicate_of", pa.string()),
    *(
      f
      for f in CLIPS
      if f.name not in {"path", "caption", "line", "start_seconds", "key"}
    ),
  ]
)
_ROWS = 4096


class TableWriter:
  """Writes a Parquet table row by row; the file appears only when it is complete."""

  def __init__(self, path: str | os.PathLike[str], schema: pa.Schema):
    """Starts a temporary file beside the final one."""
    self._path = pathlib.Path(path)
    self._unfinished = self._path.with_name(self._path.name + ".unfinished")
    self._schema = schema
    self._file = pyarrow.parquet.ParquetWriter(self._unfinished, schema)
    self._rows: list[dict[str, Any]] = []

  def write(self, **row: Any) -> None:
    """Adds one row: missing columns are null, unknown ones are ignored."""
    self._rows.append({name: row.get(name) for name in self._schema.names})
    if len(self._rows) == _ROWS:
      self._flush()

  def __enter__(self) -> "TableWriter":
    return self

  def __exit__(self, error: Any, *_: Any) -> None:
    if error is None:
      self._flush()
    self._file.close()
    if error is None:
      self._unfinished.replace(self._path)

  def _flush(self) -> None:
    if self._rows:
      self._file.write_table(pa.Table.from_pylist(self._rows, self._schema))
      self._rows.clear()


class LineWriter:
  """Writes JSON, a line a row; the file appears only when it is complete."""

  def __init__(self, path: str | os.PathLike[str]):
    """Starts a temporary file beside the final one."""
    self._path = pathlib.Path(path)
    self._unfinished = self._path.with_name(self._path.name + ".unfinished")
    self._file = self._unfinished.open("w", encoding="ascii")

  def write(self, row: dict[str, Any]) -> None:
    """Adds one row."""
    self._file.write(json.dumps(row) + "\n")

  def __enter__(self) -> "LineWriter":
    return self

  def __exit__(self, error: Any, *_: Any) -> None:
    self._file.close()
    if error is None:
      self._unfinished.replace(self._path)
