"""Layers of Wan's autoencoders besides the shared ones: resampling, frame attention.

In time the first frame of a clip is separate: it passes downsampling unchanged, and in
upsampling it becomes one frame that the later ones do not see.

Source: Wan (2025, arXiv:2503.20314), section 4.1, and its public code.
"""

import einops
from flax import nnx
import jax
import jax.numpy as jnp

from video_dit.models.autoencoder import blocks
from video_dit.models.autoencoder.layers import CausalConv, ChannelNorm, Stream

# The norm divides by a length of at least 1e-12 before it multiplies by sqrt(C): far
# below any nonzero mean square in float32.
FLOOR = 1e-24


class Downsample(nnx.Module):
  """Halves rows and columns; where `time`, also the frames after the first."""

  def __init__(self, channels: int, *, time: bool, rngs: nnx.Rngs):
    self.space = blocks.halve(channels, rngs=rngs)
    self.time = (
      CausalConv(channels, channels, kernel=(3, 1, 1), stride=(2, 1, 1), rngs=rngs)
      if time
      else None
    )

  def __call__(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    x_BFHWC = self.space(x_BFHWC, stream)
    if self.time is None:
      return x_BFHWC
    y_BFHWC = self.time(x_BFHWC, stream)
    if not stream.first:
      return y_BFHWC
    return jnp.concatenate([x_BFHWC[:, :1], y_BFHWC[:, 1:]], axis=1)


class Upsample(nnx.Module):
  """Doubles rows and columns; where `time`, also the frames after the first."""

  def __init__(self, num_in: int, num_out: int, *, time: bool, rngs: nnx.Rngs):
    self.time = (
      CausalConv(num_in, 2 * num_in, kernel=(3, 1, 1), rngs=rngs) if time else None
    )
    self.space = CausalConv(num_in, num_out, kernel=(1, 3, 3), rngs=rngs)

  def __call__(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    if self.time is not None:
      x_BFHWC = self._double_frames(x_BFHWC, stream)
    return self.space(blocks.repeat(x_BFHWC, 1, 2, lone=False), stream)

  def _double_frames(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    first_BFHWC = x_BFHWC[:, :1]
    if stream.first:  # the later frames see zeros in its place
      x_BFHWC = jnp.concatenate([jnp.zeros_like(first_BFHWC), x_BFHWC[:, 1:]], axis=1)
    assert self.time is not None
    y_BFHWC = einops.rearrange(
      self.time(x_BFHWC, stream), "b f h w (t c) -> b (f t) h w c", t=2
    )
    if not stream.first:
      return y_BFHWC
    return jnp.concatenate([first_BFHWC, y_BFHWC[:, 2:]], axis=1)


def average_down(
  x_BFHWC: jax.Array, num_out: int, time: int, space: int, *, first: bool
) -> jax.Array:
  """Means over blocks of `time x space x space` points and groups of channels.

  Args:
    x_BFHWC: a chunk.
    num_out: channels of the result; they divide channels times the block's points.
    time, space: extent of a block.
    first: the chunk begins a clip: zeros before it fill the first block.

  Returns:
    `(B, ceil(F / time), H / space, W / space, num_out)`.
  """
  before = -x_BFHWC.shape[1] % time
  assert first or not before
  x_BFHWC = jnp.pad(x_BFHWC, [(0, 0), (before, 0), (0, 0), (0, 0), (0, 0)])
  y_BFHWC = einops.rearrange(
    x_BFHWC,
    "b (f t) (h p) (w q) c -> b f h w (c t p q)",
    t=time,
    p=space,
    q=space,
  )
  return einops.reduce(y_BFHWC, "b f h w (c g) -> b f h w c", "mean", c=num_out)


def repeat_up(
  x_BFHWC: jax.Array, num_out: int, time: int, space: int, *, first: bool
) -> jax.Array:
  """The reverse: each point fills `time x space x space` points from its channels.

  Args:
    x_BFHWC: a chunk.
    num_out: channels of the result; channels divide them times the block's points.
    time, space: extent of a block.
    first: the chunk begins a clip: its first frame becomes one frame.
  """
  repeats = num_out * time * space**2 // x_BFHWC.shape[-1]
  y_BFHWC = einops.rearrange(
    jnp.repeat(x_BFHWC, repeats, axis=-1),
    "b f h w (c t p q) -> b (f t) (h p) (w q) c",
    c=num_out,
    t=time,
    p=space,
  )
  return y_BFHWC[:, time - 1 :] if first else y_BFHWC


class FrameAttention(nnx.Module):
  """Self-attention of one head among the points of each frame."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.norm = ChannelNorm(channels, floor=FLOOR)
    self.qkv = CausalConv(channels, 3 * channels, kernel=(1, 1, 1), rngs=rngs)
    self.out = CausalConv(channels, channels, kernel=(1, 1, 1), rngs=rngs)

  def __call__(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    batch, _, height, width, _ = x_BFHWC.shape
    q_BNC, k_BNC, v_BNC = einops.rearrange(
      self.qkv(self.norm(x_BFHWC), stream),
      "b f h w (three c) -> three (b f) (h w) c",
      three=3,
    )
    inside = stream.mask(x_BFHWC)
    if inside is not None:
      inside = jnp.repeat(inside, x_BFHWC.shape[1], axis=0)
    y_BNC = blocks.attend_causally(
      q_BNC, k_BNC, v_BNC, frame_size=height * width, inside=inside
    )
    y_BFHWC = einops.rearrange(y_BNC, "(b f) (h w) c -> b f h w c", b=batch, h=height)
    return x_BFHWC + self.out(y_BFHWC, stream)
