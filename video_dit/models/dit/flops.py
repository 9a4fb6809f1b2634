"""Model FLOPs of the diffusion transformer on packed rows, counted analytically.

Only what the mathematics needs is counted: matrix products at two FLOPs per multiply-add,
and attention over each segment's own tokens, never over the row. Norms, rotations and
softmax are left out, and so is rematerialisation. With width D,
hidden H, depth B, patch dimension P, text width E, n tokens and l caption tokens of a
segment:

    token     4 P D + B (12 D^2 + 4 D H)        embed and head; qkv, out, text q and out;
                                                up and down
    segment   2 F D + 2 D^2 + 2 E D + 4 D^2     time and pooled text; last modulation
              + B 12 D^2                        modulations of the blocks
    caption   l (2 E D + B 4 D^2)               text; keys and values
    attention B 4 D (n^2 + n l)                 scores and sums

In Wan's architecture a segment costs 2 F D + 14 D^2, of which 12 D^2 are the modulation
that all blocks share, and a caption l (2 E D + 2 D^2 + B 4 D^2). Attention is to l + 1
keys: one stands for all of a caption's zero padding (`parallel/filled_attention`).

Training costs three times as much: once forward, twice backward (PaLM, Chowdhery et
al., 2022, arXiv:2204.02311, appendix B).
"""

import jax

from video_dit import config as config_lib


def forward_flops(
  dit: config_lib.DiT,
  *,
  patch_dim: int,
  text_width: int,
  tokens_S: jax.Array,
  text_tokens_S: jax.Array,
) -> jax.Array:
  """FLOPs of one forward pass.

  Args:
    dit: sizes of the transformer.
    patch_dim: P.
    text_width: E.
    tokens_S: tokens of each segment, of any shape; 0 where there is none.
    text_tokens_S: caption tokens of each segment, likewise.

  Returns:
    A scalar of the arguments' kind; pass floats, int32 overflows.
  """
  width, depth, hidden = dit.width, dit.depth, dit.mlp_width
  token = 4 * patch_dim * width + depth * (12 * width**2 + 4 * width * hidden)
  caption = 2 * text_width * width + depth * 4 * width**2
  keys_S = tokens_S + text_tokens_S
  if dit.architecture == "wan":
    segment = 2 * width * dit.frequencies + 14 * width**2
    caption += 2 * width**2
    keys_S = keys_S + (dit.text_length > 0)
  else:
    segment = 2 * width * (dit.frequencies + text_width) + (6 + 12 * depth) * width**2
  pairs_S = tokens_S * keys_S
  return (
    float(token) * tokens_S.sum()
    + float(segment) * (tokens_S > 0).sum()
    + float(caption) * text_tokens_S.sum()
    + float(4 * width * depth) * pairs_S.sum()
  )


def train_flops(dit: config_lib.DiT, **extents) -> jax.Array:
  """FLOPs of one forward and backward pass; arguments as `forward_flops`'."""
  return 3.0 * forward_flops(dit, **extents)
