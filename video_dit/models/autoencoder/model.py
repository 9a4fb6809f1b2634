"""The autoencoder: clips to latents and back, by causal 3D convolutions.

1 + time k frames of `space` h x `space` w pixels become 1 + k latent frames of h x w;
an image is a clip of one frame. Variational by Kingma and Welling (arXiv:1312.6114):
the encoder returns the mean and the log-variance of a normal distribution.
"""

import math

import einops
from flax import nnx
import jax
import jax.numpy as jnp

from video_dit import config as config_lib
from video_dit.models.autoencoder.inside import Inside
from video_dit.models.autoencoder.layers import (
  Cache,
  CausalConv,
  ResidualBlock,
  Stream,
  Upsample,
)

LOGVAR = -4.0  # where log-variances start: training begins nearly without noise


def strides(arch: config_lib.Autoencoder) -> list[tuple[int, int]]:
  """`(time, space)` factor after each level but the last."""
  ends = len(arch.widths) - 1
  halve_space = int(math.log2(arch.space // arch.patch))
  halve_time = int(math.log2(arch.time))
  return [
    (2 if i >= ends - halve_time else 1, 2 if i < halve_space else 1) for i in range(ends)
  ]


def kernel(arch: config_lib.Autoencoder, time: int, space: int) -> tuple[int, int, int]:
  """Taps of a convolution that changes these axes by these factors.

  If factorized, it spans only the axes that it changes.
  """
  if not arch.factorized:
    return (3, 3, 3)
  side = 3 if space > 1 else 1
  return (3 if time > 1 else 1, side, side)


class Encoder(nnx.Module):
  """Pixels to the statistics of latents, in chunks or at once."""

  def __init__(self, arch: config_lib.Autoencoder, *, rngs: nnx.Rngs):
    self.patch = arch.patch
    ends = kernel(arch, 1, 2)
    self.conv_in = CausalConv(3 * arch.patch**2, arch.widths[0], kernel=ends, rngs=rngs)
    self.levels = nnx.List(
      nnx.List(
        ResidualBlock(width, factorized=arch.factorized, rngs=rngs)
        for _ in range(arch.blocks)
      )
      for width in arch.widths
    )
    self.downs = nnx.List(
      CausalConv(a, b, kernel=kernel(arch, t, s), stride=(t, s, s), rngs=rngs)
      for a, b, (t, s) in zip(
        arch.widths[:-1], arch.widths[1:], strides(arch), strict=True
      )
    )
    self.conv_out = CausalConv(arch.widths[-1], arch.channels, kernel=ends, rngs=rngs)
    self.conv_logvar = CausalConv(
      arch.widths[-1], arch.channels, kernel=ends, gain=0.1, bias=LOGVAR, rngs=rngs
    )

  def __call__(self, x_BFHWC: jax.Array, stream: Stream) -> tuple[jax.Array, jax.Array]:
    x = einops.rearrange(
      x_BFHWC, "b f (h p) (w q) c -> b f h w (p q c)", p=self.patch, q=self.patch
    )
    x = self.conv_in(x, stream)
    for i, level in enumerate(self.levels):
      for block in level:
        x = stream.run(block, x)
      if i < len(self.downs):
        x = stream.run(self.downs[i], x)
    return self.conv_out(x, stream), self.conv_logvar(x, stream)


class Decoder(nnx.Module):
  """Latents to pixels, in chunks or at once."""

  def __init__(self, arch: config_lib.Autoencoder, *, rngs: nnx.Rngs):
    self.patch = arch.patch
    widths = arch.widths[::-1]
    ends = kernel(arch, 1, 2)
    self.conv_in = CausalConv(arch.channels, widths[0], kernel=ends, rngs=rngs)
    self.levels = nnx.List(
      nnx.List(
        ResidualBlock(width, factorized=arch.factorized, rngs=rngs)
        for _ in range(arch.blocks)
      )
      for width in widths
    )
    self.ups = nnx.List(
      Upsample(a, b, stride, kernel=kernel(arch, *stride), rngs=rngs)
      for a, b, stride in zip(widths[:-1], widths[1:], strides(arch)[::-1], strict=True)
    )
    self.conv_out = CausalConv(widths[-1], 3 * arch.patch**2, kernel=ends, rngs=rngs)

  def __call__(self, z_BFHWC: jax.Array, stream: Stream) -> jax.Array:
    x = self.conv_in(z_BFHWC, stream)
    for i, level in enumerate(self.levels):
      for block in level:
        x = stream.run(block, x)
      if i < len(self.ups):
        x = stream.run(self.ups[i], x)
    x = stream.run(self.conv_out, x)
    return einops.rearrange(
      x, "b f h w (p q c) -> b f (h p) (w q) c", p=self.patch, q=self.patch
    )


class Autoencoder(nnx.Module):
  """Encoder and decoder; pixels lie in [-1, 1].

  Attributes:
    arch: its sizes.
    channels, space, time: of the latents.
    causal: the encoding of a prefix, in the same chunks, ignores later frames.
  """

  causal = True

  def __init__(self, arch: config_lib.Autoencoder, *, rngs: nnx.Rngs):
    self.arch = arch
    self.channels, self.space, self.time = arch.channels, arch.space, arch.time
    self.encoder = Encoder(arch, rngs=rngs)
    self.decoder = Decoder(arch, rngs=rngs)

  def encode_spans(self, frames: int) -> list[tuple[int, int]]:
    """The first frame, then `time` frames each."""
    return [(0, 1), *((i, i + self.time) for i in range(1, frames, self.time))]

  def decode_spans(self, latents: int) -> list[tuple[int, int]]:
    """Latent frame by latent frame."""
    return [(i, i + 1) for i in range(latents)]

  def encode(
    self, x_BFHWC: jax.Array, *, remat: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance `(B, t, h, w, c)` float32 of whole clips.

    Where `remat`, a backward pass computes each block again from its input.
    """
    return self._posterior(x_BFHWC, Stream(remat=remat))

  def decode(self, z_BFHWC: jax.Array, *, remat: bool = False) -> jax.Array:
    """Pixels `(B, F, H, W, 3)` float32 of whole latents, about [-1, 1]."""
    return self.decoder(z_BFHWC, Stream(remat=remat)).astype(jnp.float32)

  def encode_chunk(
    self, x_BFHWC: jax.Array, cache: Cache | None, inside: Inside | None = None
  ) -> tuple[jax.Array, jax.Array, Cache]:
    """Encodes the next frames of a clip.

    Args:
      x_BFHWC: 1 + time k frames where `cache` is None, else time k frames.
      cache: what the chunk before returned.
      inside: which part of their buffer the clips fill.

    Returns:
      Mean, log-variance (clipped to [-30, 20]), and the cache for the next chunk.
    """
    stream = Stream(cache, inside=inside)
    return *self._posterior(x_BFHWC, stream), stream.cache()

  def _posterior(self, x_BFHWC: jax.Array, stream: Stream) -> tuple[jax.Array, jax.Array]:
    mean, logvar = (x.astype(jnp.float32) for x in self.encoder(x_BFHWC, stream))
    return mean, jnp.clip(logvar, -30.0, 20.0)

  def decode_chunk(
    self, z_BFHWC: jax.Array, cache: Cache | None
  ) -> tuple[jax.Array, Cache]:
    """Decodes the next latent frames of a clip; any number of them."""
    stream = Stream(cache)
    x_BFHWC = self.decoder(z_BFHWC, stream).astype(jnp.float32)
    return x_BFHWC, stream.cache()
