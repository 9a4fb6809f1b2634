"""Packed attention on TPU: Pallas kernels that loop over the block map.

Of its own, and not jax's or Tokamax's splash attention: a first and a last block say
all of a packed row, so the grid is static, nothing is fetched or stepped over for
blocks that are skipped, and interpret mode proves every result. Heads are cut out of
`(R, N, A * K)` by the block specs, so nothing is transposed.
"""

import einops
import jax
import jax.numpy as jnp

from video_dit.parallel.kernels import blocks, splash_backward, splash_forward
from video_dit.parallel.kernels.dense import NO_KEYS
from video_dit.parallel.kernels.splash_sizes import Sizes, choose, head_size, up_to


def attention(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  *,
  device: str = "",
) -> tuple[jax.Array, jax.Array]:
  """Softmax attention within segments; see `parallel.attention.local_attention`.

  Args:
    device: the kind of TPU, as JAX names it; empty runs the kernel as plain JAX.
  """
  arguments = q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM
  size = choose(q_RNAK.shape, k_RMAK.shape[1], q_RNAK.dtype, device)
  return counted(*arguments, sizes=size, interpret=not device)[:2]


def counted(
  q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM, *, sizes: Sizes, interpret: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`attention`, and the key blocks visited by each block of queries, `(R, A, I)`."""
  length, size = q_RNAK.shape[1], q_RNAK.shape[3]
  queries = up_to(length, sizes.block)
  keys = up_to(k_RMAK.shape[1], sizes.chunk)
  out, lse, visits = splash_forward.forward(
    _flat(q_RNAK * size**-0.5, queries),
    _flat(k_RMAK, keys),
    _flat(v_RMAK, keys),
    blocks.padded(segments_RN, queries),
    blocks.padded(key_segments_RM, keys),
    sizes,
    interpret=interpret,
  )
  lse_RNA = einops.rearrange(lse[..., :length], "r a 1 n -> r n a")
  return _heads(out, q_RNAK), lse_RNA, visits[..., 0, 0]


def gradients(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  lse_RNA: jax.Array,
  delta_RNA: jax.Array,
  dout_RNAK: jax.Array,
  *,
  device: str = "",
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Gradients of queries, keys and values; see `parallel.attention.local_gradients`."""
  keys_shape = (q_RNAK.shape[0], k_RMAK.shape[1], *q_RNAK.shape[2:])
  by_keys = choose(keys_shape, q_RNAK.shape[1], q_RNAK.dtype, device, of_keys=True)
  by_queries = None
  if by_keys.chunk < q_RNAK.shape[1]:
    by_queries = choose(q_RNAK.shape, k_RMAK.shape[1], q_RNAK.dtype, device)
  dq, dk, dv, _ = counted_gradients(
    *(q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM),
    *(lse_RNA, delta_RNA, dout_RNAK),
    by_keys=by_keys,
    by_queries=by_queries,
    interpret=not device,
  )
  return dq, dk, dv


def counted_gradients(
  q_RNAK,
  k_RMAK,
  v_RMAK,
  segments_RN,
  key_segments_RM,
  lse_RNA,
  delta_RNA,
  dout_RNAK,
  *,
  by_keys: Sizes,
  by_queries: Sizes | None = None,
  interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, ...]]:
  """`gradients`, and the blocks visited by each block of keys, then of queries.

  Args:
    by_keys: how the pass over keys cuts rows.
    by_queries: how the pass over queries does; without it there is one pass for both.
  """
  # exp(score - lse) of a query that sees nothing has to be 0, not exp(0).
  lse_RNA = jnp.where(lse_RNA > NO_KEYS / 2, lse_RNA, -NO_KEYS)
  scale = q_RNAK.shape[-1] ** -0.5
  scaled, dout = q_RNAK * scale, dout_RNAK.astype(q_RNAK.dtype)

  def arguments(queries: int, keys: int) -> tuple[jax.Array, ...]:
    return (
      _flat(scaled, queries),
      _flat(k_RMAK, keys),
      _flat(v_RMAK, keys),
      blocks.padded(segments_RN, queries),
      blocks.padded(key_segments_RM, keys),
      _row(lse_RNA, queries),
      _row(delta_RNA, queries),
      _flat(dout, queries),
    )

  length, num_keys = q_RNAK.shape[1], k_RMAK.shape[1]
  dk, dv, visits, *dq = splash_backward.of_keys(
    *arguments(up_to(length, by_keys.chunk), up_to(num_keys, by_keys.block)),
    sizes=by_keys,
    with_queries=by_queries is None,
    interpret=interpret,
  )
  counts = [visits[..., 0, 0]]
  if by_queries is not None:
    *dq, visits = splash_backward.of_queries(
      *arguments(up_to(length, by_queries.block), up_to(num_keys, by_queries.chunk)),
      sizes=by_queries,
      interpret=interpret,
    )
    counts.append(visits[..., 0, 0])
  dq_RNAK = _heads(dq[0], q_RNAK) * jnp.asarray(scale, q_RNAK.dtype)
  return dq_RNAK, _heads(dk, k_RMAK), _heads(dv, v_RMAK), tuple(counts)


def _flat(x_RNAK: jax.Array, length: int) -> jax.Array:
  """`(R, N, A * K)`, tokens filled up to `length` and heads to whole lanes."""
  spare = head_size(x_RNAK.shape[-1]) - x_RNAK.shape[-1]
  x = jnp.pad(blocks.padded(x_RNAK, length), [(0, 0)] * 3 + [(0, spare)])
  return einops.rearrange(x, "r n a k -> r n (a k)")


def _row(x_RNA: jax.Array, length: int) -> jax.Array:
  """`(R, A, 1, N)`: what belongs to a query is a row vector in the kernels."""
  return einops.rearrange(blocks.padded(x_RNA, length), "r n a -> r a 1 n")


def _heads(x: jax.Array, like_RNAK: jax.Array) -> jax.Array:
  """Takes `_flat` back."""
  _, length, heads, size = like_RNAK.shape
  x = einops.rearrange(x, "r n (a k) -> r n a k", a=heads)
  return x[:, :length, :, :size].astype(like_RNAK.dtype)
