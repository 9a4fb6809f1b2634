"""Packed attention on TPU: Pallas kernels that loop over the block map.

Our own, not JAX's or Tokamax's splash attention: a first and a last block describe the
visits of a packed row, so the grid is static, skipped blocks are neither fetched nor
stepped over, and interpret mode can check every result. Arrays are `(R, A, N, K)` in the
kernels: the layout in which heads are normed and rotated too.
"""

import einops
import jax
import jax.numpy as jnp

from video_dit.parallel.kernels import blocks, splash_backward, splash_forward
from video_dit.parallel.kernels.dense import NO_KEYS
from video_dit.parallel.kernels.splash_sizes import Sizes, choose, head_size


def attention(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  *,
  device: str = "",
  block: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Softmax attention within segments; see `parallel.attention.local_attention`.

  Args:
    device: the kind of TPU, as JAX names it; empty runs the kernel as plain JAX.
    block: tokens of a block; 0 is the default of `splash_sizes`.
  """
  arguments = q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM
  size = choose(q_RNAK.shape, k_RMAK.shape[1], q_RNAK.dtype, device, block=block)
  return counted(*arguments, sizes=size, interpret=not device)[:2]


def counted(
  q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM, *, sizes: Sizes, interpret: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`attention`, and the key blocks visited by each block of queries, `(R, A, I)`."""
  length, size = q_RNAK.shape[1], q_RNAK.shape[3]
  queries = blocks.up_to(length, sizes.block)
  keys = blocks.up_to(k_RMAK.shape[1], sizes.chunk)
  out, lse, visits = splash_forward.forward(
    _heads_first(q_RNAK, queries),
    _heads_first(k_RMAK, keys),
    _heads_first(v_RMAK, keys),
    blocks.padded(segments_RN, queries),
    blocks.padded(key_segments_RM, keys),
    sizes,
    scale=size**-0.5,
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
  block: int = 0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Gradients of queries, keys and values; see `parallel.attention.local_gradients`."""
  shape = (q_RNAK.shape[0], k_RMAK.shape[1], *q_RNAK.shape[2:])
  others, dtype = q_RNAK.shape[1], q_RNAK.dtype
  return counted_gradients(
    *(q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM),
    *(lse_RNA, delta_RNA, dout_RNAK),
    sizes=choose(shape, others, dtype, device, of_keys=True, block=block),
    interpret=not device,
  )[:3]


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
  sizes: Sizes,
  interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """`gradients`, and the query blocks visited by each block of keys, `(R, A, J)`.

  Queries whose gradients do not fit into VMEM together are processed in consecutive
  parts; the keys' and values' gradients are summed over the parts in float32.
  """
  # exp(score - lse) of a query that sees nothing has to be 0, not exp(0).
  lse_RNA = jnp.where(lse_RNA > NO_KEYS / 2, lse_RNA, -NO_KEYS)
  queries = blocks.up_to(q_RNAK.shape[1], sizes.chunk)
  keys = blocks.up_to(k_RMAK.shape[1], sizes.block)
  k, v = _heads_first(k_RMAK, keys), _heads_first(v_RMAK, keys)
  q, dout = (
    _heads_first(q_RNAK, queries),
    _heads_first(dout_RNAK.astype(k.dtype), queries),
  )
  lse, delta = _row(lse_RNA, queries), _row(delta_RNA, queries)
  segments_RN = blocks.padded(segments_RN, queries)
  key_segments_RM = blocks.padded(key_segments_RM, keys)
  sums: tuple[jax.Array, ...] = ()
  dqs = []
  for first in range(0, queries, sizes.chunk):
    part = slice(first, first + sizes.chunk)
    if sums:
      # The last part is summed before this one begins; else all stay in memory for a sum.
      sums, k, v = jax.lax.optimization_barrier((sums, k, v))
    dk, dv, dq, visits = splash_backward.gradients(
      *(q[:, :, part], k, v, segments_RN[:, part], key_segments_RM),
      *(lse[..., part], delta[..., part], dout[:, :, part]),
      sizes=sizes,
      scale=q_RNAK.shape[-1] ** -0.5,
      dtype=k.dtype if sizes.chunk == queries else jnp.float32,
      interpret=interpret,
    )
    dqs.append(dq)
    own = dk, dv, visits
    sums = tuple(map(jnp.add, sums, own)) if sums else own
  dk, dv, visits = sums
  dq = jnp.concatenate(dqs, axis=2)
  return _heads(dq, q_RNAK), _heads(dk, k_RMAK), _heads(dv, v_RMAK), visits[..., 0, 0]


def _heads_first(x_RNAK: jax.Array, length: int) -> jax.Array:
  """`(R, A, N, K)`, tokens zero-padded to `length` and heads to whole lanes."""
  spare = head_size(x_RNAK.shape[-1]) - x_RNAK.shape[-1]
  x = jnp.pad(blocks.padded(x_RNAK, length), [(0, 0)] * 3 + [(0, spare)])
  return einops.rearrange(x, "r n a k -> r a n k")


def _row(x_RNA: jax.Array, length: int) -> jax.Array:
  """`(R, A, 1, N)`: per-query values are row vectors in the kernels."""
  return einops.rearrange(blocks.padded(x_RNA, length), "r n a -> r a 1 n")


def _heads(x: jax.Array, like_RNAK: jax.Array) -> jax.Array:
  """Undoes `_heads_first`."""
  _, length, _, size = like_RNAK.shape
  x = einops.rearrange(x, "r a n k -> r n a k")
  return x[:, :length, :, :size].astype(like_RNAK.dtype)
