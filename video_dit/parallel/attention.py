"""Attention over packed rows: a query sees the keys of its own segment and no others.

`packed_attention` is what models call; `local_attention` (local.py) is one device's part
of it, and what context parallelism builds on. Segment 0 is padding: it sees nothing and
nothing sees it. Over a `context` axis the tokens of the queries are split; `context.py`
says how they meet the keys of other devices.
"""

import jax
from jax.sharding import PartitionSpec

from video_dit.parallel import context as context_lib
from video_dit.parallel.local import local_attention, local_gradients
from video_dit.parallel.partition import ROWS

__all__ = ["local_attention", "local_gradients", "packed_attention"]


def packed_attention(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  *,
  kernel: str = "auto",
  context: str = "gather",
) -> jax.Array:
  """Softmax attention within segments (Vaswani et al., 2017, equation 1).

  Args:
    q_RNAK: queries.
    k_RMAK, v_RMAK: keys and values; the row's own or its text's.
    segments_RN: segment of each query.
    key_segments_RM: segment of each key.
    kernel: one of `local.KERNELS`.
    context: how queries meet the keys of other devices (`config.dit.context`), where
      keys are split like queries; a text's keys are not split, and are `gather`ed.

  Returns:
    `(R, N, A, K)` in the queries' dtype; 0 for a query that sees no key.
  """
  mesh = jax.sharding.get_abstract_mesh()
  arguments = (q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM)

  def attend(*arguments):
    return local_attention(*arguments, kernel=kernel)[0]

  if mesh.empty or mesh.size == 1:
    return attend(*arguments)
  parts = None
  if mesh.shape["context"] > 1:
    sizes = mesh.shape["tensor"], mesh.shape["context"]
    parts = context_lib.split(context, q_RNAK.shape[2], *sizes)
  if parts:
    return context_lib.attention(*arguments[:4], parts=parts, kernel=kernel)
  split = PartitionSpec(ROWS, "context", "tensor")
  # Named axes need no sum of their gradients, not even over one device.
  whole = split if mesh.shape["context"] == 1 else PartitionSpec(ROWS, None, "tensor")
  return jax.shard_map(
    attend,
    mesh=mesh,
    in_specs=(split, whole, whole, PartitionSpec(*split[:2]), PartitionSpec(*whole[:2])),
    out_specs=split,
    check_vma=False,
  )(*arguments)
