"""Blocks of the published autoencoders that descend from latent diffusion's.

An encoder is a convolution, levels of residual blocks with downsampling in between, a
middle with or without attention, a norm and a convolution; a decoder is the same the
other way round. Norms, convolutions and resampling are the models' own and are passed in
as functions.

Source: Rombach et al., 2022, arXiv:2112.10752, appendix E, and Esser et al., 2021,
arXiv:2012.09841. Norms are group norms (Wu and He, 2018, arXiv:1803.08494).
"""

from collections.abc import Callable, Sequence
import functools

import einops
from flax import nnx
import jax
import jax.numpy as jnp

from video_dit.models.autoencoder.layers import CausalConv, Stream
from video_dit.parallel import precision

_QUERIES = 1024  # queries that attention computes at a time: bounds its memory

# `norm(channels)` and `change(level, channels)`; the latter is None where sizes stay.
Norm = Callable[[int], nnx.Module]
Change = Callable[[int, int], nnx.Module | None]


class GroupNorm(nnx.Module):
  """Mean 0 and variance 1 of each group of channels over all points of a clip.

  All points are those of the given chunk: frames of one chunk affect each other.
  """

  def __init__(self, channels: int, *, groups: int, eps: float = 1e-6):
    self.groups, self.eps = groups, eps
    self.scale = nnx.Param(jnp.ones((channels,), jnp.float32), axes=("channels_in",))
    self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32), axes=("channels_in",))

  def __call__(self, x_BFHWC: jax.Array, inside: jax.Array | None = None) -> jax.Array:
    h = x_BFHWC.astype(jnp.float32)
    h -= self._mean(h, inside)
    h *= jax.lax.rsqrt(self._mean(jnp.square(h), inside) + self.eps)
    scale, bias = (p[...][None, None, None, None] for p in (self.scale, self.bias))
    return (h * scale + bias).astype(x_BFHWC.dtype)

  def _mean(self, x_BFHWC: jax.Array, inside: jax.Array | None) -> jax.Array:
    """Mean over points and channels of a group, one axis after the other.

    A float32 sum over millions of points at once would lose precision. The points are
    those `inside` the clips, one rectangle each, or all of them.
    """
    for axis in (3, 2, 1):
      x_BFHWC = jnp.mean(x_BFHWC, axis, keepdims=True, where=inside)
      inside = None if inside is None else jnp.any(inside, axis, keepdims=True)
    grouped = einops.rearrange(x_BFHWC, "b f h w (g c) -> b f h w g c", g=self.groups)
    mean = jnp.mean(grouped, -1)
    return einops.repeat(
      mean, "b f h w g -> b f h w (g c)", c=x_BFHWC.shape[-1] // self.groups
    )


class ResnetBlock(nnx.Module):
  """Two convolutions, each after norm and SiLU, added to the input.

  Where the number of channels changes, the input is projected before it is added.
  `condition` goes to the norms.
  """

  def __init__(self, num_in: int, num_out: int, *, norm: Norm, conv, rngs: nnx.Rngs):
    self.norm1 = norm(num_in)
    self.conv1 = conv(num_in, num_out, rngs=rngs)
    self.norm2 = norm(num_out)
    self.conv2 = conv(num_out, num_out, rngs=rngs)
    project = functools.partial(conv, num_in, num_out, kernel=(1, 1, 1), rngs=rngs)
    self.shortcut = None if num_in == num_out else project()

  def __call__(self, x: jax.Array, stream: Stream, *condition: jax.Array) -> jax.Array:
    inside = stream.mask(x)
    h = self.conv1(jax.nn.silu(self.norm1(x, *condition, inside=inside)), stream)
    h = self.conv2(jax.nn.silu(self.norm2(h, *condition, inside=inside)), stream)
    return h + (x if self.shortcut is None else self.shortcut(x, stream))


class Dense(nnx.Module):
  """A linear map of channels, with a bias: a convolution of one point."""

  def __init__(self, num_in: int, num_out: int, *, rngs: nnx.Rngs):
    axes = ("channels_in", "channels_out")
    init = jax.nn.initializers.lecun_normal()
    kernel = init(rngs.params(), (num_in, num_out), jnp.float32)
    self.kernel = nnx.Param(kernel, axes=axes)
    self.bias = nnx.Param(jnp.zeros((num_out,), jnp.float32), axes=axes[1:])

  def __call__(self, x: jax.Array) -> jax.Array:
    bias = jnp.expand_dims(self.bias[...].astype(x.dtype), range(x.ndim - 1))
    kernel = self.kernel[...].astype(x.dtype)
    asked = precision.of(x, kernel)
    return jnp.einsum("...i,io->...o", x, kernel, precision=asked) + bias


class Attention(nnx.Module):
  """One head over the points of a clip, added to the input; causal by frame."""

  def __init__(self, channels: int, *, groups: int, rngs: nnx.Rngs):
    self.norm = GroupNorm(channels, groups=groups)
    dense = functools.partial(Dense, channels, channels, rngs=rngs)
    self.q, self.k, self.v, self.out = dense(), dense(), dense(), dense()

  def __call__(self, x_BFHWC: jax.Array, inside: jax.Array | None = None) -> jax.Array:
    _, frames, height, width, _ = x_BFHWC.shape
    h_BNC = einops.rearrange(
      self.norm(x_BFHWC, inside=inside), "b f h w c -> b (f h w) c"
    )
    h_BNC = attend_causally(
      self.q(h_BNC),
      self.k(h_BNC),
      self.v(h_BNC),
      frame_size=height * width,
      inside=inside,
    )
    return x_BFHWC + einops.rearrange(
      self.out(h_BNC), "b (f h w) c -> b f h w c", f=frames, h=height, w=width
    )


def attend_causally(
  q_BNC: jax.Array,
  k_BNC: jax.Array,
  v_BNC: jax.Array,
  *,
  frame_size: int,
  inside: jax.Array | None = None,
) -> jax.Array:
  """Attention in which a point sees all points of its own and of earlier frames.

  Args:
    q_BNC, k_BNC, v_BNC: points of a clip, frame by frame; C is the head's size.
    frame_size: points of a frame.
    inside: `(B, 1, H, W, 1)` bool, which points of each frame belong to the clips; None
      where all of them do.

  Returns:
    `(B, N, C)` in the queries' dtype. Memory is bounded by 1024 queries' weights.
  """
  frame_N = jnp.arange(q_BNC.shape[1]) // frame_size
  scale = q_BNC.shape[-1] ** -0.5
  asked = precision.of(q_BNC, k_BNC, v_BNC)
  inside_BN = None
  if inside is not None:
    inside_BN = einops.repeat(
      inside, "b 1 h w 1 -> b (f h w)", f=q_BNC.shape[1] // frame_size
    )

  def one(query: tuple[jax.Array, jax.Array]) -> jax.Array:
    q_BC, frame = query
    scores_BN = jnp.einsum(
      "bc,bnc->bn", q_BC, k_BNC, precision=asked, preferred_element_type=jnp.float32
    )
    seen_BN = (frame_N <= frame)[None]
    if inside_BN is not None:
      seen_BN &= inside_BN
    scores_BN = jnp.where(seen_BN, scores_BN * scale, -jnp.inf)
    weights_BN = jax.nn.softmax(scores_BN, axis=-1).astype(v_BNC.dtype)
    return jnp.einsum("bn,bnc->bc", weights_BN, v_BNC, precision=asked)

  q_NBC = einops.rearrange(q_BNC, "b n c -> n b c")
  out_NBC = jax.lax.map(one, (q_NBC, frame_N), batch_size=_QUERIES)
  return einops.rearrange(out_NBC, "n b c -> b n c")


class Level(nnx.Module):
  """Residual blocks of one width, then the change of size."""

  def __init__(self, blocks: Sequence[ResnetBlock], change: nnx.Module | None):
    self.blocks = nnx.List(blocks)
    self.change = change

  def __call__(self, x: jax.Array, stream: Stream, *condition: jax.Array) -> jax.Array:
    for block in self.blocks:
      x = block(x, stream, *condition)
    return x if self.change is None else self.change(x, stream)


class Middle(nnx.Module):
  """Two residual blocks, with attention between them or not."""

  def __init__(self, block: Callable[[], ResnetBlock], attention: Attention | None):
    self.blocks = nnx.List([block(), block()])
    self.attention = attention

  def __call__(self, x: jax.Array, stream: Stream, *condition: jax.Array) -> jax.Array:
    x = self.blocks[0](x, stream, *condition)
    if self.attention is not None:
      x = self.attention(x, stream.mask(x))
    return self.blocks[1](x, stream, *condition)


class Encoder(nnx.Module):
  """Pixels to the moments of latents.

  Attributes are listed in the order in which they run.
  """

  def __init__(
    self,
    num_in: int,
    num_out: int,
    widths: Sequence[int],
    depth: int,
    *,
    norm: Norm,
    last_norm: Norm,
    conv,
    change: Change,
    attention: Callable[[int], Attention] | None,
    rngs: nnx.Rngs,
  ):
    """Builds it.

    Args:
      num_in, num_out: channels at both ends.
      widths: channels of each level.
      depth: residual blocks of a level.
      norm, last_norm: of the residual blocks, and before the last convolution.
      conv: called with channels in and out, `rngs` and, where it is not the usual
        one, the `kernel`.
      change: what follows a level.
      attention: of the middle.
      rngs: of the initial weights.
    """
    block = functools.partial(ResnetBlock, norm=norm, conv=conv, rngs=rngs)
    self.conv_in = conv(num_in, widths[0], rngs=rngs)
    self.levels = levels(block, widths[0], widths, depth, change)
    last = widths[-1]
    self.middle = Middle(
      functools.partial(block, last, last), attention(last) if attention else None
    )
    self.norm_out = last_norm(last)
    self.conv_out = conv(last, num_out, rngs=rngs)

  def __call__(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    x = self.conv_in(x_BFHWC, stream)
    for level in self.levels:
      x = level(x, stream)
    x = self.middle(x, stream)
    x = self.norm_out(x, inside=stream.mask(x))
    return self.conv_out(jax.nn.silu(x), stream)


class Decoder(nnx.Module):
  """Latents to pixels; its norms' `condition`, if any, is the latents."""

  def __init__(
    self,
    num_in: int,
    num_out: int,
    widths: Sequence[int],
    depth: int,
    *,
    norm: Norm,
    last_norm: Norm,
    conv,
    change: Change,
    attention: Callable[[int], Attention] | None,
    rngs: nnx.Rngs,
  ):
    """Builds it; see `Encoder`. `widths` are in the decoder's own order."""
    block = functools.partial(ResnetBlock, norm=norm, conv=conv, rngs=rngs)
    first = widths[0]
    self.conv_in = conv(num_in, first, rngs=rngs)
    self.middle = Middle(
      functools.partial(block, first, first), attention(first) if attention else None
    )
    self.levels = levels(block, first, widths, depth, change)
    self.norm_out = last_norm(widths[-1])
    self.conv_out = conv(widths[-1], num_out, rngs=rngs)

  def __call__(
    self, z_BFHWC: jax.Array, stream: Stream, *condition: jax.Array
  ) -> jax.Array:
    x = self.middle(self.conv_in(z_BFHWC, stream), stream, *condition)
    for level in self.levels:
      x = level(x, stream, *condition)
    return self.conv_out(jax.nn.silu(self.norm_out(x, *condition)), stream)


def levels(
  block: Callable[[int, int], ResnetBlock],
  width: int,
  widths: Sequence[int],
  depth: int,
  change: Change,
) -> nnx.List:
  """Levels of these widths after one of `width` channels."""
  made = []
  for i, out in enumerate(widths):
    ins = [width] + [out] * (depth - 1)
    made.append(Level([block(num_in, out) for num_in in ins], change(i, out)))
    width = out
  return nnx.List(made)


def halve(channels: int, *, rngs: nnx.Rngs) -> CausalConv:
  """Halves rows and columns of each frame; pads only at the bottom and the right."""
  return CausalConv(
    channels,
    channels,
    kernel=(1, 3, 3),
    stride=(1, 2, 2),
    pads=((0, 1), (0, 1)),
    rngs=rngs,
  )


class Upsample(nnx.Module):
  """Nearest-neighbour upsampling, then a convolution.

  `lone` says for a number of frames whether the first of them stays one frame.
  """

  def __init__(
    self, conv: CausalConv, time: int, space: int, lone: Callable[[int], bool]
  ):
    self.conv, self.time, self.space, self.lone = conv, time, space, lone

  def __call__(self, x: jax.Array, stream: Stream) -> jax.Array:
    lone = self.lone(x.shape[1])
    return self.conv(repeat(x, self.time, self.space, lone=lone), stream)


def repeat(x_BFHWC: jax.Array, time: int, space: int, *, lone: bool) -> jax.Array:
  """Nearest-neighbour upsampling.

  Args:
    x_BFHWC: at least one frame.
    time, space: how often each frame, and each row and column, is repeated.
    lone: the first frame stays one frame.
  """
  if time > 1 and lone:
    first = repeat(x_BFHWC[:, :1], 1, space, lone=False)
    if x_BFHWC.shape[1] == 1:
      return first
    rest = repeat(x_BFHWC[:, 1:], time, space, lone=False)
    return jnp.concatenate([first, rest], axis=1)
  return einops.repeat(
    x_BFHWC, "b f h w c -> b (f t) (h p) (w q) c", t=time, p=space, q=space
  )


def moments_to_posterior(moments_BFHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and log-variance (clipped to [-30, 20]), float32."""
  mean, logvar = jnp.split(moments_BFHWC.astype(jnp.float32), 2, axis=-1)
  return mean, jnp.clip(logvar, -30.0, 20.0)
