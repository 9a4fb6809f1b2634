"""What is packed: clips, or the runs of latent frames that long clips are cut into."""

from collections.abc import Callable
import dataclasses

import numpy as np

from video_dit import config
from video_dit.data import patchify


@dataclasses.dataclass(frozen=True, eq=False)
class Pieces:
  """What is packed: whole clips, and the runs that clips longer than a row are cut into.

  Attributes:
    clip: `(n,)` int32, record number in the data set.
    first: `(n,)` int32, first latent frame of the run.
    count: `(n,)` int32, latent frames of the run.
    run: `(n,)` int16, number of the run in its clip, from 0.
    tokens: `(n,)` int32.
    text_tokens: `(n,)` int32, room for the longer of the caption and the empty one.
  """

  clip: np.ndarray
  first: np.ndarray
  count: np.ndarray
  run: np.ndarray
  tokens: np.ndarray
  text_tokens: np.ndarray

  def __len__(self) -> int:
    return len(self.clip)


def cut(
  t: np.ndarray,
  h: np.ndarray,
  w: np.ndarray,
  text_tokens: np.ndarray,
  *,
  data: config.Data,
  patch: patchify.Extent,
  empty_tokens: int = 1,
  name: Callable[[int], str] = "clip {}".format,
) -> Pieces:
  """Cuts clips longer than a row into even runs of whole latent frames.

  Args:
    t, h, w: `(n,)` latent extents.
    text_tokens: `(n,)` tokens of each caption.
    data: `row_length`, `row_text` and `long` are read.
    patch: extent of a token.
    empty_tokens: tokens of the empty caption, which may take a caption's place.
    name: of the i-th clip, for messages.

  Raises:
    ValueError: a clip or its caption fits no row, or its extent is not on the grid.
  """
  extents = np.stack([t, h, w]).astype(np.int32)
  size = np.asarray(patch, np.int32)[:, None]
  grid = extents // size
  text = np.maximum(np.asarray(text_tokens, np.int32), empty_tokens)
  tokens = np.prod(grid, axis=0, dtype=np.int64)
  frame = np.prod(grid[1:], axis=0, dtype=np.int64)

  def refuse(bad: np.ndarray, rule: str) -> None:
    if bad.any():
      i = int(np.argmax(bad))
      raise ValueError(
        f"{name(i)} ({int(bad.sum())} such): latent {tuple(extents[:, i].tolist())},"
        f" {tokens[i]} tokens, caption {text[i]} tokens; {rule}"
      )

  refuse(
    (extents % size != 0).any(axis=0) | (tokens == 0),
    f"not a multiple of dit.patch {tuple(patch)}. Choose another dit.patch, or"
    " preprocess for this one.",
  )
  refuse(
    text > data.row_text,
    f"more text than data.row_text={data.row_text}. Raise data.row_text.",
  )
  refuse(
    frame > data.row_length,
    f"a latent frame alone is longer than data.row_length={data.row_length}. Raise"
    " data.row_length, or preprocess with a smaller media.max_pixels.",
  )
  if data.long == "refuse":
    refuse(
      tokens > data.row_length,
      f"longer than data.row_length={data.row_length}. Raise data.row_length, or set"
      " data.long=split.",
    )
  fit = data.row_length // frame
  runs = -(-grid[0] // fit)
  clip = np.repeat(np.arange(len(tokens), dtype=np.int32), runs)
  run = np.arange(len(clip)) - np.repeat(np.cumsum(runs) - runs, runs)
  start = run * grid[0, clip] // runs[clip]
  count = (run + 1) * grid[0, clip] // runs[clip] - start
  return Pieces(
    clip=clip,
    first=(start * patch[0]).astype(np.int32),
    count=(count * patch[0]).astype(np.int32),
    run=run.astype(np.int16),
    tokens=(count * frame[clip]).astype(np.int32),
    text_tokens=text[clip],
  )
