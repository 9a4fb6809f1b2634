"""Whether training has rows for the clips, known before any of them is encoded."""

import math

import numpy as np

from video_dit import config as config_lib
from video_dit.preprocess import plan as plan_lib

_BLOCK = 1024  # rows are multiples of it where there is a choice


def most_tokens(config: config_lib.Config) -> int:
  """Tokens of the longest clip that a config's `media` allows."""
  grid, media = config_lib.Grid.of(config), config.media
  frames = grid.latent_frames(media.max_frames) // grid.patch[0]
  return frames * (media.max_pixels // math.prod(grid.side))


def check(plan: plan_lib.Plan, config: config_lib.Config) -> None:
  """Refuses clips that `config.data` has no rows for.

  Args:
    plan: of the clips.
    config: `data.long` and `data.row_length` decide.

  Raises:
    ValueError: how many do not fit, the longest, and which settings would fit.
  """
  data, grid = config.data, config_lib.Grid.of(config)
  frame = plan.height.astype(np.int64) * plan.width // math.prod(grid.side)
  least = frame if data.long == "split" else plan.tokens
  long = int(np.count_nonzero(least > data.row_length))
  if not long:
    return
  i = int(np.argmax(least))
  frames, height, width = plan.shape(i)
  fit = grid.frames(data.row_length // int(frame[i]) * grid.patch[0])
  kind = "an image" if frames == 1 else f"{frames} frames"
  length = -(-int(least[i]) // _BLOCK) * _BLOCK
  ways = [f"--config.data.row_length={length} here and for training"]
  if fit:
    ways.append(f"--config.media.max_frames={fit} for shorter clips")
    ways.append("--config.data.long=split here and for training, which then cuts them")
  raise ValueError(
    f"{long:,} of {len(plan):,} clips do not fit a row of data.row_length="
    f"{data.row_length} tokens, so training with this config would refuse them: the"
    f" longest is {kind} of {height}x{width}, {int(plan.tokens[i]):,} tokens."
    f" Nothing is encoded yet. Give a smaller --config.media.max_pixels, or"
    f" {', or '.join(ways)}."
  )
