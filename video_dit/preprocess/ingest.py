"""Ingest: every file is examined once; its facts become the tables.

    lines ── examine (worker processes) ──▶ facts ── decide ── distinct ──▶ tables

Every run remakes the tables, a pure function of lines, facts and settings, and
of what the data set holds where one of several equal clips is to stay.
"""

import collections
from collections.abc import Iterable, Iterator
import dataclasses
import os
import pathlib
from typing import Any

import tqdm

from video_dit import config as config_lib
from video_dit.preprocess import (
  cuts,
  decide,
  distinct,
  examine,
  inputs,
  remote,
  tables,
  workers,
)
from video_dit.preprocess import facts as facts_lib
from video_dit.preprocess import held as held_lib

CLIPS = "clips.parquet"
REJECTS = "rejects.parquet"
UNCAPTIONED = "uncaptioned.jsonl"
_FOR_THE_CAPTIONER = (
  *("key", "path", "start_seconds", "end_seconds", "frames_per_second"),
  *("first_frame", "frames", "height", "width"),
)
# Files looked at ahead of the oldest one that is not done, by worker.
_AHEAD = 64
# Remote files in a row of which none comes, before it is their place that is at fault.
_UNREACHABLE = 100


@dataclasses.dataclass
class Counts:
  """What the tables hold, counted while they are written.

  Attributes:
    lines: of the input; each one ends in clips or in one or more rejects.
    kept: lines with at least one clip.
    clips, rejects: rows of the tables.
    extra: clips of long videos beyond each one's first;
      `lines + extra == clips + rejects`.
    reasons: rejects by reason.
    at_encoding: those of them that failed only when they were to be encoded.
    splits, kinds: clips by split, and by kind.
    frames, frames_dropped, tokens: of all clips.
    captions_empty, captions_recoded: clips without caption; captions not in UTF-8.
  """

  lines: int = 0
  kept: int = 0
  clips: int = 0
  rejects: int = 0
  extra: int = 0
  reasons: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  at_encoding: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  splits: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  kinds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  frames: int = 0
  frames_dropped: int = 0
  tokens: int = 0
  captions_empty: int = 0
  captions_recoded: int = 0


class Reach:
  """Ends a run when remote media become unreachable, before all of them are rejected."""

  def __init__(self) -> None:
    """Starts with no failures."""
    self._lost = 0

  def saw(self, file: str, found: dict[str, Any]) -> None:
    """Counts one file.

    Args:
      file: its path or URL.
      found: what is known of it.

    Raises:
      remote.RemoteError: too many files in a row were unreachable.
    """
    lost = found.get("reason") == "unreachable" and remote.is_remote(file)
    self._lost = self._lost + 1 if lost else 0
    if self._lost == _UNREACHABLE:
      raise remote.RemoteError(
        f"{file}: {found['message']}, as for {_UNREACHABLE} files in a row. Check the"
        " network and the credentials, and run the same command again to continue here."
      )


def examine_files(
  facts: facts_lib.Facts,
  media: config_lib.Media,
  pool: workers.Pool,
  ingest: config_lib.Ingest = config_lib.Ingest(),
) -> int:
  """Examines every file that has no facts yet; returns how many there were.

  Raises:
    remote.RemoteError: remote files have become unreachable.
  """
  total, reach = facts.num_unseen(media), Reach()
  if not total:
    return 0
  jobs = ((1, job_of(id, line, media, ingest)) for id, line in facts.unseen(media))
  with tqdm.tqdm(desc="ingest", total=total, unit="file", mininterval=0.5) as bar:
    for job, result in pool.run(jobs, _AHEAD * media.workers):
      found = known(result, media)
      facts.put(job.id, found)
      reach.saw(job.file, found)
      bar.update()
  facts.commit()
  return total


def job_of(
  id: bytes, line: inputs.Line, media: config_lib.Media, ingest: config_lib.Ingest
) -> examine.Examine:
  """The job that examines a line's file."""
  return examine.Examine(
    id=id,
    file=line.file,
    record=line.record,
    start_seconds=line.start_seconds,
    end_seconds=line.end_seconds,
    media=media,
    ingest=ingest,
  )


def known(result: Any, media: config_lib.Media) -> dict[str, Any]:
  """The facts of an examined file, or why there are none."""
  if isinstance(result, workers.Failure):
    found: dict[str, Any] = {"reason": result.reason, "message": result.message}
  else:
    found = result[0]
  if found.get("reason") == "timeout":
    found["timeout_seconds"] = media.timeout_seconds
  return found


def tabulate(
  facts: facts_lib.Facts,
  config: config_lib.Config,
  folder: str | os.PathLike[str],
  held: held_lib.Held = held_lib.Held(),
  found: Iterable[list[decide.Row]] | None = None,
) -> Counts:
  """Writes the tables, on this machine and in bounded memory.

  Args:
    facts: of all files.
    config: settings.
    folder: of the tables.
    held: clips that stay before others that are equal.
    found: the rows of each line by itself, in order; None makes them from the facts.

  Returns:
    What they hold. Every line of the input is in one of them.
  """
  rows_of_lines = _decided(facts, config) if found is None else found
  with Tables(folder) as written:
    for rows in distinct.distinct(rows_of_lines, facts, config, folder, held):
      written.write(rows)
  return written.counts


def replace_tables(made: pathlib.Path, folder: pathlib.Path) -> None:
  """Replaces the tables in one folder by those made in another."""
  for name in (CLIPS, REJECTS, UNCAPTIONED):
    (made / name).replace(folder / name)


def _decided(
  facts: facts_lib.Facts, config: config_lib.Config
) -> Iterator[list[decide.Row]]:
  grid = cuts.grid_of(config)
  for number, line, known in facts.lines():
    yield decide.rows(number, line, known, config, grid)


class Tables:
  """Writes the tables of clips and of rejects, and the list of clips without caption.

  Each replaces an older one whole, when the block is left.

  Attributes:
    counts: of what was written.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    """Begins the files in the folder of the tables."""
    self.counts = Counts()
    folder = pathlib.Path(folder)
    self._clips = tables.TableWriter(folder / CLIPS, tables.CLIPS)
    self._rejects = tables.TableWriter(folder / REJECTS, tables.REJECTS)
    self._uncaptioned = tables.LineWriter(folder / UNCAPTIONED)

  def write(self, rows: list[decide.Row]) -> None:
    """Adds the rows of one line; lines come in order."""
    for row in rows:
      row["file"] = os.fsencode(row["file"])
      if "reason" in row:
        self._rejects.write(**row)
      else:
        self._clips.write(**row)
        if not any(row["captions"]):
          self._uncaptioned.write(_for_the_captioner(row))
    _count(self.counts, rows)

  def __enter__(self) -> "Tables":
    return self

  def __exit__(self, *error: Any) -> None:
    for table in (self._clips, self._rejects, self._uncaptioned):
      table.__exit__(*error)
    counts = self.counts
    if error[0] is None:
      assert counts.lines + counts.extra == counts.clips + counts.rejects, counts


def _for_the_captioner(row: decide.Row) -> dict[str, Any]:
  """A line that can be used in a manifest, with a caption added."""
  line = {name: row[name] for name in _FOR_THE_CAPTIONER}
  if "\ufffd" in row["path"]:  # bytes that are not UTF-8
    line["path"] = os.fsdecode(row["file"])
  line["end_seconds"] = row["end_seconds"] or None  # An image has no duration.
  return line


def _count(counts: Counts, rows: list[decide.Row]) -> None:
  clips = [row for row in rows if "reason" not in row]
  counts.lines += 1
  counts.extra += len(rows) - 1
  counts.kept += bool(clips)
  counts.clips += len(clips)
  counts.rejects += len(rows) - len(clips)
  counts.reasons.update(row["reason"] for row in rows if "reason" in row)
  counts.at_encoding.update(r["reason"] for r in rows if r.get("at_encoding"))
  counts.captions_recoded += rows[0]["recoded"]
  for row in clips:
    counts.splits[row["split"]] += 1
    counts.kinds[row["kind"]] += 1
    counts.frames += row["frames"]
    counts.frames_dropped += row["frames_dropped"]
    counts.tokens += row["tokens"]
    counts.captions_empty += not row["caption"]
