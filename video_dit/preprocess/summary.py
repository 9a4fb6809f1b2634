"""What a run did, as a table for the user."""

from collections.abc import Iterator
from typing import Any

from video_dit import config as config_lib
from video_dit.models.text import encoder as encoder_lib
from video_dit.preprocess import data_report, ingest, run

Rows = Iterator[tuple[str, str]]
_PERHAPS = ("crashed", "error", "timeout")  # whose cause may lie outside the file


def text(outcome: run.Outcome, config: config_lib.Config) -> str:
  """The table: a name and a value on each line, in groups."""
  groups = [
    _input(outcome),
    _clips(outcome),
    _rejects(outcome),
    _data_set(outcome, config),
    _seconds(outcome),
  ]
  rows = [row for group in groups for row in [*group, ("", "")]]
  width = max(len(name) for name, _ in rows)
  return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows).strip()


def share(outcome: run.Outcome) -> str:
  """What one of several hosts did; the first host's table is of all of them."""
  made = outcome.made
  text = f"host {outcome.host} of {outcome.hosts}: {made.written:,} records written"
  if made.seconds:
    text += f", {made.frames / made.seconds:,.1f} frames/s"
  return text + ". Host 0 finishes the data set."


def _path(outcome: run.Outcome, name: str) -> str:
  return "/".join((outcome.place.rstrip("/"), name))


def _input(outcome: run.Outcome) -> Rows:
  counts = outcome.counts
  yield "lines of the input", f"{counts.lines:,} ({outcome.examined:,} examined now)"
  yield "", f"{counts.kept:,} kept, {counts.lines - counts.kept:,} rejected"
  extra = f" + {counts.extra:,} more from long videos" if counts.extra else ""
  equals = f"{counts.clips:,} clips + {counts.rejects:,} rejects"
  yield "", f"{counts.lines:,} lines{extra} = {equals}"


def _clips(outcome: run.Outcome) -> Rows:
  counts = outcome.counts
  kinds = ", ".join(
    f"{n:,} {kind}{'' if n == 1 else 's'}" for kind, n in sorted(counts.kinds.items())
  )
  splits = ", ".join(f"{n:,} {split}" for split, n in sorted(counts.splits.items()))
  yield "clips", f"{counts.clips:,}" + (f" ({kinds}; {splits})" if counts.clips else "")
  left = counts.clips - outcome.made.written - outcome.made.reused
  if left > 0:
    yield "", f"{left:,} replacing failed clips: run again to encode them"
  if counts.clips and not counts.splits["validation"]:
    yield "", "no validation split: it has whole files, chosen by their bytes, and of few"
    yield "", "files often none. Raise config.media.validation_fraction, or name them in"
    yield "", "the column `split` of a manifest"
  over = f"{counts.frames_dropped:,} left over after the last clip of a video"
  yield "frames", f"{counts.frames:,} ({over})"
  captions = [f"{counts.captions_empty:,} empty"]
  if counts.captions_recoded:
    captions.append(
      f"{counts.captions_recoded:,} not in UTF-8, read as Windows-1252 or UTF-16"
    )
  if outcome.made.captions_cut:
    captions.append(f"{outcome.made.captions_cut:,} cut at config.text.max_tokens")
  yield "captions", ", ".join(captions)


def _rejects(outcome: run.Outcome) -> Rows:
  counts = outcome.counts
  yield "rejects", f"{counts.rejects:,}"
  for reason, number in sorted(counts.reasons.items(), key=lambda item: (-item[1], item)):
    yield f"  {reason}", f"{number:,}"
  if again := [name for name in ("changed", "unreachable") if counts.reasons[name]]:
    yield "", f"{', '.join(again)}: run the same command again to retry them"
  if again := [name for name in _PERHAPS if counts.reasons[name]]:
    yield "", f"{', '.join(again)}: --overwrite tries them again"
  if counts.rejects:
    yield "", f"each with its reason in {_path(outcome, ingest.REJECTS)}"
  yield "report", _path(outcome, data_report.HTML)


def _data_set(outcome: run.Outcome, config: config_lib.Config) -> Rows:
  made = outcome.made
  if not made.written + made.reused:
    return
  yield "records", f"{made.written:,} written, {made.reused:,} already present"
  if made.written and made.seconds:
    yield (
      "speed",
      f"{made.frames / made.seconds:,.1f} frames/s, {made.written / made.seconds:,.2f}"
      f" clips/s; {made.waiting:.0%} of the time waiting for the decoder",
    )
  if made.written and config.objective == "diffusion":
    most = ""
    if made.shapes_each < made.shapes:
      most = f", at most {made.shapes_each:,} by a device"
    yield (
      "",
      f"{made.shapes:,} shapes compiled{most}; {made.wasted:.1%} of the compute wasted",
    )
    yield "", f"{made.captions_encoded:,} distinct captions encoded"
  if made.tiles:
    yield "tiles", made.tiles
  if config.objective == "diffusion":
    yield "tokens", f"{outcome.counts.tokens:,}"
    yield "packing", _packing(outcome.packing)
    if encoder_lib.is_random(config.text, outcome.folder.parent / run.TEXT):
      yield "text encoder", encoder_lib.RANDOM
  yield "data set", _path(outcome, outcome.folder.name)


def _packing(packing: dict[str, Any]) -> str:
  """The expected fill of training rows, or why clips do not fit."""
  if not packing["clips"]:
    return "no clips to train on"
  if "problem" in packing:
    return packing["problem"]
  rows, length, fill = (packing[name] for name in ("rows", "row length", "fill"))
  full = f"{rows:,} rows of {length:,} tokens, {fill:.1%} full"
  return f"{full} ({packing['limited']})" if "limited" in packing else full


def _seconds(outcome: run.Outcome) -> Rows:
  stages = ", ".join(f"{stage} {s:.1f}" for stage, s in outcome.seconds.items())
  yield "seconds", f"{sum(outcome.seconds.values()):.1f} ({stages})"
