"""Clips as the peers take them, packed into a row as ours does, and back."""

from collections.abc import Sequence
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit.data import patchify
from video_dit.models.dit.wan import Wan

Clips = Sequence[np.ndarray]  # (C, F, H, W) each, of any sizes


def pack(
  model: Wan,
  clips: Clips,
  texts: Clips,
  *,
  tokens: int = 0,
  text: int = 0,
  seed: int = 0,
) -> dict[str, np.ndarray]:
  """One row of all clips, with padding of noise behind tokens and text.

  Args:
    model: its patch and positions count.
    clips: latents.
    texts: `(L, E)` of each clip, without what fills it up.
    tokens, text: least length of the row and of its text; padding fills them up.
    seed: of the noise.
  """
  dit, noise = model.dit, np.random.default_rng(seed)
  grids = [patchify.grid(np.moveaxis(x, 0, -1).shape[:3], dit.patch) for x in clips]
  patches = [patchify.patchify(np.moveaxis(x, 0, -1), dit.patch) for x in clips]
  places = [
    patchify.positions(grid, dit=dit, time=4, frames_per_second=16.0) for grid in grids
  ]

  def spare(parts: Clips, length: int) -> int:
    return max(0, length - sum(map(len, parts)))

  def row(parts: Clips, length: int):
    shape = (spare(parts, length), parts[0].shape[1])
    return np.concatenate([*parts, noise.normal(size=shape).astype(np.float32)])[None]

  def numbers(parts: Clips, length: int):
    counts = [*(len(part) for part in parts), spare(parts, length)]
    return np.repeat([*range(1, len(parts) + 1), 0], counts)[None].astype(np.int32)

  return {
    "patches": row(patches, tokens),
    "segments": numbers(patches, tokens),
    "positions": row(places, tokens),
    "text": row(texts, text),
    "text_segments": numbers(texts, text),
  }


def unpack(model: Wan, rows_1NP: np.ndarray, clips: Clips) -> list[np.ndarray]:
  """The clips of the row that `pack` made of `clips`."""
  out, at = [], 0
  for clip in clips:
    grid = patchify.grid(np.moveaxis(clip, 0, -1).shape[:3], model.dit.patch)
    count = int(np.prod(grid))
    latent = patchify.unpatchify(rows_1NP[0, at : at + count], grid, model.dit.patch)
    out.append(np.moveaxis(np.asarray(latent), -1, 0))
    at += count
  return out


@functools.partial(jax.jit, static_argnames=("graph", "num_segments"))
def run(graph, params, row, times, *, num_segments=None):
  """The prediction of a row."""
  return nnx.merge(graph, params)(
    row["patches"],
    times,
    row["segments"],
    row["positions"],
    row["text"],
    row["text_segments"],
    dtype=jnp.float32,
    num_segments=num_segments,
  )
