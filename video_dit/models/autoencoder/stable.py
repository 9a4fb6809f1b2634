"""The image autoencoder of Stable Diffusion: 8 x 8 pixels a latent.

It has no time axis: each frame of a clip is an image of its own, so cutting a clip into
pieces changes nothing. Source: Rombach et al., 2022, arXiv:2112.10752.
"""

import dataclasses
import functools
from typing import Any

import einops
from flax import nnx
import jax
import jax.numpy as jnp

from video_dit.models.autoencoder import blocks, published
from video_dit.models.autoencoder.inside import Inside
from video_dit.models.autoencoder.layers import CausalConv, Stream

# The only kind of level supported, by its key in `config.json`.
LEVELS = {
  "down_block_types": "DownEncoderBlock2D",
  "up_block_types": "UpDecoderBlock2D",
}


@dataclasses.dataclass(frozen=True)
class StableConfig:
  """The architecture, with the names and defaults of its `config.json`."""

  in_channels: int = 3
  out_channels: int = 3
  down_block_types: tuple[str, ...] = ()
  up_block_types: tuple[str, ...] = ()
  block_out_channels: tuple[int, ...] = (64,)
  layers_per_block: int = 1
  act_fn: str = "silu"
  latent_channels: int = 4
  norm_num_groups: int = 32
  scaling_factor: float = 0.18215
  shift_factor: float | None = None
  latents_mean: tuple[float, ...] | None = None
  latents_std: tuple[float, ...] | None = None
  use_quant_conv: bool = True
  use_post_quant_conv: bool = True
  mid_block_add_attention: bool = True

  def __post_init__(self):
    """Refuses values that the architecture does not support."""
    kinds = (self.down_block_types, self.up_block_types)
    widths, groups = self.block_out_channels, self.norm_num_groups
    published.check_levels(widths, groups, kinds, LEVELS)
    published.check_activation(self.act_fn)
    published.check_statistics(
      self.latent_channels, self.shift_factor, self.latents_mean, self.latents_std
    )


class Stable(published.Autoencoder):
  """Encoder and decoder; pixels lie in [-1, 1]."""

  causal = True

  def __init__(self, arch: StableConfig, *, rngs: nnx.Rngs):
    widths, groups = arch.block_out_channels, arch.norm_num_groups
    self.arch = arch
    conv = functools.partial(CausalConv, kernel=(1, 3, 3))
    attention = functools.partial(blocks.Attention, groups=groups, rngs=rngs)
    ends = len(widths) - 1

    def down(level: int, channels: int) -> CausalConv | None:
      return None if level == ends else blocks.halve(channels, rngs=rngs)

    def up(level: int, channels: int) -> blocks.Upsample | None:
      if level == ends:
        return None
      return blocks.Upsample(conv(channels, channels, rngs=rngs), 1, 2, _lone)

    shared: dict[str, Any] = {
      "norm": functools.partial(blocks.GroupNorm, groups=groups),
      "last_norm": functools.partial(blocks.GroupNorm, groups=groups),
      "conv": conv,
      "attention": attention if arch.mid_block_add_attention else None,
      "rngs": rngs,
    }
    latents, depth = arch.latent_channels, arch.layers_per_block
    self.encoder = blocks.Encoder(
      arch.in_channels, 2 * latents, widths, depth, change=down, **shared
    )
    self.decoder = blocks.Decoder(
      latents, arch.out_channels, widths[::-1], depth + 1, change=up, **shared
    )
    dense = functools.partial(blocks.Dense, rngs=rngs)
    self.quant = dense(2 * latents, 2 * latents) if arch.use_quant_conv else None
    self.post_quant = dense(latents, latents) if arch.use_post_quant_conv else None

  @property
  def time(self) -> int:
    """Frames per latent frame."""
    return 1

  def encode_spans(self, frames: int) -> list[published.Span]:
    """One frame at a time: memory is that of one image."""
    return [(i, i + 1) for i in range(frames)]

  def decode_spans(self, latents: int) -> list[published.Span]:
    """One frame at a time."""
    return self.encode_spans(latents)

  def encode(self, x_BFHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance `(B, F, h, w, c)` float32 of all frames."""
    mean, logvar, _ = self.encode_chunk(x_BFHWC, None)
    return mean, logvar

  def decode(self, z_BFHWC: jax.Array) -> jax.Array:
    """Pixels `(B, F, H, W, 3)` float32 of all frames, about [-1, 1]."""
    return self.decode_chunk(z_BFHWC, None)[0]

  def encode_chunk(
    self, x_BFHWC: jax.Array, cache: None, inside: Inside | None = None
  ) -> tuple[jax.Array, jax.Array, None]:
    """Encodes any frames; there is no cache to pass on."""
    images, frames = _images(x_BFHWC), x_BFHWC.shape[1]
    if inside is not None:
      size_B2 = jnp.repeat(inside.size_B2, frames, axis=0)
      inside = dataclasses.replace(inside, size_B2=size_B2)
    moments = self.encoder(images, Stream(inside=inside))
    if self.quant is not None:
      moments = self.quant(moments)
    mean, logvar = blocks.moments_to_posterior(moments)
    return _clips(mean, frames), _clips(logvar, frames), None

  def decode_chunk(self, z_BFHWC: jax.Array, cache: None) -> tuple[jax.Array, None]:
    """Decodes any frames."""
    images, frames = _images(z_BFHWC), z_BFHWC.shape[1]
    if self.post_quant is not None:
      images = self.post_quant(images)
    pixels = self.decoder(images, Stream())
    return _clips(pixels.astype(jnp.float32), frames), None


def _lone(frames: int) -> bool:
  """Nothing changes in time."""
  del frames
  return False


def _images(x_BFHWC: jax.Array) -> jax.Array:
  """Frames as clips of one frame: neither norms nor attention mix them."""
  return einops.rearrange(x_BFHWC, "b f h w c -> (b f) 1 h w c")


def _clips(x_BFHWC: jax.Array, frames: int) -> jax.Array:
  return einops.rearrange(x_BFHWC, "(b f) 1 h w c -> b f h w c", f=frames)
