"""The content of a planned step's rows: how long the clips are, and what that costs.

A plan has no data. Rows hold clips of the lengths that the user names, or one clip each,
which is the most attention that a row can need.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math

import jax
import numpy as np

from video_dit import config as config_lib
from video_dit.data import batch as batch_lib
from video_dit.data.batch import Batch
from video_dit.models.dit import flops
from video_dit.trainer import task as task_lib

_LOW = 0.9  # full rows need no word


@dataclasses.dataclass(frozen=True)
class Mix:
  """Clips of one row, end to end; all rows are alike.

  Attributes:
    tokens: of each clip.
    text: caption tokens of each clip.
    length: of the row; the rest is padding.
  """

  tokens: tuple[int, ...]
  text: tuple[int, ...]
  length: int

  @property
  def fill(self) -> float:
    """Share of the row that is data."""
    return sum(self.tokens) / self.length

  @functools.cached_property
  def segments_N(self) -> np.ndarray:
    """Segment of each token of the row."""
    numbers = np.repeat(np.arange(1, len(self.tokens) + 1), self.tokens)
    return np.pad(numbers, (0, self.length - len(numbers)))

  @functools.cache  # noqa: B019
  def visited(self, block: int, key_block: int, *, text: int = 0) -> float:
    """Share of query-key pairs visited by a kernel that skips whole blocks.

    Over a context axis it is the mean of the devices' shares.

    Args:
      block, key_block: of the kernel.
      text: of the row, in tokens, where keys are the text's; 0 where they are the row's.
    """
    keys, parts = (text, self.text) if text else (self.length, self.tokens)
    ends = np.minimum(np.cumsum(parts), keys)
    starts = np.concatenate([[0], ends[:-1]])
    pairs = 0.0
    for first in range(0, self.length, block):
      found = self.segments_N[first : first + block]
      found = found[found > 0]
      if found.size:
        low = starts[found.min() - 1] // key_block
        high = -(-ends[found.max() - 1] // key_block)
        pairs += min(block, self.length - first) * max(high - low, 0) * key_block
    return min(1.0, pairs / (self.length * keys))


def of(config: config_lib.Config, clips: Sequence[int] = ()) -> Mix:
  """Rows of clips of these lengths, repeated until a row is full.

  Raises:
    ValueError: a clip is longer than a row.
  """
  length, most = config.data.row_length, config.data.row_segments
  wanted = list(clips) or [length]
  for clip in wanted:
    if not 0 < clip <= length:
      raise ValueError(
        f"--clips={clip}: a clip of {clip} tokens does not fit into a row of {length}"
        " (config.data.row_length). Name fewer tokens, or make rows longer."
      )
  tokens: list[int] = []
  while len(tokens) < most and sum(tokens) + wanted[len(tokens) % len(wanted)] <= length:
    tokens.append(wanted[len(tokens) % len(wanted)])
  text = min(config.text.max_tokens, config.data.row_text // len(tokens))
  return Mix(tuple(tokens), (text,) * len(tokens), length)


def notes(config: config_lib.Config, mix: Mix) -> list[str]:
  """What keeps rows of these clips from filling, and the key to raise."""
  data, clips, found = config.data, len(mix.tokens), []
  if mix.fill < _LOW and clips == data.row_segments:
    found.append(
      f"rows are {mix.fill:.0%} full, as data.row_segments={clips} clips fill one:"
      f" --config.data.row_segments={math.ceil(clips / mix.fill)} fills it"
    )
  if mix.text[0] < config.text.max_tokens:
    found.append(
      f"planned with captions of {mix.text[0]} tokens; of longer ones"
      f" data.row_text={data.row_text} takes fewer than {clips} in a row, and of the"
      f" longest --config.data.row_text={clips * config.text.max_tokens} takes all"
    )
  return found


def step_flops(config: config_lib.Config, mix: Mix, patch_dim: int) -> float:
  """Model FLOPs of one step: all rows of all its micro-batches, forward and backward."""
  rows = config.data.rows * config.train.accumulate
  row = flops.train_flops(
    config.dit,
    patch_dim=patch_dim,
    text_width=config.text.width,
    tokens_S=np.array(mix.tokens, np.float64),  # type: ignore[arg-type]
    text_tokens_S=np.array(mix.text, np.float64),  # type: ignore[arg-type]
  )
  return float(rows * row)


def patch_dim(config: config_lib.Config) -> int:
  """Values of one token."""
  return config.autoencoder.channels * math.prod(config.dit.patch)


def abstract_rows(
  config: config_lib.Config, mesh: jax.sharding.Mesh, rows: int, dtype=np.float16
) -> Batch:
  """Shapes and layout of a batch of rows, as the loader returns them."""
  one = batch_lib.blank(
    1,
    config.data.row_length,
    config.data.row_segments,
    config.data.row_text,
    patch_dim=patch_dim(config),
    text_width=config.text.width,
    dtype=dtype,
  )
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=s),
    one,
    task_lib.rows_layout(mesh),
  )
