"""Ingest: every file is looked at once; what is known becomes the tables.

    lines ── examine (worker processes) ──▶ facts ── cut, split, deduplicate ──▶ tables

The tables are a pure function of lines, facts and settings, made anew by every run.
"""

import collections
import dataclasses
import os
import pathlib
from typing import Any

import tqdm

from video_dit import config as config_lib
from video_dit.preprocess import cuts, examine, sources, tables, workers
from video_dit.preprocess import facts as facts_lib

CLIPS = "clips.parquet"
REJECTS = "rejects.parquet"
# Files looked at ahead of the oldest one that is not done, by worker.
_AHEAD = 64


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
  splits: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  kinds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  frames: int = 0
  frames_dropped: int = 0
  tokens: int = 0
  captions_empty: int = 0
  captions_recoded: int = 0


def examine_files(
  facts: facts_lib.Facts, media: config_lib.Media, pool: workers.Pool
) -> int:
  """Looks at every file that has no facts yet; returns how many there were."""
  total = facts.num_unseen(media)
  if not total:
    return 0
  jobs = ((1, _job(id, line, media)) for id, line in facts.unseen(media))
  with tqdm.tqdm(desc="ingest", total=total, unit="file", mininterval=0.5) as bar:
    for job, result in pool.run(jobs, _AHEAD * media.workers):
      facts.put(job.id, _known(result, media))
      bar.update()
  facts.commit()
  return total


def _job(id: bytes, line: sources.Line, media: config_lib.Media) -> examine.Examine:
  return examine.Examine(
    id=id,
    file=line.file,
    record=line.record,
    start_seconds=line.start_seconds,
    end_seconds=line.end_seconds,
    media=media,
  )


def _known(result: Any, media: config_lib.Media) -> dict[str, Any]:
  if isinstance(result, workers.Failure):
    known: dict[str, Any] = {"reason": result.reason, "message": result.message}
  else:
    known = result[0]
  if known.get("reason") == "timeout":
    known["timeout_seconds"] = media.timeout_seconds
  return known


def tabulate(
  facts: facts_lib.Facts, config: config_lib.Config, folder: str | os.PathLike[str]
) -> Counts:
  """Writes `clips.parquet` and `rejects.parquet`; each replaces an older one whole.

  Returns:
    What they hold. Every line of the input is in one of them.
  """
  grid = cuts.Grid.of(config)
  counts = Counts()
  facts.begin_duplicates()
  folder = pathlib.Path(folder)
  with (
    tables.TableWriter(folder / CLIPS, tables.CLIPS) as clips,
    tables.TableWriter(folder / REJECTS, tables.REJECTS) as rejects,
  ):
    for number, line, known in facts.lines():
      rows = _rows(number, line, known, facts, config, grid)
      for row in rows:
        (rejects if "reason" in row else clips).write(**row)
      _count(counts, line, rows)
  assert counts.lines + counts.extra == counts.clips + counts.rejects, counts
  return counts


def _rows(
  number: int,
  line: sources.Line,
  known: dict[str, Any] | None,
  facts: facts_lib.Facts,
  config: config_lib.Config,
  grid: cuts.Grid,
) -> list[dict[str, Any]]:
  """Rows of one line: its clips, or why there are none."""
  caption = line.caption if line.caption is not None else (known or {}).get("caption", "")
  common = {"path": line.path, "caption": caption, "line": number}

  def reject(reason: str, message: str) -> list[dict[str, Any]]:
    row = {"reason": reason, "message": message, "start_seconds": line.start_seconds}
    return [common | row]

  if line.error is not None:
    return reject(*line.error)
  if known is None:
    if not os.path.exists(line.file):
      return reject("missing", "there is no such file")
    if not os.path.isfile(line.file):
      return reject("not_media", "a folder or a device, no file")
    return reject("changed", "the file changed while it was read; run again")
  if "reason" in known:
    return reject(known["reason"], known["message"])
  try:
    clips = cuts.cut(
      known,
      config.media,
      grid,
      start_seconds=line.start_seconds,
      end_seconds=line.end_seconds,
    )
  except cuts.CutError as error:
    return reject(error.reason, str(error))
  content = f"{known['sha256']} {line.start_seconds} {line.end_seconds}"
  if (first := facts.first_path(content, line.path)) is not None:
    return reject("duplicate", f"the same as {first}")
  split = line.split or _split(known["sha256"], config.media.validation_fraction)
  return [
    _row(common | {"split": split}, line, known, clip)
    | _failure(facts.failure(clip.key, config.media))
    for clip in clips
  ]


def _split(digest: str, fraction: float) -> str:
  """Chooses by the file's bytes, so that all clips of a file are on one side."""
  return "validation" if int(digest[:12], 16) / 16**12 < fraction else "train"


def _failure(failure: tuple[str, str] | None) -> dict[str, str]:
  return {} if failure is None else {"reason": failure[0], "message": failure[1]}


def _row(
  common: dict[str, Any], line: sources.Line, known: dict[str, Any], clip: cuts.Clip
) -> dict[str, Any]:
  rate = known["frames_per_second"]
  start = line.start_seconds + (clip.first_frame / rate if rate else 0.0)
  return common | {
    "key": clip.key,
    "kind": known["kind"],
    "codec": known["codec"],
    "source_height": known["height"],
    "source_width": known["width"],
    "source_frames_per_second": known["source_frames_per_second"],
    "source_seconds": known["duration_seconds"],
    "start_seconds": start,
    "end_seconds": start + (clip.frames / rate if rate else 0.0),
    "frames_per_second": rate,
    "first_frame": clip.first_frame,
    "frames": clip.frames,
    "frames_dropped": clip.frames_dropped,
    "height": clip.height,
    "width": clip.width,
    "latent_frames": clip.latent[0],
    "latent_height": clip.latent[1],
    "latent_width": clip.latent[2],
    "tokens": clip.tokens,
    "captions": [common["caption"]],
    "caption_weights": [1.0],
    "file": os.fsencode(line.file),
    "record": line.record,
    "line_start_seconds": line.start_seconds,
    "line_end_seconds": line.end_seconds,
  }


def _count(counts: Counts, line: sources.Line, rows: list[dict[str, Any]]) -> None:
  clips = [row for row in rows if "reason" not in row]
  counts.lines += 1
  counts.extra += len(rows) - 1
  counts.kept += bool(clips)
  counts.clips += len(clips)
  counts.rejects += len(rows) - len(clips)
  counts.reasons.update(row["reason"] for row in rows if "reason" in row)
  counts.captions_recoded += line.recoded
  for row in clips:
    counts.splits[row["split"]] += 1
    counts.kinds[row["kind"]] += 1
    counts.frames += row["frames"]
    counts.frames_dropped += row["frames_dropped"]
    counts.tokens += row["tokens"]
    counts.captions_empty += not row["caption"]
