"""Wan's autoencoders, 2.1 and 2.2: clips to latents and back in chunks or whole.

1 + 4k frames become 1 + k latent frames; an image is a clip of one frame. Wan 2.1 has
16 channels of 8x8 pixels. Wan 2.2 has 48 of 16x16: it folds 2x2 pixels into channels
first, and around each level goes a shortcut that only averages or repeats.

Both are of the shared causal convolutions, norms and residual blocks (`layers`).

Source: Wan (2025, arXiv:2503.20314), section 4.1, and its public code.
"""

import dataclasses

import einops
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit.models.autoencoder.layers import (
  Cache,
  CausalConv,
  ChannelNorm,
  ResidualBlock,
  Stream,
)
from video_dit.models.autoencoder.wan_layers import (
  FLOOR,
  Downsample,
  FrameAttention,
  Upsample,
  average_down,
  repeat_up,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WanConfig:
  """Sizes of an autoencoder of Wan's kind; the defaults are Wan 2.1's.

  Attributes:
    base_dim, decoder_base_dim: channels of the finest level.
    z_dim: latent channels.
    dim_mult: channels of each level over the base's; all but the last halve space.
    num_res_blocks: of an encoder's level; the decoder's have one more.
    attn_scales: levels of the encoder with attention, 1 the finest, 0.5 the next.
    temporal_downsample: which of the levels' ends halve time too, finest first.
    patch_size: side of the pixels folded into channels before the first level.
    is_residual: shortcuts around each level, as in Wan 2.2.
    latents_mean, latents_std: statistics of the latents' channels.
  """

  base_dim: int = 96
  decoder_base_dim: int = 96
  z_dim: int = 16
  dim_mult: tuple[int, ...] = (1, 2, 4, 4)
  num_res_blocks: int = 2
  attn_scales: tuple[float, ...] = ()
  temporal_downsample: tuple[bool, ...] = (False, True, True)
  patch_size: int = 1
  is_residual: bool = False
  latents_mean: tuple[float, ...]
  latents_std: tuple[float, ...]

  @property
  def channels(self) -> int:
    """Channels of the latents."""
    return self.z_dim

  @property
  def space(self) -> int:
    """Pixels of a latent row or column."""
    return self.patch_size * 2 ** (len(self.dim_mult) - 1)

  @property
  def time(self) -> int:
    """Frames of a latent frame behind the first."""
    return 2 ** sum(self.temporal_downsample)

  @property
  def statistics(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the latents' channels, `(c,)` float32 each."""
    return np.float32(self.latents_mean), np.float32(self.latents_std)


class DownLevel(nnx.Module):
  """Residual blocks of one resolution, attention where wanted, and the step down."""

  def __init__(
    self,
    num_in: int,
    num_out: int,
    blocks: int,
    *,
    attends: bool,
    down: bool,
    time: bool,
    is_residual: bool,
    rngs: nnx.Rngs,
  ):
    self.blocks = nnx.List(
      ResidualBlock(num_out if i else num_in, num_out, floor=FLOOR, rngs=rngs)
      for i in range(blocks)
    )
    self.attentions = nnx.List(
      FrameAttention(num_out, rngs=rngs) for _ in range(blocks if attends else 0)
    )
    self.down = Downsample(num_out, time=time, rngs=rngs) if down else None
    self.shortcut = (num_out, 1 + time, 1 + down) if is_residual else None

  def __call__(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    h_BFHWC = x_BFHWC
    for i, block in enumerate(self.blocks):
      h_BFHWC = block(h_BFHWC, stream)
      if self.attentions:
        h_BFHWC = self.attentions[i](h_BFHWC, stream)
    if self.down is not None:
      h_BFHWC = self.down(h_BFHWC, stream)
    if self.shortcut is not None:
      h_BFHWC += average_down(x_BFHWC, *self.shortcut, first=stream.first)
    return h_BFHWC


class UpLevel(nnx.Module):
  """Residual blocks of one resolution, and the step up."""

  def __init__(
    self,
    num_in: int,
    num_out: int,
    blocks: int,
    *,
    up: bool,
    time: bool,
    is_residual: bool,
    rngs: nnx.Rngs,
  ):
    self.blocks = nnx.List(
      ResidualBlock(num_out if i else num_in, num_out, floor=FLOOR, rngs=rngs)
      for i in range(blocks)
    )
    after = num_out if is_residual else num_out // 2
    self.up = Upsample(num_out, after, time=time, rngs=rngs) if up else None
    self.shortcut = (after, 1 + time, 2) if is_residual and up else None

  def __call__(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    h_BFHWC = x_BFHWC
    for block in self.blocks:
      h_BFHWC = block(h_BFHWC, stream)
    if self.up is not None:
      h_BFHWC = self.up(h_BFHWC, stream)
    if self.shortcut is not None:
      h_BFHWC += repeat_up(x_BFHWC, *self.shortcut, first=stream.first)
    return h_BFHWC


class Middle(nnx.Module):
  """Attention between two residual blocks, at the coarsest resolution."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.before = ResidualBlock(channels, floor=FLOOR, rngs=rngs)
    self.attention = FrameAttention(channels, rngs=rngs)
    self.after = ResidualBlock(channels, floor=FLOOR, rngs=rngs)

  def __call__(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    x_BFHWC = self.attention(self.before(x_BFHWC, stream), stream)
    return self.after(x_BFHWC, stream)


class Encoder(nnx.Module):
  """Pixels to means and log-variances, stacked in channels."""

  def __init__(self, config: WanConfig, *, rngs: nnx.Rngs):
    self.patch = config.patch_size
    widths = [config.base_dim * m for m in (1, *config.dim_mult)]
    last = len(config.dim_mult) - 1
    both = 2 * config.z_dim
    self.conv_in = CausalConv(3 * self.patch**2, widths[0], rngs=rngs)
    self.levels = nnx.List(
      DownLevel(
        widths[i],
        widths[i + 1],
        config.num_res_blocks,
        attends=0.5**i in config.attn_scales and not config.is_residual,
        down=i < last,
        time=i < last and config.temporal_downsample[i],
        is_residual=config.is_residual,
        rngs=rngs,
      )
      for i in range(last + 1)
    )
    self.middle = Middle(widths[-1], rngs=rngs)
    self.norm = ChannelNorm(widths[-1], floor=FLOOR)
    self.conv_out = CausalConv(widths[-1], both, rngs=rngs)
    self.quantize = CausalConv(both, both, kernel=(1, 1, 1), rngs=rngs)

  def __call__(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    h_BFHWC = einops.rearrange(
      x_BFHWC, "b f (h q) (w p) c -> b f h w (c p q)", p=self.patch, q=self.patch
    )
    h_BFHWC = self.conv_in(h_BFHWC, stream)
    for level in self.levels:
      h_BFHWC = level(h_BFHWC, stream)
    h_BFHWC = self.middle(h_BFHWC, stream)
    h_BFHWC = self.conv_out(jax.nn.silu(self.norm(h_BFHWC)), stream)
    return self.quantize(h_BFHWC, stream)


class Decoder(nnx.Module):
  """Latents to pixels."""

  def __init__(self, config: WanConfig, *, rngs: nnx.Rngs):
    self.patch = config.patch_size
    base, multiples = config.decoder_base_dim, config.dim_mult[::-1]
    widths = [base * m for m in (multiples[0], *multiples)]
    last = len(multiples) - 1
    times = config.temporal_downsample[::-1]
    # Upsampling has halved the channels, but where shortcuts keep them.
    halved = [1 if config.is_residual or i == 0 else 2 for i in range(last + 1)]
    self.dequantize = CausalConv(config.z_dim, config.z_dim, kernel=(1, 1, 1), rngs=rngs)
    self.conv_in = CausalConv(config.z_dim, widths[0], rngs=rngs)
    self.middle = Middle(widths[0], rngs=rngs)
    self.levels = nnx.List(
      UpLevel(
        widths[i] // halved[i],
        widths[i + 1],
        config.num_res_blocks + 1,
        up=i < last,
        time=i < last and times[i],
        is_residual=config.is_residual,
        rngs=rngs,
      )
      for i in range(last + 1)
    )
    self.norm = ChannelNorm(widths[-1], floor=FLOOR)
    self.conv_out = CausalConv(widths[-1], 3 * self.patch**2, rngs=rngs)

  def __call__(self, z_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    h_BFHWC = self.conv_in(self.dequantize(z_BFHWC, stream), stream)
    h_BFHWC = self.middle(h_BFHWC, stream)
    for level in self.levels:
      h_BFHWC = level(h_BFHWC, stream)
    h_BFHWC = self.conv_out(jax.nn.silu(self.norm(h_BFHWC)), stream)
    return einops.rearrange(
      h_BFHWC, "b f h w (c p q) -> b f (h q) (w p) c", p=self.patch, q=self.patch
    )


class WanAutoencoder(nnx.Module):
  """Encoder and decoder; pixels lie in [-1, 1], latents are as the encoder gives them."""

  def __init__(self, config: WanConfig, *, rngs: nnx.Rngs):
    self.time = config.time
    self.encoder = Encoder(config, rngs=rngs)
    self.decoder = Decoder(config, rngs=rngs)

  def encode(self, x_BFHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance `(B, t, h, w, c)` float32 of whole clips.

    What goes beyond 1 + time k frames is left out.
    """
    frames = x_BFHWC.shape[1]
    whole = frames - (frames - 1) % self.time
    mean, logvar, _ = self.encode_chunk(x_BFHWC[:, :whole], None)
    return mean, logvar

  def decode(self, z_BFHWC: jax.Array) -> jax.Array:
    """Pixels `(B, F, H, W, 3)` float32 of whole latents, clipped to [-1, 1]."""
    return self.decode_chunk(z_BFHWC, None)[0]

  def encode_chunk(
    self, x_BFHWC: jax.Array, cache: Cache | None
  ) -> tuple[jax.Array, jax.Array, Cache]:
    """Encodes the next frames of a clip.

    Args:
      x_BFHWC: 1 + time k frames where `cache` is None, else time k frames.
      cache: what the chunk before returned.

    Returns:
      Mean, log-variance (clipped to [-30, 20]), and the cache for the next chunk.
    """
    stream = Stream(cache)
    both = self.encoder(x_BFHWC, stream).astype(jnp.float32)
    mean, logvar = jnp.split(both, 2, axis=-1)
    return mean, jnp.clip(logvar, -30.0, 20.0), stream.cache()

  def decode_chunk(
    self, z_BFHWC: jax.Array, cache: Cache | None
  ) -> tuple[jax.Array, Cache]:
    """Decodes the next latent frames of a clip; any number of them."""
    stream = Stream(cache)
    x_BFHWC = self.decoder(z_BFHWC, stream).astype(jnp.float32)
    return jnp.clip(x_BFHWC, -1.0, 1.0), stream.cache()
