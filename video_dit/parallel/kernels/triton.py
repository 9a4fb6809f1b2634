"""Packed attention on GPU: Pallas kernels, for Triton, that loop over the block map.

Tokamax's backward kernels visit every block of a row, or read a mask of all pairs, so the
backward pass is always this one; the forward pass is used where Tokamax is not installed.
Arrays stay `(R, N, A, K)`: a kernel reads rows of heads in place.
"""

import einops
import jax
import jax.numpy as jnp

from video_dit.parallel.kernels import blocks, triton_backward, triton_forward
from video_dit.parallel.kernels.dense import NO_KEYS
from video_dit.parallel.kernels.triton_sizes import (
  Sizes,
  backward_sizes,
  forward_sizes,
  head_size,
  key_sizes,
)


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
    device: the kind of GPU, as JAX names it; empty runs the kernel as plain JAX.
  """
  arguments = q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM
  size = forward_sizes(q_RNAK.shape[-1], q_RNAK.dtype, device)
  return counted(*arguments, sizes=size, interpret=not device)[:2]


def counted(
  q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM, *, sizes: Sizes, interpret: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`attention`, and the key blocks visited by each block of queries, `(R, A, I)`."""
  length = q_RNAK.shape[1]
  queries = blocks.up_to(length, sizes.block)
  keys = blocks.up_to(k_RMAK.shape[1], sizes.other)
  out, lse_RAN, visits_RAI = triton_forward.forward(
    _filled(q_RNAK, queries),
    _filled(k_RMAK, keys),
    _filled(v_RMAK, keys),
    blocks.padded(segments_RN, queries),
    blocks.padded(key_segments_RM, keys),
    scale=q_RNAK.shape[-1] ** -0.5,
    sizes=sizes,
    interpret=interpret,
  )
  lse_RNA = einops.rearrange(lse_RAN[..., :length], "r a n -> r n a")
  return _cut(out, q_RNAK), lse_RNA, visits_RAI


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
  of = q_RNAK.shape[-1], q_RNAK.dtype, device
  return counted_gradients(
    *(q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM),
    *(lse_RNA, delta_RNA, dout_RNAK),
    sizes=backward_sizes(*of),
    key_sizes=key_sizes(*of, of_text=k_RMAK.shape[1] < q_RNAK.shape[1]),
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
  key_sizes: tuple[Sizes, int],
  interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
  """`gradients`, and the blocks visited by those of queries and by those of keys."""
  of_keys, parts = key_sizes
  # exp(score - lse) of a query that sees nothing has to be 0, not exp(0).
  lse_RNA = jnp.where(lse_RNA > NO_KEYS / 2, lse_RNA, -NO_KEYS)
  step = max(sizes.block, sizes.other, of_keys.block, of_keys.other)
  queries = blocks.up_to(q_RNAK.shape[1], step)
  keys = blocks.up_to(k_RMAK.shape[1], step)

  def heads_first(x_RNA):
    return einops.rearrange(blocks.padded(x_RNA, queries), "r n a -> r a n")

  arguments = (
    *(_filled(q_RNAK, queries), _filled(k_RMAK, keys), _filled(v_RMAK, keys)),
    *(blocks.padded(segments_RN, queries), blocks.padded(key_segments_RM, keys)),
    *(heads_first(lse_RNA), heads_first(delta_RNA)),
    _filled(dout_RNAK.astype(q_RNAK.dtype), queries),
  )
  rest = {"scale": q_RNAK.shape[-1] ** -0.5, "interpret": interpret}
  dq, query_visits = triton_backward.of_queries(*arguments, **rest, sizes=sizes)
  dk, dv, key_visits = triton_backward.of_keys(
    *arguments, **rest, sizes=of_keys, parts=parts
  )
  visits = query_visits, key_visits
  return _cut(dq, q_RNAK), _cut(dk, k_RMAK), _cut(dv, v_RMAK), visits


def _filled(x_RNAK: jax.Array, length: int) -> jax.Array:
  """Tokens zero-padded to `length`, heads to a power of two."""
  size = x_RNAK.shape[-1]
  x = blocks.padded(x_RNAK, length)
  return jnp.pad(x, [(0, 0)] * 3 + [(0, head_size(size) - size)])


def _cut(x: jax.Array, like_RNAK: jax.Array) -> jax.Array:
  """Undoes `_filled`."""
  _, length, _, size = like_RNAK.shape
  return x[:, :length, :, :size].astype(like_RNAK.dtype)
