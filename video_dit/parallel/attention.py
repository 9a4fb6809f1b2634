"""Attention over packed rows: a query sees the keys of its own segment and no others.

`packed_attention` is what models call; `local_attention` is one device's part of it, and
what context parallelism builds on. Segment 0 is padding: it sees nothing and nothing
sees it. Over a `context` axis the tokens of the queries are split, and keys and values
are gathered.
"""

import jax
from jax.sharding import PartitionSpec

from video_dit.parallel.kernels import dense
from video_dit.parallel.partition import ROWS


def packed_attention(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  *,
  kernel: str = "auto",
) -> jax.Array:
  """Softmax attention within segments (Vaswani et al., 2017, equation 1).

  Args:
    q_RNAK: queries.
    k_RMAK, v_RMAK: keys and values; the row's own or its text's.
    segments_RN: segment of each query.
    key_segments_RM: segment of each key.
    kernel: `auto`, or the name of one.

  Returns:
    `(R, N, A, K)` in the queries' dtype; 0 for a query that sees no key.
  """
  mesh = jax.sharding.get_abstract_mesh()
  arguments = (q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM)

  def attend(*arguments):
    return local_attention(*arguments, kernel=kernel)[0]

  if mesh.empty or mesh.size == 1:
    return attend(*arguments)
  split = PartitionSpec(ROWS, "context", "tensor")
  # An axis that is named needs no sum of its gradients, not even over one device.
  whole = split if mesh.shape["context"] == 1 else PartitionSpec(ROWS, None, "tensor")
  return jax.shard_map(
    attend,
    mesh=mesh,
    in_specs=(split, whole, whole, PartitionSpec(*split[:2]), PartitionSpec(*whole[:2])),
    out_specs=split,
    check_vma=False,
  )(*arguments)


def local_attention(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  *,
  kernel: str = "auto",
) -> tuple[jax.Array, jax.Array]:
  """One device's queries to one device's keys, with what a merge with other keys needs.

  Both results are differentiable. Results over disjoint keys merge to that over all:
  with lse = logaddexp(lse1, lse2), out = out1 exp(lse1 - lse) + out2 exp(lse2 - lse).

  Args:
    q_RNAK: queries, not yet scaled.
    k_RMAK, v_RMAK: keys and values.
    segments_RN, key_segments_RM: segments, 0 is padding. Any numbers are exact; work is
      least where those of one segment lie together.
    kernel: `auto`, or the name of one.

  Returns:
    Output `(R, N, A, K)` in the queries' dtype, 0 for a query that sees no key; and the
    natural log of the sum of the exponentials of its scaled scores, `(R, N, A)` float32,
    `dense.NO_KEYS` = -1e30 for a query that sees no key.
  """
  del kernel
  return _dense(q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM)


def local_gradients(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  lse_RNA: jax.Array,
  delta_RNA: jax.Array,
  dout_RNAK: jax.Array,
  *,
  kernel: str = "auto",
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What these keys give to the gradients, when softmax went over more keys than these.

  Args:
    q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM: as for `local_attention`.
    lse_RNA: log-sum-exp over all keys, `(R, N, A)` float32.
    delta_RNA: sum over K of output times its cotangent, over all keys, float32.
    dout_RNAK: cotangent of the output over all keys.
    kernel: `auto`, or the name of one.

  Returns:
    Parts of the gradients of the queries (to be summed over all keys), keys and values.
  """
  del kernel
  return dense.gradients(
    q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM, lse_RNA, delta_RNA, dout_RNAK
  )


@jax.checkpoint  # the backward pass makes the weights anew
def _dense(*arguments):
  return dense.attention(*arguments)
