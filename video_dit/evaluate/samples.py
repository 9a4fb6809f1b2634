"""The samples of a folder, as the sample command recorded and wrote them."""

from collections.abc import Iterator, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from video_dit import config as config_lib
from video_dit.generator import prompts as prompts_lib
from video_dit.media import decode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """A generated clip on disk.

  Attributes:
    path: its file.
    prompt: what was asked for.
    truth: words that it must show; empty where unknown.
    settings: the rest of its record.
  """

  path: pathlib.Path
  prompt: str
  truth: dict[str, str]
  settings: dict[str, Any]


def read(folder: pathlib.Path) -> list[Sample]:
  """Reads `samples.jsonl`.

  Raises:
    ValueError: there is none, it is empty or damaged, or a file that it names is missing.
  """
  records = folder / "samples.jsonl"
  if not records.is_file():
    raise ValueError(
      f"{records}: there is no such file. Name the --output of video_dit.sample."
    )
  found = []
  for number, text in enumerate(records.read_text(encoding="utf-8").splitlines(), 1):
    try:
      line = json.loads(text)
      path = folder / line.pop("file")
      parts = {"prompt": line.pop("prompt"), "truth": line.pop("truth")}
    except (ValueError, KeyError, TypeError, AttributeError):
      raise ValueError(f"{records}:{number}: is not a sample record.") from None
    if not path.is_file():
      raise ValueError(f"{records}:{number}: {path} is missing. Sample again.")
    found.append(Sample(path=path, **parts, settings=line))
  if not found:
    raise ValueError(f"{records}: contains no samples. Sample again.")
  return found


def with_truth(samples: Sequence[Sample], path: pathlib.Path) -> list[Sample]:
  """Adds the truth of a prompts file to the samples with the same prompt.

  Args:
    samples: from `read`.
    path: a file of prompts whose lines hold any of colour, shape, direction.

  Raises:
    ValueError: a line is not a prompt, no line says what its clip must show, or no
      prompt of the file was sampled.
  """
  lines = [(line["prompt"], prompts_lib.truth(line)) for line in prompts_lib.read(path)]
  truths = {prompt: truth for prompt, truth in lines if truth}
  if not truths:
    raise ValueError(
      f"--prompts={path}: no line says what its clip must show. Name a .jsonl file whose"
      f" lines hold {', '.join(prompts_lib.TRUTH)} beside the prompt."
    )
  if not any(sample.prompt in truths for sample in samples):
    raise ValueError(
      f"--prompts={path}: no sample has a prompt of this file. Name the file that the"
      " samples were made from."
    )
  return [
    dataclasses.replace(sample, truth=truths.get(sample.prompt, sample.truth))
    for sample in samples
  ]


def frames(
  samples: Sequence[Sample], media: config_lib.Media
) -> Iterator[tuple[Sample, np.ndarray]]:
  """Yields each sample with its decoded frames `(F, H, W, 3)`, at the file's own rate."""
  media = dataclasses.replace(media, frames_per_second=0.0)
  for sample in samples:
    yield sample, np.stack(list(decode.frames(sample.path, media)))
