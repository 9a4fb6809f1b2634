"""Names of sample files, and the record of what was sampled."""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
import re
from typing import Any
import unicodedata

from absl import logging

from video_dit import files
from video_dit.generator import request as request_lib

RECORDS = "samples.jsonl"
_LONGEST = 48  # characters of a prompt in a file's name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """One line of `samples.jsonl`.

  Attributes:
    file: name in the folder of the samples.
    prompt, height, width, frames, frames_per_second, seed, guidance, negative: as
      requested.
    given: number of given frames.
    sampler, eta, steps, checkpoint: how it was made; `checkpoint` is the training step.
    blank: the model's values were not finite, so the clip shows nothing.
    truth: what the clip must show, as the prompts file said.
  """

  file: str
  prompt: str
  height: int
  width: int
  frames: int
  frames_per_second: float
  seed: int
  guidance: float
  negative: str = ""
  given: int = 0
  sampler: str = ""
  eta: float = 0.0
  steps: int = 0
  checkpoint: int = 0
  blank: bool = False
  truth: dict[str, str] = dataclasses.field(default_factory=dict)


def slug(prompt: str) -> str:
  """Lower-case words of the prompt, joined by hyphens, in plain letters and digits."""
  plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode()
  words = re.findall(r"[a-z0-9]+", plain.lower())
  text = ""
  for word in words:
    longer = f"{text}-{word}" if text else word[:_LONGEST]
    if len(longer) > _LONGEST:
      break
    text = longer
  return text or "clip"


def name(index: int, request: request_lib.Request, form: str) -> str:
  """File name of a sample: number, prompt, seed; an image is always png."""
  suffix = "png" if request.frames == 1 else form
  return f"{index:04d}_{slug(request.prompt)}_seed{request.seed}.{suffix}"


def metadata(sample: Sample) -> dict[str, str]:
  """What is recorded in the file itself where its format allows."""
  return {
    "title": sample.prompt,
    "prompt": sample.prompt,
    "seed": str(sample.seed),
    "comment": json.dumps(settings(sample)),
  }


def settings(sample: Sample) -> dict[str, Any]:
  """All but file, prompt and truth."""
  record = dataclasses.asdict(sample)
  return {k: v for k, v in record.items() if k not in ("file", "prompt", "truth")}


def read_records(folder: pathlib.Path) -> list[Sample]:
  """The records in a folder of the samples that are still there, oldest first."""
  path, found = folder / RECORDS, []
  if not path.is_file():
    return []
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    try:
      sample = Sample(**json.loads(line))
      is_there = (folder / sample.file).is_file()
    except (ValueError, TypeError):
      logging.warning("%s:%d: is not a sample record; dropped", path, number)
      continue
    if is_there:
      found.append(sample)
  return found


def write_records(folder: pathlib.Path, samples: Sequence[Sample]) -> pathlib.Path:
  """Writes `samples.jsonl` completely or not at all."""
  path = folder / RECORDS
  text = "".join(f"{json.dumps(dataclasses.asdict(s))}\n" for s in samples)
  files.write(path, text)
  return path
