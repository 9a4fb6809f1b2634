"""Latents <-> tokens, and the position of each token.

Tokens run frame-major, then row-major; a grid is the extent in tokens `(t, h, w)`. All
functions take NumPy or JAX arrays and return the same.
"""

import einops
import numpy as np

from video_dit import config
from video_dit.data import batch

Extent = tuple[int, int, int]
_TOKENS = "(f pf) (h ph) (w pw) c -> (f h w) (pf ph pw c)"
_LATENT = "(f h w) (pf ph pw c) -> (f pf) (h ph) (w pw) c"


def patchify(latent_FHWC: batch.Array, size: Extent) -> batch.Array:
  """Cuts one latent clip into tokens, frame-major, then row-major.

  Args:
    latent_FHWC: latent frames; each of F, H, W a multiple of its `size`.
    size: patch extent in latent frames, rows and columns.

  Returns:
    Tokens `(N, P)` with N = F H W / volume and P = volume * C.

  Raises:
    ValueError: an extent is not a multiple of its size.
  """
  f, h, w, _ = latent_FHWC.shape
  grid((f, h, w), size)
  pf, ph, pw = size
  return einops.rearrange(latent_FHWC, _TOKENS, pf=pf, ph=ph, pw=pw)


def unpatchify(tokens_NP: batch.Array, grid: Extent, size: Extent) -> batch.Array:
  """Puts tokens back together; the inverse of `patchify`.

  Args:
    tokens_NP: tokens of one clip.
    grid: the clip's extent in tokens.
    size: patch extent in latent frames, rows and columns.

  Returns:
    Latent frames `(F, H, W, C)`.
  """
  (f, h, w), (pf, ph, pw) = grid, size
  return einops.rearrange(tokens_NP, _LATENT, f=f, h=h, w=w, pf=pf, ph=ph, pw=pw)


def grid(extent: Extent, size: Extent) -> Extent:
  """Extent in tokens of a latent of this extent.

  Raises:
    ValueError: an extent is not a multiple of its size.
  """
  if any(e % s or e < s for e, s in zip(extent, size, strict=True)):
    raise ValueError(
      f"latent of extent {tuple(map(int, extent))}: not a multiple of the patch"
      f" {tuple(size)}. Choose another dit.patch, or preprocess for this one."
    )
  t, h, w = (int(e) // s for e, s in zip(extent, size, strict=True))
  return t, h, w


def positions(
  grid: Extent,
  *,
  dit: config.DiT,
  time: int,
  frames_per_second: float,
  first: int = 0,
) -> np.ndarray:
  """Time, row and column of each token, for the rotary embedding.

  Latent frame 0 is at 0 s and latent frame i > 0 at i * time / frames_per_second,
  the moment of the last of its frames. Rows and columns are counted from the clip's
  centre, so that a subject in the middle has the same position at every size.

  Args:
    grid: extent in tokens.
    dit: `patch`, `rope_seconds` and `rope_side` are read.
    time: frames per latent frame.
    frames_per_second: of the clip; may be 0 for one latent frame, and where time counts
      in tokens.
    first: index of the first latent frame, where the grid continues a longer clip.

  Returns:
    `(N, 3)` float32: time, rows, columns. Time is in units of `rope_seconds`, or in
    tokens where that is 0; rows and columns are in tokens, scaled by
    rope_side / sqrt(h w) unless `rope_side` is 0.

  Raises:
    ValueError: several latent frames without a frame rate.
  """
  t, h, w = grid
  index = first + np.arange(t) * dit.patch[0]
  last = int(index[-1])
  if last and dit.rope_seconds and not frames_per_second > 0:
    raise ValueError(
      f"clip of {last + 1} latent frames at {frames_per_second} frames per second: time"
      " needs a rate above 0. Set media.frames_per_second and preprocess again."
    )
  unit = 1 / dit.patch[0]
  if dit.rope_seconds:
    unit = time / frames_per_second / dit.rope_seconds if last else 0.0
  scale = dit.rope_side / np.sqrt(h * w) if dit.rope_side else 1.0
  axes = (
    index * unit,
    (np.arange(h) + 0.5 - h / 2) * scale,
    (np.arange(w) + 0.5 - w / 2) * scale,
  )
  single = (axis.astype(np.float32) for axis in axes)
  points = np.stack(np.meshgrid(*single, indexing="ij", copy=False), axis=-1)
  return einops.rearrange(points, "t h w a -> (t h w) a")


def frames(grid: Extent, size: Extent, first: int = 0) -> np.ndarray:
  """`(N,)` int32: the index in its clip of each token's (first) latent frame."""
  t, h, w = grid
  index = (first + np.arange(t) * size[0]).astype(np.int32)
  return einops.repeat(index, "t -> (t h w)", h=h, w=w)
