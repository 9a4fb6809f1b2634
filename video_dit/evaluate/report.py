"""What `evaluate` found: numbers as JSON, a page for people, and one picture."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from video_dit import files
from video_dit.evaluate import measure, strips
from video_dit.evaluate import share as share_lib
from video_dit.media import write
from video_dit.report import chart
from video_dit.report import page as page_lib

SHOWN = 96  # samples on the page
SHEET = 24  # samples on the contact sheet
_MEANING = {
  "colour": "colour as asked",
  "direction": "direction of motion as asked",
  "shape": "shape as asked",
  "wholeness": "one connected object that keeps its size",
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
  """A few frames of two clips to look at side by side, and what to say of them."""

  caption: str
  first_FHWC: np.ndarray
  second_FHWC: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
  """All findings; empty ones were not requested.

  Attributes:
    facts: about the run, by name.
    losses: held-out loss by noise level.
    judged: samples, measured where they have truth.
    shares: what is right, by measure.
    nearest: generated clips beside the nearest training clips.
    nearest_note: how distances are measured.
    specials: a few frames of generated clips of kinds that training never showed.
    reconstructions: originals beside what the autoencoder makes of them.
  """

  facts: Mapping[str, Any]
  losses: Mapping[float, float]
  judged: Sequence[measure.Judged] = ()
  shares: Mapping[str, share_lib.Share] = dataclasses.field(default_factory=dict)
  nearest: Sequence[Pair] = ()
  nearest_note: str = ""
  specials: Sequence[tuple[str, np.ndarray]] = ()
  reconstructions: Sequence[Pair] = ()


def write_json(path: pathlib.Path, findings: Findings, extra: Mapping[str, Any]) -> None:
  """Writes `evaluation.json`.

  Fractions are stored by the name of their measure; counts, 95 % intervals and chance
  under `measures`, all of them where samples were measured; the held-out loss by noise
  level under `heldout_loss`.

  Args:
    path: of the file.
    findings: all that was found.
    extra: further entries.
  """
  tree: dict[str, Any] = {name: s.fraction for name, s in findings.shares.items()}
  if findings.shares:
    tree["n"] = max(s.n for s in findings.shares.values())
    tree["measures"] = {name: s.to_json() for name, s in findings.shares.items()}
    tree["chance"] = {name: s.chance for name, s in findings.shares.items()}
  tree["heldout_loss"] = {f"{time:g}": loss for time, loss in findings.losses.items()}
  if findings.losses:
    tree["heldout_loss_mean"] = float(np.mean(list(findings.losses.values())))
  tree |= extra
  files.write(path, json.dumps(tree, indent=2) + "\n")


def write_page(path: pathlib.Path, findings: Findings) -> None:
  """Writes `report.html` with all pictures inside, so that it can be shared."""
  page = page_lib.Page("Evaluation")
  page.facts(findings.facts)
  if findings.shares:
    page.heading("Do the clips follow their prompts?")
    page.paragraph(
      "Measured from the decoded pixels of the files by a fixed rule. Chance is what a"
      " blind guess among the words gets; an unclear answer counts as wrong."
    )
    page.table(
      [_share_row(name, share) for name, share in findings.shares.items()],
      header=("what is right", "right", "of", "share", "95 % interval", "chance"),
    )
  _add_samples(page, findings.judged)
  if findings.specials:
    page.heading("An image, a new size and a new length")
    _add(page, [(text, strips.strip(frames)) for text, frames in findings.specials])
  if findings.nearest:
    page.heading("Generated clips above the nearest training clips")
    page.paragraph(findings.nearest_note)
    _add_pairs(page, findings.nearest)
  if findings.reconstructions:
    page.heading("Originals above their reconstructions by the autoencoder")
    _add_pairs(page, findings.reconstructions)
  if findings.losses:
    page.heading("Held-out loss by noise level")
    points = sorted(findings.losses.items())
    page.chart(chart.line_chart({"loss": points}, title="held-out loss", x="time"))
    page.table(points, header=("time (0 data, 1 noise)", "loss"))
  page.write(path)


def write_sheet(path: pathlib.Path, findings: Findings) -> None:
  """Writes the contact sheet: prompts beside frames of some of the samples."""
  judged = _spread(findings.judged, SHEET)
  rows = [(j.sample.prompt or "(empty prompt)", j.few_FHWC) for j in judged]
  rows += list(findings.specials)
  write.contact_sheet(path, rows, side=72)


def _share_row(name: str, share: share_lib.Share) -> tuple:
  low, high = share.interval
  return (
    _MEANING[name],
    share.right,
    share.n,
    "—" if share.fraction is None else f"{share.fraction:.1%}",
    f"{low:.1%} to {high:.1%}" if share.n else "—",
    "—" if share.chance is None else f"{share.chance:.1%}",
  )


def _add_samples(page: page_lib.Page, judged: Sequence[measure.Judged]) -> None:
  if not judged:
    return
  page.heading("Prompts and what was generated")
  shown = _spread(judged, SHOWN)
  if len(shown) < len(judged):
    page.paragraph(f"{len(shown)} of {len(judged)}, evenly spaced.")
  pictures = []
  for one in shown:
    verdict = one.verdict()
    prompt = one.sample.prompt or "(empty prompt)"
    caption = f"{prompt} — {verdict}" if verdict else prompt
    pictures.append((caption, strips.strip(one.few_FHWC)))
  _add(page, pictures)


def _add_pairs(page: page_lib.Page, pairs: Sequence[Pair]) -> None:
  _add(page, [(p.caption, strips.pair(p.first_FHWC, p.second_FHWC)) for p in pairs])


def _add(page: page_lib.Page, pictures: Sequence[tuple[str, np.ndarray]]) -> None:
  with strips.as_files(pictures) as items:
    page.gallery(items)


def _spread(items: Sequence[Any], most: int) -> list[Any]:
  """At most `most` of the items, evenly spaced, in order."""
  if len(items) <= most:
    return list(items)
  return [items[i * len(items) // most] for i in range(most)]
