"""The gallery of a folder of samples, and a still of it."""

from collections.abc import Sequence
import pathlib

from video_dit.generator import records
from video_dit.report import page as page_lib


def write(folder: pathlib.Path, samples: Sequence[records.Sample]) -> pathlib.Path:
  """Writes `index.html`: every sample with its prompt and how it was made."""
  path = folder / "index.html"
  page = page_lib.Page("Samples")
  if samples:
    steps = sorted({sample.checkpoint for sample in samples})
    samplers = sorted({sample.method() for sample in samples})
    page.facts(
      {
        "clips": len(samples),
        "checkpoint": ", ".join(f"step {n}" if n else "published" for n in steps),
        "sampler": "; ".join(samplers),
      }
    )
  page.gallery([(label(s), folder / s.file) for s in samples], folder=folder)
  page.write(path)
  return path


def label(sample: records.Sample) -> str:
  """Prompt and settings of a sample, on one line."""
  prompt = sample.prompt or "(empty prompt)"
  length = "image" if sample.frames == 1 else f"{sample.frames} frames"
  if sample.frames > 1:
    length += f" at {sample.frames_per_second:g}/s"
  given = f", {sample.given} given" if sample.given else ""
  away = f" away from {sample.negative!r}" if sample.negative else ""
  blank = " — blank: the model's values were not finite" if sample.blank else ""
  return (
    f"{prompt} — {sample.width}x{sample.height}, {length}{given},"
    f" seed {sample.seed}, guidance {sample.guidance:g}{away}{blank}"
  )
