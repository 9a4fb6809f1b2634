"""Random access to the table of clips, whatever its size: mapped from disk, not held."""

import os
import pathlib
import tempfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

COLUMNS = (
  *("path", "caption", "captions", "caption_weights"),
  *("file", "record", "line_start_seconds", "line_end_seconds", "sha256", "stamp"),
)


class Rows:
  """Rows of `clips.parquet` by number; safe among threads.

  Parquet is compressed and read from front to back, so the columns that are needed are
  copied to a file that is mapped. The system caches as much as memory allows.
  """

  def __init__(self, table: str | os.PathLike[str]):
    """Copies the columns; the copy goes when the block is left.

    Args:
      table: `clips.parquet`.
    """
    self._folder = tempfile.TemporaryDirectory(prefix="video_dit_rows")
    path = pathlib.Path(self._folder.name) / "rows.arrow"
    starts = [0]
    with pyarrow.parquet.ParquetFile(table) as file:
      names = [n for n in COLUMNS if n in file.schema_arrow.names]
      schema = pa.schema([file.schema_arrow.field(n) for n in names])
      with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, schema) as copy:
        for batch in file.iter_batches(batch_size=8192, columns=names):
          copy.write_batch(batch.select(names))
          starts.append(starts[-1] + len(batch))
    self._starts = np.array(starts)
    self._map = pa.memory_map(str(path))
    self._file = pa.ipc.open_file(self._map)

  def __enter__(self) -> "Rows":
    return self

  def __exit__(self, *_: Any) -> None:
    self._map.close()
    self._folder.cleanup()

  def __len__(self) -> int:
    return int(self._starts[-1])

  def row(self, i: int) -> dict[str, Any]:
    """Row i of the table, its `COLUMNS` as Python values."""
    part = int(np.searchsorted(self._starts, i, side="right")) - 1
    batch = self._file.get_batch(part)
    return batch.slice(i - int(self._starts[part]), 1).to_pylist()[0]

  def captions(self, i: int) -> tuple[list[str], list[float]]:
    """Captions of row i with their weights, the heaviest first."""
    return captions(self.row(i))


def captions(row: dict[str, Any]) -> tuple[list[str], list[float]]:
  """Captions of a row with their weights, the heaviest first; always at least one."""
  texts = row.get("captions") or [row.get("caption") or ""]
  weights = row.get("caption_weights") or [1.0] * len(texts)
  pairs = [(t or "", float(w)) for t, w in zip(texts, weights, strict=True) if w > 0]
  pairs = sorted(pairs, key=lambda pair: -pair[1]) or [(row.get("caption") or "", 1.0)]
  return [t for t, _ in pairs], [w for _, w in pairs]
