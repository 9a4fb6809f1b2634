"""HunyuanVideo's autoencoder: 8 x 8 pixels and 4 frames a latent.

Causal convolutions that pad a clip with its first frame in time and its border in space,
and attention in the middle that is causal by frame. Its group norms see all frames that
they are given, so running a clip in pieces gives other values than in one. The peer by
default runs clips of more than 16 frames (4 latents) in overlapping tiles of time and
blends them; so does this, and memory stays bounded. With `tiled=False` a clip runs in one
piece.

Source: Kong et al., 2024, arXiv:2412.03603.
"""

import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit.models.autoencoder import blocks, published
from video_dit.models.autoencoder.inside import Inside
from video_dit.models.autoencoder.layers import CausalConv, Stream

FRAMES, STRIDE = 16, 12  # of a tile after its first frame, and to the next tile

Tail = jax.Array  # the last frames of a tile, into which the next is blended

# The only kind of level supported, by its key in `config.json`.
LEVELS = {
  "down_block_types": "HunyuanVideoDownBlock3D",
  "up_block_types": "HunyuanVideoUpBlock3D",
}


@dataclasses.dataclass(frozen=True)
class HunyuanConfig:
  """The architecture, with the names and defaults of its `config.json`."""

  in_channels: int = 3
  out_channels: int = 3
  latent_channels: int = 16
  down_block_types: tuple[str, ...] = ()
  up_block_types: tuple[str, ...] = ()
  block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  act_fn: str = "silu"
  norm_num_groups: int = 32
  scaling_factor: float = 0.476986
  spatial_compression_ratio: int = 8
  temporal_compression_ratio: int = 4
  mid_block_add_attention: bool = True

  def __post_init__(self):
    """Refuses values that the architecture does not support."""
    kinds = (self.down_block_types, self.up_block_types)
    widths, groups = self.block_out_channels, self.norm_num_groups
    published.check_levels(widths, groups, kinds, LEVELS)
    published.check_activation(self.act_fn)
    if self.temporal_compression_ratio != 4:
      raise ValueError(
        f"temporal_compression_ratio is {self.temporal_compression_ratio}: the decoder"
        " of this architecture is defined for 4 only."
      )
    published.power_of_two("spatial_compression_ratio", self.spatial_compression_ratio)

  @property
  def strides(self) -> tuple[tuple[int, int], ...]:
    """`(time, space)` factor after each level, outermost first.

    Space changes after the first levels, time after the last ones except the very last.
    The decoder has the same order, though its levels run the other way.
    """
    levels = len(self.block_out_channels)
    space = published.power_of_two("space", self.spatial_compression_ratio)
    return tuple(
      (2 if levels - 3 <= i < levels - 1 else 1, 2 if i < space else 1)
      for i in range(levels)
    )


class Hunyuan(published.Autoencoder):
  """Encoder and decoder; pixels lie in [-1, 1]."""

  def __init__(self, arch: HunyuanConfig, *, tiled: bool = True, rngs: nnx.Rngs):
    widths, groups = arch.block_out_channels, arch.norm_num_groups
    self.arch, self.tiled = arch, tiled
    conv = functools.partial(CausalConv, beyond="edge")
    attention = functools.partial(blocks.Attention, groups=groups, rngs=rngs)

    def down(level: int, channels: int) -> CausalConv | None:
      time, space = arch.strides[level]
      if (time, space) == (1, 1):
        return None
      return conv(channels, channels, stride=(time, space, space), rngs=rngs)

    def up(level: int, channels: int) -> blocks.Upsample | None:
      if arch.strides[level] == (1, 1):
        return None
      made = conv(channels, channels, rngs=rngs)
      return blocks.Upsample(made, *arch.strides[level], _lone)

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
    self.quant = blocks.Dense(2 * latents, 2 * latents, rngs=rngs)
    self.post_quant = blocks.Dense(latents, latents, rngs=rngs)

  @property
  def space(self) -> int:
    """Pixels per latent row or column."""
    return int(np.prod([space for _, space in self.arch.strides]))

  @property
  def time(self) -> int:
    """Frames per latent frame after the first."""
    return int(np.prod([time for time, _ in self.arch.strides]))

  @property
  def statistics(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation `(c,)` that normalise latents."""
    return published.statistics(self.arch.latent_channels, self.arch.scaling_factor)

  def encode_spans(self, frames: int) -> list[published.Span]:
    """Tiles, overlapping, in which a clip of so many frames is encoded."""
    if not self.tiled or frames <= FRAMES:
      return [(0, frames)]
    return _tiles(frames, FRAMES, STRIDE, self.time)

  def decode_spans(self, latents: int) -> list[published.Span]:
    """Tiles, overlapping, in which so many latent frames are decoded."""
    tile = FRAMES // self.time
    if not self.tiled or latents <= tile:
      return [(0, latents)]
    return _tiles(latents, tile, STRIDE // self.time, 1)

  def encode_chunk(
    self, x_BFHWC: jax.Array, tail: Tail | None, inside: Inside | None = None
  ) -> tuple[jax.Array, jax.Array, Tail | None]:
    """Encodes the next of `encode_spans`.

    Args:
      x_BFHWC: its frames.
      tail: what the tile before returned; None at the beginning.
      inside: which part of their buffer the clips fill.

    Returns:
      Mean, log-variance and the tail for the next tile.
    """
    moments = self.quant(self.encoder(x_BFHWC, Stream(before="edge", inside=inside)))
    stride, overlap = STRIDE // self.time, (FRAMES - STRIDE) // self.time
    if self.tiled:
      moments, tail = _blend(moments, tail, stride, overlap)
    return *blocks.moments_to_posterior(moments), tail

  def decode_chunk(
    self, z_BFHWC: jax.Array, tail: Tail | None
  ) -> tuple[jax.Array, Tail | None]:
    """Decodes the next of `decode_spans`: pixels, and the tail for the one after."""
    x_BFHWC = self.decoder(self.post_quant(z_BFHWC), Stream(before="edge"))
    if self.tiled:
      x_BFHWC, tail = _blend(x_BFHWC, tail, STRIDE, FRAMES - STRIDE)
    return x_BFHWC.astype(jnp.float32), tail


def _lone(frames: int) -> bool:
  """Always true: the clip's first frame stays one frame."""
  del frames
  return True


def _tiles(frames: int, size: int, stride: int, time: int) -> list[published.Span]:
  """Tiles of `size + 1` frames, without those that add nothing after their first frame.

  `time` frames make one frame of the output.
  """
  spans = [(start, min(start + size + 1, frames)) for start in range(0, frames, stride)]
  return [span for span in spans if span[0] == 0 or span[1] - span[0] > time]


def _blend(
  tile: jax.Array, tail: Tail | None, stride: int, overlap: int
) -> tuple[jax.Array, Tail | None]:
  """The frames that a tile adds, blended linearly with the end of the tile before.

  Args:
    tile: all its output frames.
    tail: the last `overlap` output frames of the tile before.
    stride: frames that a tile adds.
    overlap: frames that two tiles share, besides the first of the later one.
  """
  if tail is None:
    return tile[:, : stride + 1], tile[:, -overlap:]
  tile = tile[:, 1:]
  weight = (jnp.arange(overlap, dtype=tile.dtype) / overlap)[None, :, None, None, None]
  shared = tail * (1 - weight) + tile[:, :overlap] * weight
  tile = jnp.concatenate([shared, tile[:, overlap:]], axis=1)
  return tile[:, :stride], tile[:, -overlap:]
