"""The samples of a folder, as the sample command recorded and wrote them."""

from collections.abc import Iterator, Sequence
import dataclasses
import pathlib

import numpy as np

from video_dit import config as config_lib
from video_dit.generator import prompts as prompts_lib
from video_dit.generator import records
from video_dit.media import decode


def read(folder: pathlib.Path) -> list[records.Sample]:
  """Reads the records of a folder of samples.

  Raises:
    ValueError: there are none, one is damaged, or a file that one names is missing.
  """
  path = folder / records.NAME
  if not path.is_file():
    raise ValueError(
      f"{path}: there is no such file. Name the --output of video_dit.sample."
    )
  found, wrong = records.read(folder)
  if wrong:
    raise ValueError(f"{wrong[0]} Sample again.")
  if not found:
    raise ValueError(f"{path}: contains no samples. Sample again.")
  return found


def with_truth(
  samples: Sequence[records.Sample], path: pathlib.Path
) -> list[records.Sample]:
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
  folder: pathlib.Path, samples: Sequence[records.Sample], media: config_lib.Media
) -> Iterator[tuple[records.Sample, np.ndarray]]:
  """Yields each sample with its decoded frames `(F, H, W, 3)`, at the file's own rate."""
  media = dataclasses.replace(media, frames_per_second=0.0)
  for sample in samples:
    yield sample, np.stack(list(decode.frames(folder / sample.file, media)))
