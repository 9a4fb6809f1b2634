"""Wan's autoencoders, 2.1 and 2.2: clips to latents and back, in chunks or at once.

1 + 4k frames become 1 + k latent frames; an image is a clip of one frame. Wan 2.1 has
16 channels of 8x8 pixels. Wan 2.2 has 48 of 16x16: it folds 2x2 pixels into channels
first, and each level has a shortcut that only averages or repeats.

Both use the shared causal convolutions, norms and residual blocks (`layers`).

Source: Wan (2025, arXiv:2503.20314), section 4.1, and its public code.
"""

import dataclasses
import itertools

import einops
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit.models.autoencoder import blocks, published
from video_dit.models.autoencoder.inside import Inside
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

# Mean and deviation of each channel of Wan 2.1's latents, as published.
_MEAN = (
  *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
  *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_STD = (
  *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
  *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WanConfig:
  """The `config.json` of diffusers' `AutoencoderKLWan`; the defaults are Wan 2.1's.

  Attributes:
    base_dim, decoder_base_dim: channels of the finest level; the decoder's default is
      the encoder's.
    z_dim: latent channels.
    dim_mult: channels of each level over the base's; all but the last halve space.
    num_res_blocks: of an encoder's level; the decoder's have one more.
    attn_scales: levels of the encoder with attention, 1 the finest, 0.5 the next.
    temperal_downsample: which levels halve time too at their end, finest first (spelt
      as in the file).
    in_channels, out_channels: of a pixel, before or after folding.
    patch_size: side of the pixels folded into channels before the first level.
    is_residual: shortcuts around each level, as in Wan 2.2.
    latents_mean, latents_std: statistics of the latents' channels.
  """

  base_dim: int = 96
  decoder_base_dim: int | None = None
  z_dim: int = 16
  dim_mult: tuple[int, ...] = (1, 2, 4, 4)
  num_res_blocks: int = 2
  attn_scales: tuple[float, ...] = ()
  temperal_downsample: tuple[bool, ...] = (False, True, True)
  in_channels: int = 3
  out_channels: int = 3
  patch_size: int = 1
  is_residual: bool = False
  latents_mean: tuple[float, ...] = _MEAN
  latents_std: tuple[float, ...] = _STD

  def __post_init__(self):
    ends = len(self.dim_mult) - 1
    if ends < 0 or len(self.temperal_downsample) != ends:
      raise ValueError(
        f"temperal_downsample has {len(self.temperal_downsample)} entries, dim_mult"
        f" {len(self.dim_mult)}: there must be one for each level but the last."
      )
    if self.is_residual:
      self._check_shortcuts()
    folded = 3 * self.patch_size**2
    for key in ("in_channels", "out_channels"):
      if getattr(self, key) not in (3, folded):
        raise ValueError(
          f"{key} is {getattr(self, key)}; pixels have 3 channels, or {folded} after"
          f" folding by patch_size={self.patch_size}."
        )
    base = self.decoder_base_dim
    if base is not None and (type(base) is not int or base < 1):
      raise ValueError(
        f"decoder_base_dim is {base!r}: a whole number above 0 is expected."
      )
    published.check_statistics(self.z_dim, mean=self.latents_mean, std=self.latents_std)

  def _check_shortcuts(self):
    """Refuses levels whose averages would not come out even."""
    ends = len(self.dim_mult) - 1
    for i, (a, b) in enumerate(itertools.pairwise((1, *self.dim_mult))):
      points = (1 + self.temperal_downsample[i]) * 4 if i < ends else 1
      if a * points % b:
        raise ValueError(
          f"dim_mult {self.dim_mult}: level {i} makes {b} of {a} channels over {points}"
          " points, which its shortcut cannot average evenly."
        )


class DownLevel(nnx.Module):
  """Residual blocks of one resolution, attention where wanted, and the step down.

  `by_frames` runs the blocks frame by frame.
  """

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
    by_frames: bool,
    rngs: nnx.Rngs,
  ):
    self.by_frames = by_frames
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
    if self.by_frames:
      h_BFHWC = stream.by_frames(self._same, x_BFHWC)
    else:
      h_BFHWC = self._same(x_BFHWC, stream)
    if self.down is not None:
      h_BFHWC = self.down(h_BFHWC, stream)
    if self.shortcut is not None:
      h_BFHWC += average_down(x_BFHWC, *self.shortcut, first=stream.first)
    return h_BFHWC

  def _same(self, h_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    """The layers that keep the number of frames and their size."""
    for i, block in enumerate(self.blocks):
      h_BFHWC = block(h_BFHWC, stream)
      if self.attentions:
        h_BFHWC = self.attentions[i](h_BFHWC, stream)
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

  def __init__(self, arch: WanConfig, *, rngs: nnx.Rngs):
    self.patch = arch.patch_size
    widths = [arch.base_dim * m for m in (1, *arch.dim_mult)]
    last = len(arch.dim_mult) - 1
    both = 2 * arch.z_dim
    self.lone = (*arch.temperal_downsample, True).index(True)
    self.conv_in = CausalConv(3 * self.patch**2, widths[0], rngs=rngs)
    self.levels = nnx.List(
      DownLevel(
        widths[i],
        widths[i + 1],
        arch.num_res_blocks,
        attends=0.5**i in arch.attn_scales and not arch.is_residual,
        down=i < last,
        time=i < last and arch.temperal_downsample[i],
        is_residual=arch.is_residual,
        by_frames=i == self.lone,  # it has the largest frames of the rest
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
    h_BFHWC = stream.by_frames(self._finest, h_BFHWC)
    for level in self.levels[self.lone :]:
      h_BFHWC = level(h_BFHWC, stream)
    h_BFHWC = self.middle(h_BFHWC, stream)
    h_BFHWC = self.conv_out(jax.nn.silu(self.norm(h_BFHWC)), stream)
    return self.quantize(h_BFHWC, stream)

  def _finest(self, x_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    """The levels that keep the number of frames: the ones of the largest frames."""
    h_BFHWC = self.conv_in(x_BFHWC, stream)
    for level in self.levels[: self.lone]:
      h_BFHWC = level(h_BFHWC, stream)
    return h_BFHWC


class Decoder(nnx.Module):
  """Latents to pixels."""

  def __init__(self, arch: WanConfig, *, rngs: nnx.Rngs):
    self.patch = arch.patch_size
    base = arch.decoder_base_dim or arch.base_dim
    multiples = arch.dim_mult[::-1]
    widths = [base * m for m in (multiples[0], *multiples)]
    last = len(multiples) - 1
    times = arch.temperal_downsample[::-1]
    self.lone = len(times) - (*times[::-1], True).index(True)
    # Upsampling has halved the channels, but where shortcuts keep them.
    halved = [1 if arch.is_residual or i == 0 else 2 for i in range(last + 1)]
    self.dequantize = CausalConv(arch.z_dim, arch.z_dim, kernel=(1, 1, 1), rngs=rngs)
    self.conv_in = CausalConv(arch.z_dim, widths[0], rngs=rngs)
    self.middle = Middle(widths[0], rngs=rngs)
    self.levels = nnx.List(
      UpLevel(
        widths[i] // halved[i],
        widths[i + 1],
        arch.num_res_blocks + 1,
        up=i < last,
        time=i < last and times[i],
        is_residual=arch.is_residual,
        rngs=rngs,
      )
      for i in range(last + 1)
    )
    self.norm = ChannelNorm(widths[-1], floor=FLOOR)
    self.conv_out = CausalConv(widths[-1], 3 * self.patch**2, rngs=rngs)

  def __call__(self, z_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    h_BFHWC = self.conv_in(self.dequantize(z_BFHWC, stream), stream)
    h_BFHWC = self.middle(h_BFHWC, stream)
    for level in self.levels[: self.lone]:
      h_BFHWC = level(h_BFHWC, stream)
    h_BFHWC = stream.by_frames(self._finest, h_BFHWC)
    return einops.rearrange(
      h_BFHWC, "b f h w (c p q) -> b f (h q) (w p) c", p=self.patch, q=self.patch
    )

  def _finest(self, h_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    """The levels that keep the number of frames: the ones of the largest frames."""
    for level in self.levels[self.lone :]:
      h_BFHWC = level(h_BFHWC, stream)
    return self.conv_out(jax.nn.silu(self.norm(h_BFHWC)), stream)


class Wan(nnx.Module):
  """Encoder and decoder; pixels lie in [-1, 1], latents are as the encoder gives them.

  Attributes:
    causal: the encoding of a prefix, in the same chunks, ignores later frames.
  """

  causal = True

  def __init__(self, arch: WanConfig, *, rngs: nnx.Rngs):
    self.arch = arch
    self.encoder = Encoder(arch, rngs=rngs)
    self.decoder = Decoder(arch, rngs=rngs)

  @property
  def channels(self) -> int:
    """Of the latents."""
    return self.arch.z_dim

  @property
  def space(self) -> int:
    """Pixels of a latent row and column."""
    return self.arch.patch_size * 2 ** (len(self.arch.dim_mult) - 1)

  @property
  def time(self) -> int:
    """Frames per latent frame after the first."""
    return 2 ** sum(self.arch.temperal_downsample)

  @property
  def statistics(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation `(c,)` by which latents are normalised."""
    values = (self.arch.latents_mean, self.arch.latents_std)
    mean, std = (np.asarray(x, np.float32) for x in values)
    return mean, std

  def encode_spans(self, frames: int) -> list[published.Span]:
    """The first frame, then `time` frames each; what is left over is left out."""
    time = self.time
    return [(0, 1), *((i, i + time) for i in range(1, frames - time + 1, time))]

  def decode_spans(self, latents: int) -> list[published.Span]:
    """Latent frame by latent frame."""
    return [(i, i + 1) for i in range(latents)]

  def encode(self, x_BFHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance `(B, t, h, w, c)` float32 of whole clips.

    Frames beyond 1 + time k are left out, as by the peers.
    """
    end = self.encode_spans(x_BFHWC.shape[1])[-1][1]
    mean, logvar, _ = self.encode_chunk(x_BFHWC[:, :end], None)
    return mean, logvar

  def decode(self, z_BFHWC: jax.Array) -> jax.Array:
    """Pixels `(B, 1 + time k, H, W, 3)` float32 of whole latents, in [-1, 1]."""
    return self.decode_chunk(z_BFHWC, None)[0]

  def encode_chunk(
    self, x_BFHWC: jax.Array, cache: Cache | None, inside: Inside | None = None
  ) -> tuple[jax.Array, jax.Array, Cache]:
    """Encodes the next frames of a clip.

    Args:
      x_BFHWC: 1 + time k frames where `cache` is None, else time k frames.
      cache: what the chunk before returned.
      inside: what the clips fill of their buffer.

    Returns:
      Mean, log-variance (clipped to [-30, 20]), and the cache for the next chunk.
    """
    stream = Stream(cache, inside=inside)
    moments = self.encoder(x_BFHWC, stream)
    return *blocks.moments_to_posterior(moments), stream.cache()

  def decode_chunk(
    self, z_BFHWC: jax.Array, cache: Cache | None
  ) -> tuple[jax.Array, Cache]:
    """Decodes the next latent frames of a clip; any number of them."""
    stream = Stream(cache)
    x_BFHWC = self.decoder(z_BFHWC, stream).astype(jnp.float32)
    return jnp.clip(x_BFHWC, -1.0, 1.0), stream.cache()
