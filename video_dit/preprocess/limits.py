"""What is known of one clip as numbers, and which of the config's limits it breaks.

The numbers are kept with every clip, taken or rejected, and the limits are applied to
them by every run anew: changing one does not re-read the media.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from video_dit import config as config_lib
from video_dit.preprocess import hashes


def numbers(
  samples: np.ndarray,
  first: int,
  frames: int,
  frames_per_second: float,
  ingest: config_lib.Ingest,
) -> dict[str, Any]:
  """What a clip is like, from the samples of its file.

  Args:
    samples: of the whole file, `measure.DTYPE`, by rising tick.
    first, frames: of the clip, at `frames_per_second`; 0 for an image.
    frames_per_second: of the clip.
    ingest: the levels below which a frame is black or frozen.

  Returns:
    Columns of the table; none where nothing was measured. A column that an image cannot
    have is left out.
  """
  if not len(samples):
    return {}
  last = int(np.searchsorted(samples["tick"], first + frames))
  start = min(int(np.searchsorted(samples["tick"], first)), max(last - 1, 0))
  own = samples[start : max(last, start + 1)]
  seconds = 1 / frames_per_second if frames_per_second else 0.0
  # The first sample stands for what comes before it as well.
  ticks = np.concatenate([[first], own["tick"][1:], [first + frames]])
  spans = np.diff(ticks) * seconds
  black = own["level"] <= ingest.black_level
  columns = {
    "black_share": _mean(black, spans),
    "black_seconds": _longest(black, spans),
    "sharpness": _median(own["sharpness"]),
    "text_share": _median(own["text"]),
    "hashes": [int(h) for h in _spread(own["hash"])],
  }
  if frames_per_second:
    columns["motion"] = _motion(own, spans)
  if frames_per_second and len(own) > 1:
    # What a sample says of change is about the time since the one before.
    change = np.fmax(own["change"][1:], own["next_change"][:-1])
    frozen = change <= ingest.frozen_level
    columns |= {
      "frozen_share": _mean(frozen, spans[:-1]),
      "frozen_seconds": _longest(frozen, spans[:-1]),
    }
  return columns


def _median(values: np.ndarray) -> float:
  """As `np.median`, of few values, in a tenth of its time."""
  ordered, middle = np.sort(values), len(values) // 2
  if len(values) % 2:
    return float(ordered[middle])
  return float((ordered[middle - 1] + ordered[middle]) / 2)


def _motion(own: np.ndarray, spans: np.ndarray) -> float | None:
  """The mean speed, None where unknown; what crosses the clip's ends does not count."""
  if len(own) == 1:
    return None if np.isnan(own["onward"][0]) else float(own["onward"][0])
  before, after = own["motion"].copy(), own["onward"].copy()
  before[0] = after[-1] = 0.0
  return _mean(np.maximum(before, after), spans)


def _spread(values: np.ndarray) -> np.ndarray:
  """`hashes.FRAMES` values evenly spaced, some more than once where there are fewer.

  Clips with one value more or less have the same places.
  """
  step = max(1, (len(values) + hashes.FRAMES // 2) // hashes.FRAMES)
  places = step // 2 + step * np.arange(hashes.FRAMES)
  return values[np.minimum(places, len(values) - 1)]


def _mean(values: np.ndarray, spans: np.ndarray) -> float:
  """The mean over time."""
  total = float(spans.sum())
  if not total:
    return float(values.mean())
  return float((values * spans).sum()) / total


def _longest(is_so: np.ndarray, spans: np.ndarray) -> float:
  """Seconds of the longest run."""
  longest = run = 0.0
  for so, span in zip(is_so, spans, strict=True):
    run = run + float(span) if so else 0.0
    longest = max(longest, run)
  return longest


def broken(row: Mapping[str, Any], ingest: config_lib.Ingest) -> list[tuple[str, str]]:
  """The limits that a clip breaks, in the order of the config.

  Args:
    row: of the table of clips; null values break no limit.
    ingest: the limits.

  Returns:
    (reason, message) of each.
  """
  found = []
  for reason, what, value, least, most in _checks(row, ingest):
    if value is None:
      continue
    if value < least:
      side, limit = "min", least
    elif most is not None and value > most:
      side, limit = "max", most
    else:
      continue
    key = f"config.ingest.{side}_{reason}={limit:g}"
    found.append((reason, f"{what} is {value:.4g}; the limit is {key}"))
  return found


def _checks(row: Mapping[str, Any], ingest: config_lib.Ingest):
  """Yields the limit's name, what it limits, the value, the least and the greatest."""
  height, width = row["source_height"], row["source_width"]
  yield "side", "the source's side", min(height, width), ingest.min_side, None
  if row["kind"] == "video":
    seconds = row["end_seconds"] - row["start_seconds"]
    yield "seconds", "the length", seconds, ingest.min_seconds, None
  aspect, most = ingest.min_aspect, ingest.max_aspect or None
  yield "aspect", "width over height", width / height, aspect, most
  yield "black", "the black share", row.get("black_share"), 0, ingest.max_black
  yield "frozen", "the frozen share", row.get("frozen_share"), 0, ingest.max_frozen
  for name in ("black_seconds", "frozen_seconds"):
    most = getattr(ingest, f"max_{name}") or None
    yield name, f"the longest {name[:6].rstrip('_')} run", row.get(name), 0, most
  most = ingest.max_motion or None
  yield "motion", "the motion", row.get("motion"), ingest.min_motion, most
  yield "sharpness", "the sharpness", row.get("sharpness"), ingest.min_sharpness, None
  yield "text", "the share under text", row.get("text_share"), 0, ingest.max_text
  longest = max(len(caption) for caption in row.get("captions") or [row["caption"]])
  yield "caption", "the longest caption's length", longest, ingest.min_caption, None
