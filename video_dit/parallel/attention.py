"""Attention over packed rows: a query sees the keys of its own segment and no others.

The reference here runs anywhere: exact softmax in float32 over chunks of queries, so
that memory grows with the row and not with its square. Over a `context` axis the tokens
of the queries are split, and keys and values are gathered.
"""

import einops
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from video_dit.parallel.partition import ROWS

QUERY_CHUNK = 1024


def packed_attention(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
) -> jax.Array:
  """Softmax attention within segments (Vaswani et al., 2017, equation 1).

  Args:
    q_RNAK: queries.
    k_RMAK, v_RMAK: keys and values; the row's own or its text's.
    segments_RN: segment of each query.
    key_segments_RM: segment of each key.

  Returns:
    `(R, N, A, K)` in the queries' dtype; 0 for a query that sees no key.
  """
  mesh = jax.sharding.get_abstract_mesh()
  arguments = (q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM)
  if mesh.empty or mesh.size == 1:
    return _chunked(*arguments)
  split = PartitionSpec(ROWS, "context", "tensor")
  # An axis that is named needs no sum of its gradients, not even over one device.
  whole = split if mesh.shape["context"] == 1 else PartitionSpec(ROWS, None, "tensor")
  return jax.shard_map(
    _chunked,
    mesh=mesh,
    in_specs=(split, whole, whole, PartitionSpec(*split[:2]), PartitionSpec(*whole[:2])),
    out_specs=split,
    check_vma=False,
  )(*arguments)


def _chunked(q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM):
  """Runs over chunks of queries, the last one filled up with segment -1."""
  length = q_RNAK.shape[1]
  if length <= QUERY_CHUNK:
    return _attend(q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM)
  spare = -length % QUERY_CHUNK
  q = jnp.pad(q_RNAK, [(0, 0), (0, spare), (0, 0), (0, 0)])
  s = jnp.pad(segments_RN, [(0, 0), (0, spare)], constant_values=-1)

  @jax.checkpoint  # the backward pass makes each chunk's weights anew
  def one(chunk):
    return _attend(chunk[0], k_RMAK, v_RMAK, chunk[1], key_segments_RM)

  out = jax.lax.map(
    one,
    (
      einops.rearrange(q, "r (c n) a k -> c r n a k", n=QUERY_CHUNK),
      einops.rearrange(s, "r (c n) -> c r n", n=QUERY_CHUNK),
    ),
  )
  return einops.rearrange(out, "c r n a k -> r (c n) a k")[:, :length]


def _attend(q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM):
  scale = q_RNAK.shape[-1] ** -0.5
  scores_RANM = jnp.einsum(
    "rnak,rmak->ranm", q_RNAK * scale, k_RMAK, preferred_element_type=jnp.float32
  )
  seen_RNM = segments_RN[:, :, None] == key_segments_RM[:, None, :]
  bias_RNM = jnp.where(seen_RNM, 0.0, -1e30)
  weights_RANM = jax.nn.softmax(scores_RANM + bias_RNM[:, None], axis=-1)
  out_RNAK = jnp.einsum("ranm,rmak->rnak", weights_RANM.astype(v_RMAK.dtype), v_RMAK)
  any_RN = seen_RNM.any(-1)  # a query without keys would get their mean
  return jnp.where(any_RN[:, :, None, None], out_RNAK, 0).astype(q_RNAK.dtype)
