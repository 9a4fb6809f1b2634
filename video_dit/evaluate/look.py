"""Clips to look at side by side: nearest training clips, specials, reconstructions."""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools

from absl import logging
import numpy as np

from video_dit import config as config_lib
from video_dit.evaluate import measure, nearest, report, specials, strips, training
from video_dit.generator import generator as generator_lib
from video_dit.media.errors import MediaError
from video_dit.models.autoencoder.frozen import Frozen
from video_dit.parallel import hosts

_PROMPTS = 3  # of the specials


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Nearest:
  """The copy check.

  Attributes:
    pairs: the generated clips that are nearest to a training clip, nearest first.
    distances: of every generated clip to the training clip nearest to it.
    compared: training clips compared with.
    total: all training clips.
  """

  pairs: list[report.Pair]
  distances: np.ndarray
  compared: int
  total: int

  def note(self) -> str:
    """Explains the distances."""
    return (
      f"Each generated clip is compared with {self.compared:,} of {self.total:,} training"
      " clips. The distance is the root mean square of the differences of pixel values"
      " (0 to 255), with all clips resampled to one small grid: 0 is a copy. Over all"
      f" generated clips the smallest distance is {self.distances.min():.1f} and the"
      f" median {np.median(self.distances):.1f}. Below are the nearest ones."
    )


def find_nearest(
  judged: Sequence[measure.Judged],
  clips: training.Clips,
  media: config_lib.Media,
  *,
  most: int,
  shown: int = 12,
) -> Nearest | None:
  """Finds the training clip nearest to each generated clip.

  Args:
    judged: generated clips, at least one.
    clips: of training.
    media: limits for decoding.
    most: training clips to compare with, evenly spaced.
    shown: number of pairs kept.

  Returns:
    The result; None where no training clip can be read.
  """
  num = min(most, len(clips))
  chosen = clips.take(i * len(clips) // num for i in range(num))
  read: list[training.Clip] = []

  def decoded() -> Iterator[np.ndarray]:
    for clip in hosts.bar(chosen, desc="nearest training clips", unit="clip"):
      frames_FHWC = _decode(clip, media)
      if frames_FHWC is not None:
        read.append(clip)
        yield frames_FHWC

  frames = decoded()
  first = next(frames, None)
  if first is None:
    return None
  indices, distances = nearest.nearest(
    [j.grid_FHWC for j in judged], itertools.chain([first], frames)
  )
  pairs = []
  for i in np.argsort(distances)[:shown]:
    clip = read[indices[i]]
    prompt = judged[i].sample.prompt or "(empty prompt)"
    caption = f"{prompt} — distance {distances[i]:.1f} to training's: {clip.caption}"
    other = strips.few(clip.decode(media))
    pairs.append(
      report.Pair(caption=caption, first_FHWC=judged[i].few_FHWC, second_FHWC=other)
    )
  return Nearest(pairs=pairs, distances=distances, compared=len(read), total=len(clips))


def make_specials(
  generator: generator_lib.Generator,
  clips: training.Clips,
  judged: Sequence[measure.Judged],
) -> list[tuple[str, np.ndarray]]:
  """Generates an image, and clips of a size and a length that no training clip has.

  Args:
    generator: of the run.
    clips: of training, at least one.
    judged: samples, whose prompts are taken first; the training captions otherwise.

  Returns:
    For each, what it is with its prompt, and a few of its frames.
  """
  moving = [j.sample.prompt for j in judged if j.sample.frames > 1]
  if not moving:
    some = np.flatnonzero(clips.sizes[:, 0] > 1)[:_PROMPTS].tolist() or [0]
    moving = [clip.caption for clip in clips.take(some)]
  sample = generator.config.sample
  chosen = specials.choose(
    clips.counts(),
    moving,
    [_as_image(j) for j in judged if j.sample.truth][:1],
    grid=generator.grid,
    row_length=generator.shape.length,
    frames_per_second=sample.frames_per_second,
    seed=sample.seed,
  )
  titles = {id(special.request): special.title for special in chosen}
  made = []
  with hosts.bar(total=len(chosen), desc="specials", unit="clip") as bar:
    requests = [special.request for special in chosen]
    for request, frames_FHWC in generator.generate(requests, bar.set_postfix_str):
      prompt = request.prompt or "(empty prompt)"
      made.append((f"{titles[id(request)]}. Prompt: {prompt}", strips.few(frames_FHWC)))
      bar.update()
  return made


def _as_image(judged: measure.Judged) -> str:
  """The prompt of a still image of what a sample shows, in the demo's words."""
  truth = judged.sample.truth
  ground = f" on {truth['background']}" if "background" in truth else ""
  return f"a photo of a {truth.get('colour', '')} {truth.get('shape', '')}{ground}"


def reconstruct(
  frozen: Frozen,
  clips: training.Clips,
  media: config_lib.Media,
  *,
  most: int = 6,
) -> list[report.Pair]:
  """Originals of different sizes beside their reconstructions.

  Args:
    frozen: the autoencoder.
    clips: preferably those that it was not trained on.
    media: limits for decoding.
    most: the largest number of pairs.
  """
  pairs = []
  chosen = clips.spread(most)
  for clip in hosts.bar(chosen, desc="reconstructions", unit="clip"):
    original = _decode(clip, media)
    if original is None:
      continue
    again = np.asarray(frozen.decode(frozen.encode(original)))
    error = np.mean(np.square(original.astype(np.float64) - again))
    ratio = 10 * np.log10(255**2 / max(error, 1e-9))
    caption = f"{clip.caption} — {clip.width}x{clip.height}, PSNR {ratio:.1f} dB"
    first, second = strips.few(original), strips.few(again)
    pairs.append(report.Pair(caption=caption, first_FHWC=first, second_FHWC=second))
  return pairs


def _decode(clip: training.Clip, media: config_lib.Media) -> np.ndarray | None:
  try:
    return clip.decode(media)
  except MediaError as error:
    logging.error("%s It is left out of the comparison.", error)
    return None
