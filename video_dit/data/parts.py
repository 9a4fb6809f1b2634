"""Parts of a data set: files of records and their lists of lines, one of each.

A part is `name`, such as `train-00007`; its records lie in a TFDS shard, its lines in
`parts/train-00007.parquet`.
"""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import os
import pathlib
from typing import Any

from array_record.python import array_record_module
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from video_dit import files
from video_dit.data import finish, shards

# One record a group, uncompressed: the fastest to read at random (latents do not
# compress).
OPTIONS = "group_size:1,uncompressed"

PARTS = "parts"
SHARDS = "shards.json"


@dataclasses.dataclass
class Part:
  """A part being written."""

  name: str
  path: pathlib.Path
  file: Any
  lines: list[dict[str, Any]]


def begin(folder: pathlib.Path, name: str) -> Part:
  """A part without records, in the folder of parts, under a temporary name."""
  path = folder / f"{name}.unfinished"
  return Part(name, path, array_record_module.ArrayRecordWriter(str(path), OPTIONS), [])


def shard_name(kind: str, part: str) -> str:
  """Name of the shard of a part, such as `latents-train.array_record-00007`."""
  split, _, number = part.rpartition("-")
  return f"{kind}-{split}.array_record-{number}"


def part_name(shard: str) -> str:
  """Name of the part whose shard has this name, such as `train-00007`."""
  split, _, number = shard.partition("-")[2].partition(".array_record-")
  return f"{split}-{number}"


def without_gaps(kind: str, split: str, numbers: list[int]) -> dict[str, str]:
  """Shards of parts with these numbers: their own, but the last ones fill the gaps."""
  gaps = iter(sorted(set(range(len(numbers))) - set(numbers)))
  places = {n if n < len(numbers) else next(gaps): n for n in numbers}
  return {
    f"{split}-{places[i]:05d}": shard_name(kind, f"{split}-{i:05d}")
    for i in range(len(numbers))
  }


def names(folder: pathlib.Path) -> dict[str, str]:
  """Shard of each part of a finished set, as `shards.json` says; none without the file.

  Raises:
    ValueError: the file is damaged.
  """
  path = folder / SHARDS
  if not path.exists():
    return {}
  return files.read_json(path, "Restore it, or preprocess into another folder.")


def read(path: pathlib.Path, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
  """Those of the numbered records of a shard that can be read, with their numbers.

  Raises:
    HostError: this machine could not read them, which are not lost.
  """
  try:
    reader = shards.open_shard(path)
  except Exception as error:
    shards.refuse_host_error(path, error)
    return
  for i in numbers:
    try:
      record = reader.read([i])[0]
    except Exception as error:
      shards.refuse_host_error(path, error)
      continue
    yield i, record
  with contextlib.suppress(Exception):  # It says what is wrong with the file.
    reader.close()


def close(part: Part) -> None:
  """Ends the file of a part, and sees to it that it is whole on disk."""
  part.file.close()
  _check_length(part)
  _sync(part.path)


def _check_length(part: Part) -> None:
  """Refuses a file that does not hold what was written to it."""
  reader = array_record_module.ArrayRecordReader(str(part.path))
  found = reader.num_records()
  reader.close()
  if found != len(part.lines):
    raise OSError(f"{found} of {len(part.lines)} records arrived")


def write_lines(path: pathlib.Path, lines: list[dict[str, Any]]) -> None:
  """Writes the list of a part, whole or not at all."""
  table = pa.Table.from_pylist(lines, schema=finish.LINES)

  with files.replacing(path) as unfinished:
    pq.write_table(table, unfinished)


def keys(path: pathlib.Path) -> np.ndarray:
  """Keys in the list of a part, in order; `(n,)` bytes of 32 hexadecimal digits."""
  return finish.read_table(path, ["key"])["key"].to_numpy().astype("S32")


def _sync(path: pathlib.Path) -> None:
  with path.open("rb") as file:
    os.fsync(file.fileno())
