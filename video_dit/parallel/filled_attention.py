"""Attention to captions that count as padded with copies of one key and value.

Padding that is attended to, as in Wan, is the same key k' and value v' many times over.
With the log-sum-exp l and output o over a caption's own keys, n copies add

    share = sigmoid(q k' / sqrt(K) + log n - l),   o' = (1 - share) o + share v'

which is the softmax over all of them, at the cost of one key, without storing them.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from video_dit.data.batch import members
from video_dit.parallel import precision
from video_dit.parallel.attention import local_attention
from video_dit.parallel.partition import ROWS

NONE = -1e30  # the log of no copies


def filled_attention(
  q_RNAK: jax.Array,
  k_RLAK: jax.Array,
  v_RLAK: jax.Array,
  fill_k_AK: jax.Array,
  fill_v_AK: jax.Array,
  log_fill_RN: jax.Array,
  segments_RN: jax.Array,
  text_segments_RL: jax.Array,
  *,
  kernel: str = "auto",
) -> jax.Array:
  """Softmax attention to a segment's caption and to copies of one more key.

  Args:
    q_RNAK: queries.
    k_RLAK, v_RLAK: keys and values of all captions.
    fill_k_AK, fill_v_AK: the key and value that captions are padded with.
    log_fill_RN: natural log of the number of copies that each query sees; `NONE` where
      there is none.
    segments_RN: segment of each query.
    text_segments_RL: segment of each key.
    kernel: as for `packed_attention`.

  Returns:
    `(R, N, A, K)` in the queries' dtype; 0 for a query that sees no key.
  """

  def attend(q, k, v, fill_k, fill_v, log_fill, segments, text_segments):
    out, lse_RNA = local_attention(q, k, v, segments, text_segments, kernel=kernel)
    score_RNA = q.shape[-1] ** -0.5 * jnp.einsum(
      "rnak,ak->rna",
      q,
      fill_k,
      precision=precision.of(q, fill_k),
      preferred_element_type=jnp.float32,
    )
    share = jax.nn.sigmoid(score_RNA + log_fill[..., None] - lse_RNA)
    share = jnp.where(log_fill[..., None] > NONE / 2, share, 0.0)[..., None]
    filled = (1 - share) * out + share * fill_v.astype(jnp.float32)[None, None]
    return filled.astype(q.dtype)

  arguments = (
    *(q_RNAK, k_RLAK, v_RLAK, fill_k_AK, fill_v_AK),
    *(log_fill_RN, segments_RN, text_segments_RL),
  )
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return attend(*arguments)
  split = PartitionSpec(ROWS, "context", "tensor")
  whole, heads = PartitionSpec(ROWS, None, "tensor"), PartitionSpec("tensor")
  tokens = PartitionSpec(ROWS, "context")
  return jax.shard_map(
    attend,
    mesh=mesh,
    in_specs=(split, whole, whole, heads, heads, tokens, tokens, PartitionSpec(ROWS)),
    out_specs=split,
    check_vma=False,
  )(*arguments)


def log_fill(
  text_segments_RL: jax.Array, segments_RN: jax.Array, num_segments: int, length: int
) -> jax.Array:
  """Log of the copies that pad the caption of each token's segment to `length`.

  Args:
    text_segments_RL: segment of each caption token.
    segments_RN: segment of each token.
    num_segments: most segments of a row.
    length: that captions are padded to.

  Returns:
    `(R, N)` float32; `NONE` in padding, and where a caption is as long or longer.
  """
  members_RLS = members(text_segments_RL, num_segments)
  missing_RS = length - members_RLS.sum(1).astype(jnp.float32)
  log_RS = jnp.where(missing_RS > 0, jnp.log(jnp.maximum(missing_RS, 1.0)), NONE)
  log_RN = jnp.take_along_axis(log_RS, jnp.maximum(segments_RN - 1, 0), axis=1)
  return jnp.where(segments_RN > 0, log_RN, NONE)
