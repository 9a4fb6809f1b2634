"""The outcome of one line of the input: its clips, or why there are none.

    line, facts ── cut ── number ── limit ──▶ rows ── same content, alike ──▶ rows

Every step is a function of its arguments: `rows` of one line, for a pipeline to run as
well; and where lines are set against each other (`distinct`), `same` of the lines that
hold the same bytes, `alike` of a clip that looks like another. A row with a `reason` is a
reject; all rows have all numbers.
"""

from collections.abc import Iterable, Mapping
import os
from typing import Any

from video_dit import config as config_lib
from video_dit.preprocess import cuts, inputs, limits, survey

Row = dict[str, Any]


def rows(
  number: int,
  line: inputs.Line,
  known: Mapping[str, Any] | None,
  config: config_lib.Config,
  grid: config_lib.Grid,
) -> list[Row]:
  """The rows of one line, by itself: at least one, in the order of time.

  Args:
    number: of the line.
    line: of the input.
    known: facts of its file; None if it could not be examined.
    config: limits.
    grid: what the models require of a clip.
  """
  common = _common(number, line, known)
  if line.error is not None:
    return [_rejected(common, line, *line.error)]
  if known is None:
    return [_rejected(common, line, *_unknown(line.file))]
  common |= _of_file(known)
  if "reason" in known:
    return [_rejected(common, line, known["reason"], known["message"])]
  try:
    clips, short = cuts.cut_shots(
      known,
      config.media,
      grid,
      start_seconds=line.start_seconds,
      end_seconds=line.end_seconds,
    )
  except cuts.CutError as error:
    return [_rejected(common, line, error.reason, str(error))]
  split = line.split or _split(known["sha256"], config.media.validation_fraction)
  common["split"] = split
  samples = survey.unpack(known["samples"])
  found = []
  for clip in clips:
    row = common | _of_clip(line, known, clip)
    rate = row["frames_per_second"]
    row |= limits.numbers(samples, clip.first_frame, clip.frames, rate, config.ingest)
    if broken := limits.broken(row, config.ingest):
      row |= {"reason": broken[0][0], "message": "; ".join(m for _, m in broken)}
    found.append(row)
  for shot in short:
    row = common | _times(line, known, shot.first_frame, shot.frames)
    found.append(row | {"reason": shot.reason, "message": shot.message})
  return sorted(found, key=lambda row: row["first_frame"])


def content(rows: Iterable[Row]) -> str | None:
  """What two lines must share to hold the same clips; None where all are rejected."""
  return next((row["content"] for row in rows if "reason" not in row), None)


def same(rows: list[Row], path: str) -> list[Row]:
  """The rows of a line whose bytes another line has, at `path`, with taken clips."""
  row = rows[0] | {"reason": "duplicate", "message": f"the same as {path}"}
  # The key is the kept clip's.
  row = row | {"key": None, "start_seconds": row["line_start_seconds"]}
  return [row | {"at_encoding": False}]


def alike(row: Row, other: str, bits: float) -> Row:
  """The row of a clip that looks like a kept one with that key."""
  message = f"{bits:.3g} bits of 64 from clip {other}; see config.ingest.duplicate_bits"
  return row | {
    "reason": "near_duplicate",
    "message": message,
    "duplicate_of": other,
  }


def _common(number: int, line: inputs.Line, known: Mapping[str, Any] | None) -> Row:
  caption = line.caption if line.caption is not None else (known or {}).get("caption", "")
  captions, weights = list(line.captions), list(line.caption_weights)
  if not captions:
    captions, weights = [caption], [1.0]
  return {
    "path": line.path,
    "caption": caption,
    "captions": captions,
    "caption_weights": weights,
    "recoded": line.recoded,
    "line": number,
    "file": line.file,
    "record": line.record,
    "line_start_seconds": line.start_seconds,
    "line_end_seconds": line.end_seconds,
  }


def _rejected(common: Row, line: inputs.Line, reason: str, message: str) -> Row:
  start = {"start_seconds": line.start_seconds}
  return common | start | {"reason": reason, "message": message}


def _unknown(file: str) -> tuple[str, str]:
  if not os.path.exists(file):
    return "missing", "there is no such file"
  if not os.path.isfile(file):
    return "not_media", "a folder or a device, not a file"
  return "changed", "the file changed while it was being read; run again"


def _split(digest: str, fraction: float) -> str:
  """Chooses by the file's bytes, so that all clips of a file are in one split."""
  return "validation" if int(digest[:12], 16) / 16**12 < fraction else "train"


def _of_file(known: Mapping[str, Any]) -> Row:
  names = {
    "source_height": "height",
    "source_width": "width",
    "source_seconds": "duration_seconds",
  }
  same = (
    *("kind", "codec", "rotation", "bit_depth", "audio", "source_frames_per_second"),
    *("declared_frames", "decoded_frames", "decoded_seconds"),
  )
  names |= {name: name for name in same}
  return {name: known[of] for name, of in names.items() if of in known}


def _times(line: inputs.Line, known: Mapping[str, Any], first: int, frames: int) -> Row:
  rate = known["frames_per_second"]
  start = line.start_seconds + (first / rate if rate else 0.0)
  return {
    "start_seconds": start,
    "end_seconds": start + (frames / rate if rate else 0.0),
    "frames_per_second": rate,
    "first_frame": first,
    "frames": frames,
  }


def _of_clip(line: inputs.Line, known: Mapping[str, Any], clip: cuts.Clip) -> Row:
  return _times(line, known, clip.first_frame, clip.frames) | {
    "key": clip.key,
    "content": f"{known['sha256']} {line.start_seconds} {line.end_seconds}",
    "sha256": known["sha256"],
    "stamp": known.get("stamp", ""),
    "frames_dropped": clip.frames_dropped,
    "shot": clip.shot,
    "height": clip.height,
    "width": clip.width,
    "latent_frames": clip.latent[0],
    "latent_height": clip.latent[1],
    "latent_width": clip.latent[2],
    "tokens": clip.tokens,
  }
