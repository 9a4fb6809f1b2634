"""What the tables hold, counted: stages, reasons and histograms of clips."""

from collections.abc import Iterator
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from video_dit import config as config_lib
from video_dit import files
from video_dit.preprocess import ingest

# Reasons by stage; all others come from reading the file.
STAGES = {
  "list": ("bad_line", "missing", "outside", "no_media", "changed"),
  "probe and decode": (),
  "cut": ("too_short", "too_long", "no_rate"),
  "filter": (
    *("side", "seconds", "aspect", "black", "frozen", "black_seconds"),
    *("frozen_seconds", "motion", "sharpness", "text", "caption"),
  ),
  "deduplicate": ("duplicate", "near_duplicate"),
  "encode": (),  # whatever fails there
}
_TABLE = pa.schema(
  [
    ("section", pa.string()),
    ("name", pa.string()),
    ("low", pa.float64()),
    ("high", pa.float64()),
    ("clips", pa.int64()),
    ("rejects", pa.int64()),
  ]
)


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
  """Counts of clips and of rejects by bin.

  Attributes:
    title: of what is counted.
    edges: `(bins + 1,)`, the first and the last bin open.
    clips, rejects: `(bins,)`.
  """

  title: str
  edges: np.ndarray
  clips: np.ndarray
  rejects: np.ndarray

  @property
  def names(self) -> list[str]:
    """Of the bins, by their lower ends."""
    return [f"{e:,.0f}" if e >= 100 else f"{e:.3g}" for e in self.edges[:-1]]


_EDGES: dict[str, tuple[str, np.ndarray]] = {
  "seconds": ("length of clips of videos, in seconds", 2.0 ** np.arange(-3, 9.5, 0.5)),
  "side": ("size: root of the source's pixels", 2.0 ** np.arange(5, 13.5, 0.5)),
  "aspect": ("width over height", 2.0 ** np.arange(-2, 2.25, 0.25)),
  "motion": ("motion, in frame heights a second", np.arange(0, 1.05, 0.05)),
  "sharpness": ("sharpness", 4.0 ** np.arange(0, 8.5, 0.5)),
  "text_share": ("share under text", np.arange(0, 0.525, 0.025)),
  "tokens": ("tokens of a clip", 2.0 ** np.arange(0, 18.5)),
}


def histograms(
  folder: str | os.PathLike[str], config: config_lib.Config
) -> list[Histogram]:
  """Counts the clips and the rejects of the tables, in bounded memory."""
  counts = {name: [np.zeros(len(e) - 1, np.int64)] * 2 for name, (_, e) in _EDGES.items()}
  for table, file in enumerate((ingest.CLIPS, ingest.REJECTS)):
    for batch in _batches(pathlib.Path(folder) / file):
      for name, values in _columns(batch, config).items():
        edges = _EDGES[name][1]
        values = values[np.isfinite(values)]
        bins = np.clip(np.searchsorted(edges, values, "right") - 1, 0, len(edges) - 2)
        found = np.bincount(bins, minlength=len(edges) - 1)
        counts[name][table] = counts[name][table] + found
  return [
    Histogram(title, edges, *counts[name]) for name, (title, edges) in _EDGES.items()
  ]


def _batches(path: pathlib.Path) -> Iterator[pa.RecordBatch]:
  names = (
    *("kind", "start_seconds", "end_seconds", "source_height", "source_width"),
    *("motion", "sharpness", "text_share"),
    *("latent_frames", "latent_height", "latent_width"),
  )
  with pyarrow.parquet.ParquetFile(path) as file:
    yield from file.iter_batches(batch_size=65_536, columns=list(names))


def _columns(batch: pa.RecordBatch, config: config_lib.Config) -> dict[str, np.ndarray]:
  def column(name: str) -> np.ndarray:
    values = batch[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64)

  is_video = np.array([kind == "video" for kind in batch["kind"].to_pylist()], bool)
  height, width = column("source_height"), column("source_width")
  tokens = np.ones(len(height))
  extents = (column(f"latent_{axis}") for axis in ("frames", "height", "width"))
  for extent, patch in zip(extents, config.dit.patch, strict=True):
    tokens = tokens * (extent // patch)
  seconds = column("end_seconds") - column("start_seconds")
  return {
    "seconds": np.where(is_video, seconds, np.nan),
    "side": np.sqrt(height * width),
    "aspect": width / height,
    "tokens": tokens,
    **{name: column(name) for name in ("motion", "sharpness", "text_share")},
  }


def stages(counts: ingest.Counts) -> list[tuple[str, int, int]]:
  """Each stage, what it rejected and what it kept, in rows of the tables."""
  before = counts.reasons - counts.at_encoding
  known = {reason for reasons in STAGES.values() for reason in reasons}
  left = counts.clips + counts.rejects
  rows = [("lines of the input and clips cut from them", 0, left)]
  for stage, reasons in STAGES.items():
    mine = set(reasons)
    if stage == "probe and decode":
      mine |= set(before) - known
    rejected = sum(before[reason] for reason in mine)
    if stage == "encode":
      rejected = counts.at_encoding.total()
    left -= rejected
    rows.append((stage, rejected, left))
  return rows


def write(
  path: str | os.PathLike[str],
  counts: ingest.Counts,
  found: list[Histogram],
  packing: dict[str, Any],
) -> None:
  """Writes all that was counted as one table."""
  rows: list[dict[str, Any]] = [
    {"section": "stage", "name": name, "clips": left, "rejects": rejected}
    for name, rejected, left in stages(counts)
  ]
  rows += [
    {"section": "reason", "name": reason, "clips": 0, "rejects": number}
    for reason, number in sorted(counts.reasons.items())
  ]
  for each in found:
    for i in range(len(each.clips)):
      low, high = float(each.edges[i]), float(each.edges[i + 1])
      ends = {"section": each.title, "name": "", "low": low, "high": high}
      rows.append(ends | {"clips": int(each.clips[i]), "rejects": int(each.rejects[i])})
  known = {name: value for name, value in packing.items() if not isinstance(value, str)}
  rows += [{"section": "packing", "name": n, "low": v} for n, v in known.items()]
  with files.replacing(path) as unfinished:
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, _TABLE), unfinished)
