"""Reads every record of a data set and says what is wrong with it."""

from collections.abc import Iterator
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from video_dit.data import disk as disk_lib
from video_dit.data import finish, parts, schema, shards

_TOGETHER = 64  # records read at a time


@dataclasses.dataclass(frozen=True)
class Fault:
  """Something that is wrong.

  Attributes:
    where: the shard, with the record's number and key where it is one record.
    message: what is wrong.
  """

  where: str
  message: str


@dataclasses.dataclass
class Report:
  """What reading a whole set showed.

  Attributes:
    folder: of the set.
    finished: whether it is complete and can be trained on.
    shards, records, bytes: how many were read.
    faults: what is wrong, in the order of the shards.
  """

  folder: pathlib.Path
  finished: bool = False
  shards: int = 0
  records: int = 0
  bytes: int = 0
  faults: list[Fault] = dataclasses.field(default_factory=list)


def verify(
  folder: str | os.PathLike[str], disk: disk_lib.Disk = disk_lib.LOCAL
) -> Report:
  """Checks every record of a set, finished or not, against its list of lines.

  A record is good if its bytes are intact, its key, extents and number of tokens match
  its line, and its numbers are finite.

  Args:
    folder: of the set.
    disk: fetches its shards, one at a time.

  Raises:
    ValueError: the folder is not a data set of video_dit, or `shards.json` is damaged.
    HostError: this machine could not read a file, such as for want of descriptors.
  """
  folder = pathlib.Path(folder)
  metadata = schema.Metadata.load(folder)
  report = Report(folder, finished=(folder / finish.INFO).exists())
  names = parts.names(folder)
  seen: set[bytes] = set()
  listed = 0
  for lines in sorted((folder / parts.PARTS).glob("*.parquet")):
    own = parts.shard_name(metadata.kind, lines.stem)
    path = folder / names.get(lines.stem, own)
    if not path.exists():  # being moved when a run was stopped
      path = folder / own
    with disk.whole(path):
      listed += _verify_shard(report, metadata, lines, path, seen)
  if metadata.kind == "latents" and metadata.empty is None:
    _lacks(report, folder / schema.EMPTY, "is missing")
  if report.finished:
    _verify_index(report, folder / schema.INDEX, listed)
    if not (folder / finish.FEATURES).is_file():
      _lacks(report, folder / finish.FEATURES, "is missing")
  return report


def _verify_shard(
  report: Report,
  metadata: schema.Metadata,
  lines_path: pathlib.Path,
  path: pathlib.Path,
  seen: set[bytes],
) -> int:
  """Verifies one shard; returns how many records its list has."""
  report.shards += 1
  name = str(path)

  def fault(message: str, where: str = name) -> None:
    report.faults.append(Fault(where, message))

  try:
    lines = finish.read_lines(lines_path).to_pylist()
  except Exception as error:
    shards.refuse_host_error(lines_path, error)
    fault(f"the list of its records cannot be read ({error})", str(lines_path))
    return 0
  if not path.exists():
    fault(f"the shard is missing, with {len(lines)} records")
    return len(lines)
  report.bytes += path.stat().st_size
  try:
    reader = shards.open_shard(path)
    found = reader.num_records()
  except Exception as error:
    shards.refuse_host_error(path, error)
    fault(f"the shard cannot be opened, {len(lines)} records are lost ({error})")
    return len(lines)
  if found != len(lines):
    fault(f"holds {found} records but {len(lines)} were written")
  for i, record in _records(reader, min(found, len(lines))):
    line = lines[i]
    report.records += 1
    try:
      if isinstance(record, Exception):
        raise record
      problem = _problem(schema.parse(metadata, record), line)
    except Exception as error:
      shards.refuse_host_error(path, error)
      problem = f"cannot be read ({type(error).__name__}: {error})"
    key = line["key"].encode()
    if problem is None and key in seen:
      problem = "occurs twice"
    seen.add(key)
    if problem is not None:
      fault(problem, f"{name}, record {i}, clip {line['key']}")
  try:
    reader.close()
  except Exception as error:  # damage at its end; raised only on closing
    fault(f"the shard is damaged ({error})")
  return len(lines)


def _records(reader: Any, count: int) -> Iterator[tuple[int, bytes | Exception]]:
  """The records; for one that cannot be read, the error instead."""
  for first in range(0, count, _TOGETHER):
    numbers = list(range(first, min(first + _TOGETHER, count)))
    try:
      yield from zip(numbers, reader.read(numbers), strict=True)
      continue
    except Exception:
      pass  # read one by one, to find the bad ones
    for i in numbers:
      try:
        (record,) = reader.read([i])
        yield i, record
      except Exception as error:
        yield i, error


def _problem(record: schema.Record, line: dict[str, Any]) -> str | None:
  """What is wrong with a record; None where it is good."""
  found = record.line()
  names = ("key", "t", "h", "w", "text_tokens", "caption")
  for name in names:
    if found[name] != line[name]:
      return f"has {name} {found[name]!r} but {line[name]!r} was written"
  if isinstance(record, schema.LatentRecord):
    texts = [record.text] if record.more_text is None else [record.text, record.more_text]
    for name, array in (("latent", record.latent), *(("text", t) for t in texts)):
      if not np.isfinite(array).all():
        return f"its {name} is not finite"
  return None


def _verify_index(report: Report, path: pathlib.Path, listed: int) -> None:
  try:
    with pq.ParquetFile(path) as file:
      found = sum(len(batch) for batch in file.iter_batches())
  except Exception as error:
    shards.refuse_host_error(path, error)
    _lacks(report, path, f"cannot be read ({error})")
    return
  if found != listed:
    _lacks(report, path, f"lists {found} records but the shards' lists have {listed}")


def _lacks(report: Report, path: pathlib.Path, what: str) -> None:
  """Reports a file that is made from others."""
  report.faults.append(Fault(str(path), f"{what}; run again, which makes it anew"))
