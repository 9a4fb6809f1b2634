"""Evaluation: a checkpoint and its samples in, numbers and a page out."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from video_dit import config as config_lib
from video_dit.data import reader
from video_dit.evaluate import look, loss, measure, report, training
from video_dit.evaluate import samples as samples_lib
from video_dit.generator import generator as generator_lib
from video_dit.models.text import encoder as encoder_lib
from video_dit.parallel import hosts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
  """What is evaluated.

  Attributes:
    samples: folder of samples; None for no samples.
    prompts: file with the truth of their prompts; None takes what the samples recorded.
    clips: `clips.parquet` of each data set, which may be missing.
    named: the user named `clips`, so it must exist.
    media: folder of its media files if they have moved; None if they have not.
    nearest: training clips that samples are compared with; 0 compares with none.
  """

  samples: pathlib.Path | None
  prompts: pathlib.Path | None
  clips: Sequence[pathlib.Path]
  named: bool = False
  media: pathlib.Path | None = None
  nearest: int


def judge(sources: Sources, config: config_lib.Config) -> list[measure.Judged]:
  """Decodes the samples one by one and, with `config.evaluate.adherence`, measures them.

  Raises:
    ValueError: there are no samples in their folder, or none has truth; or a named table
      is missing.
  """
  if sources.named:
    for table in sources.clips:
      training.check(table)
  if sources.samples is None:
    if sources.prompts is not None:
      raise ValueError("--prompts needs samples: name them with --samples=FOLDER.")
    return []
  found = samples_lib.read(sources.samples)
  if sources.prompts is not None:
    found = samples_lib.with_truth(found, sources.prompts)
  adherence = config.evaluate.adherence
  if adherence and not any(sample.truth for sample in found):
    raise ValueError(
      f"{sources.samples}: no sample says what it must show. Pass --prompts=FILE.jsonl"
      " with colour, shape and direction, or --config.evaluate.adherence=false."
    )
  decoded = samples_lib.frames(sources.samples, found, config.media)
  return [
    measure.judge(sample, frames_FHWC, rule=adherence)
    for sample, frames_FHWC in hosts.bar(
      decoded, total=len(found), desc="measure", unit="clip"
    )
  ]


def evaluate(
  generator: generator_lib.Generator,
  judged: Sequence[measure.Judged],
  sources: Sources,
  folder: pathlib.Path,
) -> tuple[pathlib.Path, ...]:
  """Measures the rest; the leading process writes all results.

  Args:
    generator: of the run.
    judged: its samples, from `judge`.
    sources: what is evaluated.
    folder: of the results; made where missing.

  Returns:
    Paths that this process wrote: the page, the numbers and, if there are clips to show,
    the picture.
  """
  config = generator.config
  extra: dict[str, Any] = {"checkpoint": generator.step, "name": config.name}
  shares = {}
  if any(one.right for one in judged):
    shares = measure.count(judged)
  losses = _losses(generator)
  clips, unseen = _clips(sources) or (None, None)
  near, shown = None, unseen or clips
  if judged and clips and sources.nearest:
    near = look.find_nearest(judged, clips, config.media, most=sources.nearest)
  if near is not None:
    extra["nearest"] = {
      "smallest": float(near.distances.min()),
      "distances": [round(float(d), 3) for d in near.distances],
      "compared": near.compared,
      "training_clips": near.total,
    }
  findings = report.Findings(
    facts=_facts(generator, judged),
    losses=losses,
    judged=judged,
    shares=shares,
    nearest=near.pairs if near else (),
    nearest_note=near.note() if near else "",
    specials=look.make_specials(generator, clips, judged) if clips else (),
    reconstructions=look.reconstruct(generator.frozen, shown, config.media)
    if shown
    else (),
  )
  return _write(findings, extra, folder) if hosts.leads() else ()


def _write(
  findings: report.Findings, extra: dict[str, Any], folder: pathlib.Path
) -> tuple[pathlib.Path, ...]:
  folder.mkdir(parents=True, exist_ok=True)
  paths = [folder / "report.html", folder / "evaluation.json"]
  report.write_page(paths[0], findings)
  report.write_json(paths[1], findings, extra)
  if findings.judged or findings.specials:
    paths.append(folder / "contact_sheet.png")
    report.write_sheet(paths[2], findings)
  return tuple(paths)


def _losses(generator: generator_lib.Generator) -> dict[float, float]:
  """The held-out loss; nothing where the data set has no validation clips."""
  folders = reader.set_folders(generator.config.data.path, "latents")
  try:
    dataset = reader.held_out(folders)
  except ValueError as error:
    hosts.say(f"no held-out loss: {error}")
    return {}
  return loss.by_level(generator, dataset)


def _clips(sources: Sources) -> tuple[training.Clips, training.Clips] | None:
  """Training and validation clips; None where all tables are missing."""
  tables = [table for table in sources.clips if table.is_file()]
  for table in sources.clips:
    if table not in tables:
      hosts.say(f"no training clips to compare with: {table} is missing")
  if not tables:
    return None
  return (
    training.Clips(tables, "train", sources.media),
    training.Clips(tables, "validation", sources.media),
  )


def _facts(
  generator: generator_lib.Generator, judged: Sequence[measure.Judged]
) -> dict[str, Any]:
  facts: dict[str, Any] = {
    "run": generator.config.name,
    "checkpoint": f"step {generator.step:,}",
    "weights": "averaged (EMA)",
  }
  if generator.encoder.random:
    facts["text encoder"] = encoder_lib.RANDOM
  if judged:
    samplers = sorted({one.sample.method() for one in judged})
    steps = sorted({one.sample.checkpoint for one in judged})
    facts["samples"] = len(judged)
    facts["sampler"] = "; ".join(samplers)
    facts["samples' checkpoint"] = f"step {', '.join(f'{step:,}' for step in steps)}"
  return facts
