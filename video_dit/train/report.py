"""`report.html` of a run: curves, held-out losses, samples, speed and settings."""

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

from absl import logging

from video_dit import config as config_lib
from video_dit import files
from video_dit.report.chart import line_chart
from video_dit.report.page import Page
from video_dit.train import metrics

_SHOWN_SAMPLES = 4  # folders of samples on the page, newest first


def write(
  workdir: pathlib.Path, config: config_lib.Config, facts: Mapping[str, Any]
) -> pathlib.Path:
  """Writes the page from the files of the workdir.

  Args:
    workdir: of the run.
    config: of the run.
    facts: name to value, such as parameters, mesh and data; shown first.

  Returns:
    The page's path.
  """
  lines = metrics.read(workdir / "metrics.jsonl")
  page = Page(f"{config.name}: {config.objective}")
  page.facts(dict(facts) | _last(lines))
  page.heading("Loss")
  page.chart(line_chart(_series(lines, "loss"), title="training loss", log_y=True))
  parts = _prefixed(lines, "loss/")
  if parts:
    page.chart(line_chart(parts, title="training loss by noise level", log_y=True))
  held = _prefixed(lines, "heldout/loss")
  if held:
    page.chart(line_chart(held, title="held-out loss, averaged weights", log_y=True))
  for name in ("psnr", "heldout/psnr"):
    if found := _series(lines, name):
      page.chart(line_chart(found, title=f"{name} in dB"))
  page.heading("Optimisation and speed")
  for name in ("learning_rate", "grad_norm", "steps_per_second", "tokens_per_second"):
    if found := _series(lines, name):
      page.chart(line_chart(found, title=name.replace("_", " ")))
  _samples(page, workdir)
  page.heading("Config")
  page.code(config_lib.to_text(config))
  path = workdir / "report.html"
  page.write(path)
  return path


def record_samples(
  folder: pathlib.Path, items: Sequence[tuple[str, pathlib.Path]]
) -> None:
  """Notes the captions of a folder of samples beside them, for later reports."""
  names = [[caption, str(path.relative_to(folder))] for caption, path in items]
  text = json.dumps(names, indent=2, ensure_ascii=False)
  files.write(folder / "index.json", text)


def _samples(page: Page, workdir: pathlib.Path) -> None:
  indices = list((workdir / "samples").glob("*/index.json"))
  indices.sort(key=lambda path: path.parent.name, reverse=True)
  for index in indices[:_SHOWN_SAMPLES]:
    try:
      items = json.loads(index.read_text(encoding="utf-8"))
      shown = [(str(caption), index.parent / name) for caption, name in items]
      step = int(index.parent.name)
    except (OSError, ValueError, TypeError) as error:  # No report ends a run.
      logging.warning("%s: cannot be read (%s); not on the page.", index, error)
      continue
    page.heading(f"Samples, step {step:,}")
    page.gallery(shown, folder=workdir)


def _series(lines, name: str) -> dict[str, list[tuple[float, float]]]:
  points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
  return {name: points} if points else {}


def _prefixed(lines, prefix: str) -> dict[str, list[tuple[float, float]]]:
  names = sorted({key for line in lines for key in line if key.startswith(prefix)})
  found: dict[str, list[tuple[float, float]]] = {}
  for name in names:
    found |= _series(lines, name)
  return found


def _last(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The newest value of each metric, training's and held-out's."""
  values: dict[str, Any] = {}
  for line in lines:
    values |= {key: value for key, value in line.items() if value is not None}
  return {name.replace("_", " "): value for name, value in values.items()}
