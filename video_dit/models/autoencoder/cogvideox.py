"""CogVideoX's autoencoder: 8 x 8 pixels and 4 frames a latent.

Causal convolutions, with the clip's first frame repeated before it; time is halved by
averaging pairs and doubled by repetition; the decoder's norms are modulated by the
latents (Zheng et al., 2022, arXiv:2209.09002). Group norms see only the frames of one
chunk, and the published weights were made to be used in chunks of 8 frames (2 latents),
the first also with the remainder. That is the architecture here as in its peer: running a
clip in one piece would give other values, and is not offered.

An even number t of latents decodes to 4 t frames, an odd one to 4 (t - 1) + 1: with an
even one the first chunk has no separate first frame. Source: Yang et al., 2024,
arXiv:2408.06072.
"""

import dataclasses
import functools

import einops
from flax import nnx
import jax
import jax.numpy as jnp

from video_dit.models.autoencoder import blocks, published
from video_dit.models.autoencoder.inside import Inside
from video_dit.models.autoencoder.layers import Cache, CausalConv, Stream

FRAMES, LATENTS = 8, 2  # of a chunk: the peer's own numbers

# The only kind of level supported, by its key in `config.json`.
LEVELS = {
  "down_block_types": "CogVideoXDownBlock3D",
  "up_block_types": "CogVideoXUpBlock3D",
}


@dataclasses.dataclass(frozen=True)
class CogVideoXConfig:
  """The architecture, with the names and defaults of its `config.json`."""

  in_channels: int = 3
  out_channels: int = 3
  block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
  down_block_types: tuple[str, ...] = ()
  up_block_types: tuple[str, ...] = ()
  latent_channels: int = 16
  layers_per_block: int = 3
  act_fn: str = "silu"
  norm_eps: float = 1e-6
  norm_num_groups: int = 32
  temporal_compression_ratio: int = 4
  scaling_factor: float = 1.15258426
  shift_factor: float | None = None
  latents_mean: tuple[float, ...] | None = None
  latents_std: tuple[float, ...] | None = None
  use_quant_conv: bool = False
  use_post_quant_conv: bool = False

  def __post_init__(self):
    """Refuses values that the architecture does not support."""
    kinds = (self.down_block_types, self.up_block_types)
    widths, groups = self.block_out_channels, self.norm_num_groups
    published.check_levels(widths, groups, kinds, LEVELS)
    published.check_activation(self.act_fn)
    published.check_statistics(
      self.latent_channels, self.shift_factor, self.latents_mean, self.latents_std
    )
    self.halvings  # noqa: B018

  @property
  def halvings(self) -> int:
    """How many of the outermost levels change time too."""
    key = "temporal_compression_ratio"
    return published.power_of_two(key, self.temporal_compression_ratio)


class ConditionedNorm(nnx.Module):
  """A group norm whose scale and shift at each point come from the latents."""

  def __init__(self, channels: int, latents: int, *, groups: int, rngs: nnx.Rngs):
    self.norm = blocks.GroupNorm(channels, groups=groups)
    self.scale = blocks.Dense(latents, channels, rngs=rngs)
    self.shift = blocks.Dense(latents, channels, rngs=rngs)

  def __call__(
    self, x_BFHWC: jax.Array, z_BFHWC: jax.Array, inside: jax.Array | None = None
  ) -> jax.Array:
    frames, latents = x_BFHWC.shape[1], z_BFHWC.shape[1]
    lone = _lone(frames) and latents > 1
    time = (frames - lone) // (latents - lone)
    space = x_BFHWC.shape[2] // z_BFHWC.shape[2]
    # One point of a latent covers many of x: the map comes before the repetition.
    scale, shift = (
      blocks.repeat(layer(z_BFHWC), time, space, lone=lone)
      for layer in (self.scale, self.shift)
    )
    return self.norm(x_BFHWC, inside=inside) * scale + shift


class Downsample(nnx.Module):
  """Averages pairs of frames where `time`; then halves rows and columns."""

  def __init__(self, channels: int, *, time: bool, rngs: nnx.Rngs):
    self.time = time
    self.conv = blocks.halve(channels, rngs=rngs)

  def __call__(self, x: jax.Array, stream: Stream) -> jax.Array:
    if self.time and x.shape[1] > 1:
      lone = int(_lone(x.shape[1]))
      pairs = einops.reduce(x[:, lone:], "b (f t) h w c -> b f h w c", "mean", t=2)
      x = jnp.concatenate([x[:, :lone], pairs], axis=1)
    return self.conv(x, stream)


def _lone(frames: int) -> bool:
  """An odd number of frames begins with the clip's first, which stays alone."""
  return frames % 2 == 1


class CogVideoX(published.Autoencoder):
  """Encoder and decoder; pixels lie in [-1, 1]."""

  def __init__(self, arch: CogVideoXConfig, *, rngs: nnx.Rngs):
    widths, groups = arch.block_out_channels, arch.norm_num_groups
    self.arch = arch
    latents, ends = arch.latent_channels, len(widths) - 1

    def conditioned(channels: int) -> ConditionedNorm:
      return ConditionedNorm(channels, latents, groups=groups, rngs=rngs)

    def down(level: int, channels: int) -> Downsample | None:
      if level == ends:
        return None
      return Downsample(channels, time=level < arch.halvings, rngs=rngs)

    def up(level: int, channels: int) -> blocks.Upsample | None:
      if level == ends:
        return None
      conv = CausalConv(channels, channels, kernel=(1, 3, 3), rngs=rngs)
      return blocks.Upsample(conv, 2 if level < arch.halvings else 1, 2, _lone)

    self.encoder = blocks.Encoder(
      arch.in_channels,
      2 * latents,
      widths,
      arch.layers_per_block,
      norm=functools.partial(blocks.GroupNorm, groups=groups, eps=arch.norm_eps),
      last_norm=functools.partial(blocks.GroupNorm, groups=groups),
      conv=CausalConv,
      change=down,
      attention=None,
      rngs=rngs,
    )
    self.decoder = blocks.Decoder(
      latents,
      arch.out_channels,
      widths[::-1],
      arch.layers_per_block + 1,
      norm=conditioned,
      last_norm=conditioned,
      conv=CausalConv,
      change=up,
      attention=None,
      rngs=rngs,
    )
    dense = functools.partial(blocks.Dense, rngs=rngs)
    self.quant = dense(2 * latents, 2 * latents) if arch.use_quant_conv else None
    self.post_quant = dense(latents, latents) if arch.use_post_quant_conv else None

  @property
  def time(self) -> int:
    """Frames per latent frame after the first."""
    return 2 ** min(self.arch.halvings, len(self.arch.block_out_channels) - 1)

  def encode_spans(self, frames: int) -> list[published.Span]:
    """Chunks in which a clip of so many frames is encoded."""
    return _spans(frames, FRAMES)

  def decode_spans(self, latents: int) -> list[published.Span]:
    """Chunks in which so many latent frames are decoded."""
    return _spans(latents, LATENTS)

  def encode_chunk(
    self, x_BFHWC: jax.Array, cache: Cache | None, inside: Inside | None = None
  ) -> tuple[jax.Array, jax.Array, Cache]:
    """Encodes the next of `encode_spans`.

    Args:
      x_BFHWC: its frames.
      cache: what the chunk before returned; None at the beginning.
      inside: which part of their buffer the clips fill.

    Returns:
      Mean, log-variance and the cache for the next chunk.
    """
    stream = Stream(cache, before="edge", inside=inside)
    moments = self.encoder(x_BFHWC, stream)
    if self.quant is not None:
      moments = self.quant(moments)
    return *blocks.moments_to_posterior(moments), stream.cache()

  def decode_chunk(
    self, z_BFHWC: jax.Array, cache: Cache | None
  ) -> tuple[jax.Array, Cache]:
    """Decodes the next of `decode_spans`: pixels, and the cache for the one after."""
    stream = Stream(cache, before="edge")
    if self.post_quant is not None:
      z_BFHWC = self.post_quant(z_BFHWC)
    x_BFHWC = self.decoder(z_BFHWC, stream, z_BFHWC)
    return x_BFHWC.astype(jnp.float32), stream.cache()


def _spans(frames: int, size: int) -> list[published.Span]:
  """Chunks of `size`, the first of them longer by the remainder."""
  count = max(frames // size, 1)
  ends = [frames - size * i for i in range(count - 1, -1, -1)]
  return list(zip([0, *ends[:-1]], ends, strict=True))
