"""Causal 3D convolutions, and the layers that are built from them.

Causal in time: an output frame sees only its own and earlier frames, so that an image
is the first frame of a clip and a clip of any length can be streamed. A `Stream`
carries the few frames that each convolution still needs from the chunk before.

Source: the causal convolutions of MAGVIT-v2 (Yu et al., 2023, arXiv:2310.05737).
"""

from collections.abc import Callable, Iterator
import functools

import einops
from flax import nnx
import jax
import jax.numpy as jnp

from video_dit.models.autoencoder.inside import Fill, Inside
from video_dit.parallel import precision

Cache = tuple[jax.Array, ...]
Pads = tuple[tuple[int, int], tuple[int, int]]  # points before and after rows, columns
_UNPADDED: Pads = ((0, 0), (0, 0))
_MANY_CHANNELS = 64


class Stream:
  """Gives each convolution its frames of the previous chunk, in the order of calls.

  Attributes:
    first: this chunk is the clip's beginning (or the whole clip).
    before: what precedes the clip's first frame: zeros, or that frame again.
    inside: which part of their buffer the clips fill; None for all of it.
    remat: the backward pass computes layers again that were `run`. Nothing is kept of
      them for a next chunk: it is for training, which takes whole clips.
  """

  def __init__(
    self,
    cache: Cache | None = None,
    before: Fill = "constant",
    inside: Inside | None = None,
    *,
    remat: bool = False,
  ):
    assert cache is None or not remat
    self.first, self.remat = cache is None, remat
    self.before = before
    self.inside = inside
    self._old: Iterator[jax.Array] = iter(cache or ())
    self._new: list[jax.Array] = []

  def extend(self, x_BFHWC: jax.Array, reach: int, stride: int) -> jax.Array:
    """Prepends the earlier frames to a chunk.

    Args:
      x_BFHWC: the chunk.
      reach: frames of the kernel before its last.
      stride: of the convolution in time; it divides the chunk's frames, not counting
        the first chunk's first frame.

    Returns:
      `reach` frames and the chunk: they precede the clip, or are left from the last
      chunk.
    """
    if reach == 0:
      return x_BFHWC
    if self.first:
      padding = [(0, 0), (reach, 0), (0, 0), (0, 0), (0, 0)]
      x_BFHWC = jnp.pad(x_BFHWC, padding, mode=self.before)
    else:
      x_BFHWC = jnp.concatenate([next(self._old).astype(x_BFHWC.dtype), x_BFHWC], axis=1)
    self._new.append(x_BFHWC[:, x_BFHWC.shape[1] - (reach + 1 - stride) :])
    return x_BFHWC

  def run(
    self, layers: Callable[[jax.Array, "Stream"], jax.Array], x_BFHWC: jax.Array
  ) -> jax.Array:
    """Runs layers; where `remat`, only their input is kept for the backward pass."""
    if not self.remat:
      return layers(x_BFHWC, self)

    @jax.checkpoint
    def again(x_BFHWC: jax.Array) -> jax.Array:
      return layers(x_BFHWC, Stream(None, self.before, self.inside))

    return again(x_BFHWC)

  def by_frames(
    self, layers: Callable[[jax.Array, "Stream"], jax.Array], x_BFHWC: jax.Array
  ) -> jax.Array:
    """Runs layers frame by frame, which needs the memory of one frame.

    Args:
      layers: take a chunk and a stream and return as many frames; they have no strides
        in time.
      x_BFHWC: the chunk.

    Returns:
      What `layers` return for the chunk.
    """

    def frame(cache: Cache | None, x_BHWC: jax.Array) -> tuple[Cache, jax.Array]:
      stream = Stream(cache, self.before, self.inside)
      y_BFHWC = layers(x_BHWC[:, None], stream)
      return stream.cache(), y_BFHWC[:, 0]

    x_FBHWC = jnp.moveaxis(x_BFHWC, 1, 0)
    parts = []
    if self.first:
      cache, y_BHWC = frame(None, x_FBHWC[0])
      parts, x_FBHWC = [y_BHWC[None]], x_FBHWC[1:]
    else:
      caches, _ = jax.eval_shape(lambda x_BHWC: frame(None, x_BHWC), x_FBHWC[0])
      cache = tuple(next(self._old).astype(x_BFHWC.dtype) for _ in caches)
    if len(x_FBHWC):
      cache, y_FBHWC = jax.lax.scan(frame, cache, x_FBHWC)
      parts.append(y_FBHWC)
    self._new.extend(cache)
    return jnp.moveaxis(jnp.concatenate(parts), 0, 1)

  def cache(self) -> Cache:
    """What the next chunk needs."""
    return tuple(self._new)

  def mask(self, x_BFHWC: jax.Array) -> jax.Array | None:
    """Which points belong to the clips, `(B, 1, H, W, 1)`; None where all of them do."""
    return None if self.inside is None else self.inside.mask(x_BFHWC)


class CausalConv(nnx.Module):
  """A convolution over `(F, H, W)`, causal in time, padded in space.

  `pads` are the points added before and after rows and columns: zeros, or the outermost
  points repeated where `beyond` is "edge"; by default a kernel of odd side is centred.
  """

  def __init__(
    self,
    num_in: int,
    num_out: int,
    *,
    kernel: tuple[int, int, int] = (3, 3, 3),
    stride: tuple[int, int, int] = (1, 1, 1),
    pads: Pads | None = None,
    beyond: Fill = "constant",
    gain: float = 1.0,
    bias: float = 0.0,
    rngs: nnx.Rngs,
  ):
    self.stride, self.pads, self.beyond = stride, pads, beyond
    axes = ("window", "window", "window", "channels_in", "channels_out")
    weights = delta_orthogonal(rngs.params(), (*kernel, num_in, num_out), stride)
    self.kernel = nnx.Param(gain * weights, axes=axes)
    self.bias = nnx.Param(jnp.full((num_out,), bias, jnp.float32), axes=axes[-1:])

  def __call__(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    kernel = self.kernel[...].astype(x_BFHWC.dtype)
    x_BFHWC = stream.extend(x_BFHWC, kernel.shape[0] - 1, self.stride[0])
    pads = self.pads or centred(kernel)
    if stream.inside is not None and pads != _UNPADDED:
      x_BFHWC = stream.inside.surround(x_BFHWC, self.beyond)
    if self.beyond == "edge" and pads != _UNPADDED:
      x_BFHWC = jnp.pad(x_BFHWC, [(0, 0), (0, 0), *pads, (0, 0)], mode="edge")
      pads = _UNPADDED
    y_BFHWC = jax.lax.platform_dependent(
      x_BFHWC,
      kernel,
      cpu=functools.partial(convolve_by_frames, stride=self.stride, pads=pads),
      default=functools.partial(convolve, stride=self.stride, pads=pads),
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


def centred(kernel: jax.Array) -> Pads:
  """Padding of rows and columns that centres a kernel `(3D, I, O)` of odd sides."""
  rows, columns = (((k - 1) // 2, (k - 1) // 2) for k in kernel.shape[1:3])
  return rows, columns


def convolve(
  x_BFHWC: jax.Array,
  kernel: jax.Array,
  stride: tuple[int, int, int],
  pads: Pads | None = None,
) -> jax.Array:
  """One 3D convolution: no padding in time, zeros in space; kernel `(3D, I, O)`."""
  return jax.lax.conv_general_dilated(
    x_BFHWC,
    kernel,
    window_strides=stride,
    padding=[(0, 0), *(pads or centred(kernel))],
    dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    precision=precision.of(x_BFHWC, kernel, whole=precision.CONVOLUTION),
  )


def convolve_by_frames(
  x_BFHWC: jax.Array,
  kernel: jax.Array,
  stride: tuple[int, int, int],
  pads: Pads | None = None,
) -> jax.Array:
  """The same by 2D convolutions: XLA on CPU runs them several times faster than 3D ones.

  With few channels, the frames that the kernel spans are stacked in channels for one 2D
  convolution; with many, each of those frames has its own and the results are summed,
  which takes less memory and no more time.
  """
  batch, frames = x_BFHWC.shape[:2]
  reach = kernel.shape[0]
  span = frames - reach + 1
  parts = [
    jax.lax.slice_in_dim(x_BFHWC, i, i + span, stride[0], axis=1) for i in range(reach)
  ]
  kernels = list(kernel)
  if x_BFHWC.shape[-1] < _MANY_CHANNELS:
    parts = [jnp.concatenate(parts, axis=-1)]
    kernels = [einops.rearrange(kernel, "d h w i o -> h w (d i) o")]
  outputs = [
    jax.lax.conv_general_dilated(
      einops.rearrange(part, "b f h w c -> (b f) h w c"),
      taps,
      window_strides=stride[1:],
      padding=pads or centred(kernel),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=precision.of(part, taps, whole=precision.CONVOLUTION),
    )
    for part, taps in zip(parts, kernels, strict=True)
  ]
  y = functools.reduce(jnp.add, outputs)
  return einops.rearrange(y, "(b f) h w c -> b f h w c", b=batch)


class ChannelNorm(nnx.Module):
  """Root-mean-square norm over channels at each point: it never mixes frames.

  The mean square is kept above zero by adding 1e-6, or by a floor where one is given.
  """

  def __init__(self, channels: int, *, floor: float | None = None):
    self.floor = floor
    self.scale = nnx.Param(jnp.ones((channels,), jnp.float32), axes=("channels_in",))

  def __call__(self, x: jax.Array) -> jax.Array:
    h = x.astype(jnp.float32)
    square = jnp.mean(jnp.square(h), -1, keepdims=True)
    away = square + 1e-6 if self.floor is None else jnp.maximum(square, self.floor)
    h *= jax.lax.rsqrt(away)
    return (h * jnp.expand_dims(self.scale[...], range(x.ndim - 1))).astype(x.dtype)


class ResidualBlock(nnx.Module):
  """Two convolutions, each after norm and SiLU, with a residual connection.

  If factorized, the first is over space and the second over time (Tran et al., 2018,
  arXiv:1711.11248): 12 taps instead of 54. Where the number of channels changes, the
  input is projected before it is added.
  """

  def __init__(
    self,
    num_in: int,
    num_out: int | None = None,
    *,
    factorized: bool = False,
    floor: float | None = None,
    rngs: nnx.Rngs,
  ):
    num_out = num_in if num_out is None else num_out
    space, time = ((1, 3, 3), (3, 1, 1)) if factorized else ((3, 3, 3), (3, 3, 3))
    self.norm1 = ChannelNorm(num_in, floor=floor)
    self.conv1 = CausalConv(num_in, num_out, kernel=space, rngs=rngs)
    self.norm2 = ChannelNorm(num_out, floor=floor)
    self.conv2 = CausalConv(num_out, num_out, kernel=time, gain=0.1, rngs=rngs)
    self.shortcut = (
      None
      if num_out == num_in
      else CausalConv(num_in, num_out, kernel=(1, 1, 1), rngs=rngs)
    )

  def __call__(self, x: jax.Array, stream: Stream) -> jax.Array:
    h = self.conv1(jax.nn.silu(self.norm1(x)), stream)
    h = self.conv2(jax.nn.silu(self.norm2(h)), stream)
    return h + (x if self.shortcut is None else self.shortcut(x, stream))


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
