"""The record of samples, `samples.jsonl`: what `sample` wrote and `evaluate` measures."""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

from video_dit import files

NAME = "samples.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """One line: a generated clip on disk.

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

  def settings(self) -> dict[str, Any]:
    """All but file, prompt and truth."""
    record = dataclasses.asdict(self)
    return {k: v for k, v in record.items() if k not in ("file", "prompt", "truth")}

  def method(self) -> str:
    """Sampler and steps, in words."""
    eta = f" with eta {self.eta:g}" if self.eta else ""
    return f"{self.sampler}{eta}, {self.steps} steps"


def read(folder: pathlib.Path) -> tuple[list[Sample], list[str]]:
  """Reads the records of a folder; what is wrong with one is for the caller to judge.

  Returns:
    The records whose files are there, oldest first; and what is wrong with the others,
    each with file and line. Both are empty where there is no record file.
  """
  path = folder / NAME
  found: list[Sample] = []
  wrong: list[str] = []
  if not path.is_file():
    return found, wrong
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    try:
      sample = Sample(**json.loads(line))
      is_there = (folder / sample.file).is_file()
    except (ValueError, TypeError):
      wrong.append(f"{path}:{number}: is not a sample record.")
      continue
    if is_there:
      found.append(sample)
    else:
      wrong.append(f"{path}:{number}: {folder / sample.file} is missing.")
  return found, wrong


def write(folder: pathlib.Path, samples: Sequence[Sample]) -> pathlib.Path:
  """Writes `samples.jsonl` completely or not at all."""
  path = folder / NAME
  text = "".join(f"{json.dumps(dataclasses.asdict(s))}\n" for s in samples)
  files.write(path, text)
  return path
