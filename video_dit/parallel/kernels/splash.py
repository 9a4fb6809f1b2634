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
  return counted_gradients(
    *(q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM),
    *(lse_RNA, delta_RNA, dout_RNAK),
    sizes=choose(keys_shape, q_RNAK.shape[1], q_RNAK.dtype, device, of_keys=True),
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

  Queries whose gradients do not fit into VMEM together go by parts, one after the other;
  the keys' and values' gradients are summed over the parts in float32.
  """
  # exp(score - lse) of a query that sees nothing has to be 0, not exp(0).
  lse_RNA = jnp.where(lse_RNA > NO_KEYS / 2, lse_RNA, -NO_KEYS)
  scale = q_RNAK.shape[-1] ** -0.5
  queries = up_to(q_RNAK.shape[1], sizes.chunk)
  keys = up_to(k_RMAK.shape[1], sizes.block)
  k, v = _flat(k_RMAK, keys), _flat(v_RMAK, keys)
  of_queries = {
    "q": _flat(q_RNAK * scale, queries),
    "segments_RN": blocks.padded(segments_RN, queries),
    "lse": _row(lse_RNA, queries),
    "delta": _row(delta_RNA, queries),
    "dout": _flat(dout_RNAK.astype(q_RNAK.dtype), queries),
  }
  parts = queries // sizes.chunk

  def run(part: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    return splash_backward.gradients(
      **part,
      k=k,
      v=v,
      key_segments_RM=blocks.padded(key_segments_RM, keys),
      sizes=sizes,
      dtype=k.dtype if parts == 1 else jnp.float32,
      interpret=interpret,
    )

  if parts == 1:
    dk, dv, dq, visits = run(of_queries)
  else:

    def add(sums, part):
      dk, dv, dq, visits = run(part)
      return (sums[0] + dk, sums[1] + dv, sums[2] + visits), dq

    cut = {name: _cut(x, parts, name) for name, x in of_queries.items()}
    shapes = jax.eval_shape(run, {name: x[0] for name, x in cut.items()})
    zero = [jnp.zeros(x.shape, x.dtype) for x in shapes]
    (dk, dv, visits), dq = jax.lax.scan(add, (zero[0], zero[1], zero[3]), cut)
    dq = einops.rearrange(dq, "p r n d -> r (p n) d")
  dq_RNAK = _heads(dq, q_RNAK) * jnp.asarray(scale, q_RNAK.dtype)
  return dq_RNAK, _heads(dk, k_RMAK), _heads(dv, v_RMAK), visits[..., 0, 0]


def _cut(x: jax.Array, parts: int, name: str) -> jax.Array:
  """Cuts what belongs to queries in parts, ahead of all other axes."""
  pattern = {
    "segments_RN": "r (p n) -> p r n",
    "lse": "r a one (p n) -> p r a one n",
    "delta": "r a one (p n) -> p r a one n",
  }.get(name, "r (p n) d -> p r n d")
  return einops.rearrange(x, pattern, p=parts)


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
