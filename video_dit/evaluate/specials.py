"""Clips of kinds that training never showed: an image, a new size, a new length."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math

from video_dit import config as config_lib
from video_dit.generator import request as request_lib


@dataclasses.dataclass(frozen=True)
class Special:
  """A request, and what is special about it."""

  title: str
  request: request_lib.Request


def choose(
  sizes: Mapping[tuple[int, int, int], int],
  prompts: Sequence[str],
  image_prompts: Sequence[str],
  *,
  grid: config_lib.Grid,
  row_length: int,
  frames_per_second: float,
  seed: int = 0,
) -> list[Special]:
  """Picks an image, and the nearest size and length that no training clip has.

  Args:
    sizes: how many training clips have each frames, height and width.
    prompts: of moving clips, at least one; used in turn.
    image_prompts: of the image; empty takes `prompts`.
    grid: that requests must fit.
    row_length: tokens of a sampling row.
    frames_per_second: of the clips.
    seed: of the first.

  Returns:
    Up to three; those for which nothing new fits a row are left out.
  """
  moving = [size for size in sizes if size[0] > 1]
  frames, height, width = max(moving or sizes, key=lambda size: sizes[size])
  seen_sizes = {size[1:] for size in sizes}
  seen_lengths = {size[0] for size in sizes}

  def fits(frames, height, width):
    t, h, w = grid.tokens(height, width, frames)
    return t * h * w <= row_length

  found: list[tuple[str, tuple[int, int, int]]] = []
  if grid.patch[0] == 1:  # else a token spans several frames and there are no images
    found.append(("an image", (1, height, width)))
  for size in _near_sizes(height, width, grid):
    if size not in seen_sizes and fits(frames, *size):
      shown = f"{size[1]}x{size[0]} pixels"
      found.append((f"a size that no training clip has: {shown}", (frames, *size)))
      break
  for length in _near_lengths(frames, grid):
    if length not in seen_lengths and fits(length, height, width):
      title = f"a length that no training clip has: {length} frames"
      found.append((title, (length, height, width)))
      break
  specials = []
  for i, (title, size) in enumerate(found):
    texts = (image_prompts or prompts) if size[0] == 1 else prompts
    request = request_lib.Request(
      prompt=texts[i % len(texts)],
      frames=size[0],
      height=size[1],
      width=size[2],
      frames_per_second=frames_per_second,
      seed=seed + i,
    )
    specials.append(Special(title, request))
  return specials


def _near_sizes(height: int, width: int, grid: config_lib.Grid) -> Iterator[tuple]:
  """Sizes on the grid, those of nearly the same area and shape first."""
  unit_y, unit_x = grid.side
  sizes = [
    (y, x)
    for y in range(unit_y, 2 * height + 1, unit_y)
    for x in range(unit_x, 2 * width + 1, unit_x)
    if height <= 2 * y and width <= 2 * x
  ]

  def distance(size: tuple[int, int]) -> tuple:
    high, wide = math.log(size[0] / height), math.log(size[1] / width)
    return round(abs(high + wide) + abs(high - wide), 6), -size[0] * size[1], size

  yield from sorted(sizes, key=distance)


def _near_lengths(frames: int, grid: config_lib.Grid) -> Iterator[int]:
  """Lengths on the grid, nearest first, longer before shorter."""
  lengths = range(grid.least, 4 * frames + grid.span, grid.span)
  moving = [n for n in lengths if n > 1]
  yield from sorted(moving, key=lambda n: (abs(n - frames), -n))
