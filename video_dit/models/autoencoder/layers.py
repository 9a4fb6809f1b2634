"""Causal 3D convolutions, and the layers that are built of them.

Causal in time: an output frame sees its own and earlier frames alone, so that an image
is the first frame of a clip and a clip of any length can be streamed. A `Stream`
carries the few frames that each convolution still needs from the chunk before.

Source: the causal convolutions of MAGVIT-v2 (Yu et al., 2023, arXiv:2310.05737).
"""

from collections.abc import Iterator
import functools

import einops
from flax import nnx
import jax
import jax.numpy as jnp

Cache = tuple[jax.Array, ...]


class Stream:
  """Hands each convolution its frames of the chunk before, in the order of calls.

  Attributes:
    first: this chunk is the clip's beginning (or the whole clip).
  """

  def __init__(self, cache: Cache | None = None):
    self.first = cache is None
    self._old: Iterator[jax.Array] = iter(cache or ())
    self._new: list[jax.Array] = []

  def extend(self, x_BFHWC: jax.Array, reach: int, stride: int) -> jax.Array:
    """Puts the earlier frames before a chunk.

    Args:
      x_BFHWC: the chunk.
      reach: frames of the kernel before its last.
      stride: of the convolution in time; the chunk's frames divide by it, but for
        the first chunk's one more.

    Returns:
      The chunk behind `reach` zero frames, or behind what the last chunk left.
    """
    if reach == 0:
      return x_BFHWC
    if self.first:
      padding = [(0, 0), (reach, 0), (0, 0), (0, 0), (0, 0)]
      x_BFHWC = jnp.pad(x_BFHWC, padding)
    else:
      x_BFHWC = jnp.concatenate([next(self._old).astype(x_BFHWC.dtype), x_BFHWC], axis=1)
    self._new.append(x_BFHWC[:, x_BFHWC.shape[1] - (reach + 1 - stride) :])
    return x_BFHWC

  def cache(self) -> Cache:
    """What the next chunk needs."""
    return tuple(self._new)


class CausalConv(nnx.Module):
  """A convolution over `(F, H, W)`, causal in time, zero-padded in space."""

  def __init__(
    self,
    num_in: int,
    num_out: int,
    *,
    kernel: tuple[int, int, int] = (3, 3, 3),
    stride: tuple[int, int, int] = (1, 1, 1),
    gain: float = 1.0,
    bias: float = 0.0,
    rngs: nnx.Rngs,
  ):
    self.stride = stride
    axes = ("window", "window", "window", "channels_in", "channels_out")
    weights = delta_orthogonal(rngs.params(), (*kernel, num_in, num_out), stride)
    self.kernel = nnx.Param(gain * weights, axes=axes)
    self.bias = nnx.Param(jnp.full((num_out,), bias, jnp.float32), axes=axes[-1:])

  def __call__(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    kernel = self.kernel[...].astype(x_BFHWC.dtype)
    x_BFHWC = stream.extend(x_BFHWC, kernel.shape[0] - 1, self.stride[0])
    y_BFHWC = jax.lax.platform_dependent(
      x_BFHWC,
      kernel,
      cpu=functools.partial(convolve_by_frames, stride=self.stride),
      default=functools.partial(convolve, stride=self.stride),
    )
    return y_BFHWC + self.bias[...].astype(y_BFHWC.dtype)[None, None, None, None]


def delta_orthogonal(
  key: jax.Array, shape: tuple[int, ...], stride: tuple[int, int, int]
) -> jax.Array:
  """An orthogonal map on the taps of an output's own cell, zero on all others.

  A stack of such layers starts as a well-conditioned linear map of each cell (Xiao et
  al., 2018, arXiv:1806.05393), so that an autoencoder learns from its first steps.
  """
  taps = []
  for axis, (size, step) in enumerate(zip(shape[:3], stride, strict=True)):
    # Time is causal: its own frames come last. Space is centred.
    first = size - step if axis == 0 else (size - 1) // 2
    taps.append(slice(first, first + step))
  num_in, num_out = shape[3:]
  fan_in = num_in * stride[0] * stride[1] * stride[2]
  flat = jax.nn.initializers.orthogonal()(key, (fan_in, num_out), jnp.float32)
  flat *= max(1.0, num_out / fan_in) ** 0.5  # keeps the variance of each output
  weights = einops.rearrange(
    flat, "(d h w i) o -> d h w i o", d=stride[0], h=stride[1], w=stride[2]
  )
  return jnp.zeros(shape, jnp.float32).at[tuple(taps)].set(weights)


def convolve(
  x_BFHWC: jax.Array, kernel: jax.Array, stride: tuple[int, int, int]
) -> jax.Array:
  """One 3D convolution: no padding in time, zeros in space; kernel `(3D, I, O)`."""
  pads = [((k - 1) // 2, (k - 1) // 2) for k in kernel.shape[1:3]]
  return jax.lax.conv_general_dilated(
    x_BFHWC,
    kernel,
    window_strides=stride,
    padding=[(0, 0), *pads],
    dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
  )


def convolve_by_frames(
  x_BFHWC: jax.Array, kernel: jax.Array, stride: tuple[int, int, int]
) -> jax.Array:
  """The same as one 2D convolution over the frames that the kernel spans.

  Those frames are stacked in channels. XLA on CPU runs 2D convolutions several times
  faster than 3D ones.
  """
  batch, frames = x_BFHWC.shape[:2]
  reach = kernel.shape[0]
  span = frames - reach + 1
  stacked = jnp.concatenate(
    [jax.lax.slice_in_dim(x_BFHWC, i, i + span, stride[0], axis=1) for i in range(reach)],
    axis=-1,
  )
  y = jax.lax.conv_general_dilated(
    einops.rearrange(stacked, "b f h w c -> (b f) h w c"),
    einops.rearrange(kernel, "d h w i o -> h w (d i) o"),
    window_strides=stride[1:],
    padding=[((k - 1) // 2, (k - 1) // 2) for k in kernel.shape[1:3]],
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return einops.rearrange(y, "(b f) h w c -> b f h w c", b=batch)


class ChannelNorm(nnx.Module):
  """Root-mean-square norm over channels at each point: it never mixes frames."""

  def __init__(self, channels: int):
    self.scale = nnx.Param(jnp.ones((channels,), jnp.float32), axes=("channels_in",))

  def __call__(self, x: jax.Array) -> jax.Array:
    h = x.astype(jnp.float32)
    h *= jax.lax.rsqrt(jnp.mean(jnp.square(h), -1, keepdims=True) + 1e-6)
    return (h * jnp.expand_dims(self.scale[...], range(x.ndim - 1))).astype(x.dtype)


class ResidualBlock(nnx.Module):
  """Two convolutions behind norm and SiLU, around which the input is added.

  Factorized, the first is over space and the second over time (Tran et al., 2018,
  arXiv:1711.11248): 12 taps of 54.
  """

  def __init__(self, channels: int, *, factorized: bool = False, rngs: nnx.Rngs):
    space, time = ((1, 3, 3), (3, 1, 1)) if factorized else ((3, 3, 3), (3, 3, 3))
    self.norm1 = ChannelNorm(channels)
    self.conv1 = CausalConv(channels, channels, kernel=space, rngs=rngs)
    self.norm2 = ChannelNorm(channels)
    self.conv2 = CausalConv(channels, channels, kernel=time, gain=0.1, rngs=rngs)

  def __call__(self, x: jax.Array, stream: Stream) -> jax.Array:
    h = self.conv1(jax.nn.silu(self.norm1(x)), stream)
    return x + self.conv2(jax.nn.silu(self.norm2(h)), stream)


class Upsample(nnx.Module):
  """Sub-pixel convolution: each point becomes `time x space x space` points.

  In time the clip's first frame becomes one frame, each later one `time` frames, so
  that 1 + k frames become 1 + time k.
  """

  def __init__(
    self,
    num_in: int,
    num_out: int,
    stride: tuple[int, int],
    *,
    kernel: tuple[int, int, int],
    rngs: nnx.Rngs,
  ):
    self.time, self.space = stride
    channels = num_out * self.time * self.space**2
    self.conv = CausalConv(num_in, channels, kernel=kernel, rngs=rngs)

  def __call__(self, x: jax.Array, stream: Stream) -> jax.Array:
    y = einops.rearrange(
      self.conv(x, stream),
      "b f h w (t p q c) -> b (f t) (h p) (w q) c",
      t=self.time,
      p=self.space,
      q=self.space,
    )
    return y[:, self.time - 1 :] if stream.first else y
