"""The data report: what was kept, what was rejected and why, in numbers and pictures.

`report.html` opens anywhere, and everything in it that comes from the media is escaped;
`report.parquet` has the same numbers.
"""

from collections.abc import Iterable, Iterator
import hashlib
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image
import pyarrow.parquet

from video_dit import config as config_lib
from video_dit.data import pack, pieces, schema
from video_dit.media import resize
from video_dit.preprocess import examine, ingest, statistics, workers
from video_dit.preprocess import facts as facts_lib
from video_dit.report import histogram, page

HTML, TABLE = "report.html", "report.parquet"
_THUMBNAILS = "work/thumbnails"
_PIXELS = 128 * 128
# Planning more clips than this for one number would take too long.
_MOST_PLANNED = 200_000
# Characters of a caption, and of a message, that are shown.
_SHOWN = 160
# Of a picture in its file.
_PLACE = ("record", "line_start_seconds", "line_end_seconds", "first_frame", "frames")
_COLUMNS = (
  *("line", "path", "caption", "key", "kind", "file", "source_height", "source_width"),
  *("frames_per_second", "start_seconds", "end_seconds", *_PLACE),
  *("sha256", "stamp"),
)


def write(
  folder: str | os.PathLike[str],
  config: config_lib.Config,
  counts: ingest.Counts,
  facts: facts_lib.Facts,
  pool: workers.Pool,
) -> dict[str, Any]:
  """Writes the report of the tables in a folder; returns what `plan` found.

  Args:
    folder: of the tables, and of the report.
    config: settings.
    counts: of the tables.
    facts: that the tables were made of.
    pool: workers that run `examine.work`, for thumbnails.
  """
  folder = pathlib.Path(folder)
  found = statistics.histograms(folder, config)
  # Windows of pixels are not packed.
  packing = plan(folder, config) if config.objective == "diffusion" else {}
  statistics.write(folder / TABLE, counts, found, packing)
  shown = page.Page(f"Data report of {config.name}")
  shown.heading("Stages")
  shown.paragraph(
    f"{counts.lines:,} lines of the input gave {counts.clips:,} clips and"
    f" {counts.rejects:,} rejects. A line yields a row for each of its"
    " clips, or one reject."
  )
  shown.table(statistics.stages(counts), ("stage", "rejected", "left"))
  if counts.reasons:
    by_number = sorted(counts.reasons.items(), key=lambda item: (-item[1], item))
    shown.table(by_number, ("reason", "rejects"))
  shown.heading("Clips")
  unmeasured = []
  for each in found:
    parts = {"clips": each.clips.tolist(), "rejects": each.rejects.tolist()}
    if config.ingest.measure or any(map(sum, parts.values())):
      shown.chart(histogram.histogram(each.names, parts, title=each.title))
    else:
      unmeasured.append(each.title)
  if unmeasured:
    shown.paragraph(
      f"Not measured, as config.ingest.measure is off: {'; '.join(unmeasured)}."
    )
  if packing:
    shown.heading("Packing")
    fill = {"fill": f"{packing['fill']:.2%}"} if "fill" in packing else {}
    shown.facts(packing | fill)
  _pictures(shown, folder, config, facts, pool)
  shown.write(folder / HTML)
  return packing


def plan(folder: pathlib.Path, config: config_lib.Config) -> dict[str, Any]:
  """The expected packing of the training split, at the config's patch and rows.

  The tokens of captions are those of the encoded set. Where there is none yet, a caption
  counts as a token in four characters: no encoder is asked here.
  """
  index = folder / "latents" / schema.INDEX
  is_counted = config.objective == "diffusion" and index.is_file()
  clips_N4 = _encoded(index) if is_counted else _estimated(folder, config)
  facts: dict[str, Any] = {"row length": config.data.row_length, "clips": len(clips_N4)}
  if not len(clips_N4):
    return facts
  facts["tokens of captions"] = "counted" if is_counted else "estimated"
  text = clips_N4[:, 3]
  t, h, w = clips_N4[:, :3].T
  if not is_counted:  # Of pixels, whose grid is finer, the whole tokens count.
    t, h, w = (clips_N4[:, :3] // config.dit.patch * config.dit.patch).T
  is_some = (t > 0) & (h > 0) & (w > 0)
  if not is_some.any():
    return facts
  try:
    cut = pieces.cut(
      *(column[is_some] for column in (t, h, w, text)),
      data=config.data,
      patch=config.dit.patch,
    )
  except ValueError as error:
    return facts | {"problem": f"these clips do not fit config.data: {error}"}
  made = pack.plan_epoch(cut.tokens, cut.text_tokens, config.data, config.seed, 0)
  tokens = {
    "tokens": int(cut.tokens.sum()),
    "tokens of the longest": int(cut.tokens.max()),
  }
  found = facts | tokens | {"rows": len(made), "fill": made.fill}
  limit = pack.limit(made, config.data)
  return found | ({"limited": limit} if limit else {})


def _encoded(index: pathlib.Path) -> np.ndarray:
  """Latent extents and caption tokens `(N, 4)` of the training split, of its index."""
  names = ["t", "h", "w", "text_tokens", "split"]
  table = pyarrow.parquet.read_table(
    index, columns=names, filters=[("split", "=", "train")]
  )
  table = table.slice(0, _MOST_PLANNED)
  return np.stack([table[name].to_numpy() for name in names[:4]], axis=1)


def _estimated(folder: pathlib.Path, config: config_lib.Config) -> np.ndarray:
  """The same of the table of clips, a token of text for every four characters."""
  found: list[list[int]] = []
  most = min(config.text.max_tokens, config.data.row_text)
  names = ["latent_frames", "latent_height", "latent_width", "caption", "split"]
  with pyarrow.parquet.ParquetFile(folder / ingest.CLIPS) as file:
    for batch in file.iter_batches(batch_size=65_536, columns=names):
      for row in batch.to_pylist():
        if row["split"] == "train" and len(found) < _MOST_PLANNED:
          length = 1 + len(row["caption"] or "") // 4
          found.append([*(row[name] for name in names[:3]), min(length, most)])
  return np.array(found, np.int32).reshape(-1, 4)


def _pictures(
  shown: page.Page,
  folder: pathlib.Path,
  config: config_lib.Config,
  facts: facts_lib.Facts,
  pool: workers.Pool,
) -> None:
  """Adds thumbnails of kept clips, and of rejects by reason."""
  most = config.ingest.thumbnails
  if not most:
    return
  chosen = {"kept": _spread(folder / ingest.CLIPS, (*_COLUMNS,), most)}
  by_reason: dict[str, list[dict[str, Any]]] = {}
  columns = (*_COLUMNS, "reason", "message")
  for row in _rows(folder / ingest.REJECTS, columns):
    some = by_reason.setdefault(row["reason"], [])
    if len(some) < most:
      some.append(row)
  chosen |= {f"rejected: {reason}": rows for reason, rows in sorted(by_reason.items())}
  everything = [row for rows in chosen.values() for row in rows]
  for row in everything:
    row["name"] = _name(row, facts)
  files = _thumbnails(everything, folder, config, pool)
  for title, rows in chosen.items():
    shown.heading(title)
    has = [row for row in rows if row["name"] in files]
    shown.gallery([(_caption(row), files[row["name"]]) for row in has])
    without = [row for row in rows if row["name"] not in files]
    shown.table([(row["path"], row.get("message", "")[:_SHOWN]) for row in without])


def _spread(
  path: pathlib.Path, columns: tuple[str, ...], most: int
) -> list[dict[str, Any]]:
  """Rows of a table, evenly spaced."""
  with pyarrow.parquet.ParquetFile(path) as file:
    total = file.metadata.num_rows
  wanted = set(np.linspace(0, total - 1, min(most, total)).astype(int)) if total else ()
  return [row for i, row in enumerate(_rows(path, columns)) if i in wanted]


def _rows(path: pathlib.Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
  with pyarrow.parquet.ParquetFile(path) as file:
    for batch in file.iter_batches(batch_size=4096, columns=list(columns)):
      yield from batch.to_pylist()


def _caption(row: dict[str, Any]) -> str:
  seconds = row["end_seconds"] - row["start_seconds"]
  size = f"{row['source_width']}x{row['source_height']}, {seconds:.1f} s"
  text = row.get("message") or row["caption"] or "no caption"
  return f"{os.path.basename(row['path'])}: {size}. {text[:_SHOWN]}"


def _name(row: dict[str, Any], facts: facts_lib.Facts) -> str | None:
  """Names the picture of a row by its content; None if it shows nothing."""
  if row["key"] or not row["frames"]:
    return row["key"]
  _, known = facts.line(row["line"])
  parts = [known["sha256"], *(row[name] for name in _PLACE)]
  return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _thumbnails(
  rows: Iterable[dict[str, Any]],
  folder: pathlib.Path,
  config: config_lib.Config,
  pool: workers.Pool,
) -> dict[str, pathlib.Path]:
  """Decodes a frame from the middle of each clip that has none yet; those that decode."""
  place = folder / _THUMBNAILS
  place.mkdir(parents=True, exist_ok=True)
  files = {row["name"]: place / f"{row['name']}.jpg" for row in rows if row["frames"]}
  missing = {
    name: row
    for row in rows
    if (name := row["name"]) in files and not files[name].is_file()
  }
  jobs = [(1, _job(row, config)) for row in missing.values()]
  for name, (_, result) in zip(missing, pool.run(jobs, len(jobs)), strict=True):
    if not isinstance(result, workers.Failure) and result[1] is not None:
      Image.fromarray(result[1][0]).save(files[name], "JPEG", quality=80)
  return {name: path for name, path in files.items() if path.is_file()}


def _job(row: dict[str, Any], config: config_lib.Config) -> examine.Decode:
  size = resize.target_size(
    row["source_height"], row["source_width"], max_pixels=_PIXELS, grid=2
  )
  return examine.Decode(
    file=os.fsdecode(row["file"]),
    record=row["record"],
    start_seconds=row["line_start_seconds"],
    end_seconds=row["line_end_seconds"],
    frames_per_second=row["frames_per_second"],
    first_frame=row["first_frame"] + row["frames"] // 2,
    frames=1,
    size=size,
    media=config.media,
    sha256=row["sha256"] or "",
    stamp=row["stamp"] or "",
  )
