"""Flash attention over a block map, as a Pallas kernel for TPU: the forward pass.

Online softmax (Dao et al., 2022, arXiv:2205.14135, algorithm 1) for one block of
queries a grid step, in a loop over the key blocks that the map names and no others.
Scores are transposed, keys down and queries across, so that maxima and sums run over
sublanes and per-query values are row vectors. Grid steps share only the chunks of one
query block, so all other dimensions may run on any core in any order.
"""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from video_dit.parallel.kernels import blocks
from video_dit.parallel.kernels.dense import NO_KEYS
from video_dit.parallel.kernels.splash_sizes import Sizes, cost


def forward(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  sizes: Sizes,
  *,
  scale: float,
  interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The kernel on padded arrays.

  Args:
    q, k, v: `(R, A, N, K)` and `(R, A, M, K)`, K the `sizes.head`.
    segments_RN, key_segments_RM: padded with 0 like them.
    sizes: blocks that divide N and M.
    scale: of the scores.
    interpret: run it as plain JAX.

  Returns:
    Output `(R, A, N, K)`, log-sum-exp `(R, A, 1, N)`, and the key blocks that were
    visited, counted in the loop, `(R, A, I, 1, 1)`.
  """
  rows, heads, length, _ = q.shape
  keys = k.shape[2]
  num_blocks, num_chunks = length // sizes.block, keys // sizes.chunk
  per_chunk = sizes.chunk // sizes.key_block
  found = blocks.block_map(segments_RN, key_segments_RM, sizes.block, sizes.key_block)
  scalars = (
    found.first_RI,
    found.last_RI,
    blocks.whole(segments_RN, sizes.block, -1),
    blocks.whole(key_segments_RM, sizes.key_block, -2),
  )

  def of_query(r, a, i, c, *scalars):
    return r, a, i, 0

  def of_key(r, a, i, c, first, last, *scalars):
    return r, a, chunk_of(r, i, c, first, last, per_chunk), 0

  def of_key_row(r, a, i, c, first, last, *scalars):
    return r, 0, chunk_of(r, i, c, first, last, per_chunk)

  block, chunk, head = sizes.block, sizes.chunk, sizes.head
  return pl.pallas_call(
    functools.partial(_kernel, sizes=sizes, scale=scale),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=len(scalars),
      grid=(rows, heads, num_blocks, num_chunks),
      in_specs=[
        pl.BlockSpec((None, None, block, head), of_query),
        pl.BlockSpec((None, None, chunk, head), of_key),
        pl.BlockSpec((None, None, chunk, head), of_key),
        pl.BlockSpec((None, 1, block), lambda r, a, i, c, *_: (r, 0, i)),
        pl.BlockSpec((None, 1, chunk), of_key_row),
      ],
      out_specs=[
        pl.BlockSpec((None, None, block, head), of_query),
        pl.BlockSpec((None, None, 1, block), lambda r, a, i, c, *_: (r, a, 0, i)),
        pl.BlockSpec((None, None, None, 1, 1), lambda r, a, i, c, *_: (r, a, i, 0, 0)),
      ],
      scratch_shapes=[
        pltpu.VMEM((1, block), jnp.float32),
        pltpu.VMEM((1, block), jnp.float32),
        pltpu.VMEM((head, block), jnp.float32),
      ],
    ),
    out_shape=[
      jax.ShapeDtypeStruct(q.shape, q.dtype),
      jax.ShapeDtypeStruct((rows, heads, 1, length), jnp.float32),
      jax.ShapeDtypeStruct((rows, heads, num_blocks, 1, 1), jnp.int32),
    ],
    compiler_params=sizes.compiler("parallel", "parallel", "parallel", "arbitrary"),
    cost_estimate=cost(q, k, products=2, arrays=2),
    interpret=interpret,
    name="packed_attention_forward",
  )(*scalars, q, k, v, segments_RN[:, None], key_segments_RM[:, None])


def chunk_of(r, i, c, first_ref, last_ref, per_chunk):
  """The chunk that grid step `c` needs; if it needs none, the one already loaded."""
  low = jax.lax.div(first_ref[r, i], per_chunk)  # `//` handles signs, at a cost
  high = jax.lax.div(jnp.maximum(last_ref[r, i] - 1, first_ref[r, i]), per_chunk)
  return jnp.clip(c, low, high)


def bounds_in(r, i, c, first_ref, last_ref, per_chunk):
  """First, and one past the last, block to visit in chunk `c`, counted within it."""
  low = jnp.maximum(first_ref[r, i] - c * per_chunk, 0)
  high = jnp.minimum(last_ref[r, i] - c * per_chunk, per_chunk)
  return low, jnp.maximum(high, low)


def column(row: jax.Array, width: int) -> jax.Array:
  """Turns a row `(1, B)` of segments into columns `(B, width)`, exact up to 2^24."""
  wide = jnp.broadcast_to(row.astype(jnp.float32), (128, row.shape[1])).T
  return jnp.tile(wide, (1, width // 128))


def dot(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
  """Product over one axis of each, summed in float32; full precision for float32."""
  precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
  return jax.lax.dot_general(
    a,
    b,
    (((contract[0],), (contract[1],)), ((), ())),
    precision=precision,
    preferred_element_type=jnp.float32,
  )


def _kernel(
  first_ref,
  last_ref,
  whole_ref,
  key_whole_ref,
  q_ref,
  k_ref,
  v_ref,
  segments_ref,
  key_segments_ref,
  out_ref,
  lse_ref,
  visits_ref,
  most_ref,
  sum_ref,
  acc_ref,
  *,
  sizes: Sizes,
  scale: float,
):
  r, i, c = pl.program_id(0), pl.program_id(2), pl.program_id(3)
  per_chunk = sizes.chunk // sizes.key_block

  @pl.when(c == 0)
  def _():
    most_ref[...] = jnp.full_like(most_ref, NO_KEYS)
    sum_ref[...] = jnp.zeros_like(sum_ref)
    acc_ref[...] = jnp.zeros_like(acc_ref)
    visits_ref[...] = jnp.zeros_like(visits_ref)

  def visit(j, masked: bool):
    here = pl.ds(pl.multiple_of(j * sizes.key_block, sizes.key_block), sizes.key_block)
    scores = scale * dot(k_ref[here, :], q_ref[...], (1, 1))  # keys x queries
    if masked:
      keys = column(key_segments_ref[:, here], sizes.block)
      seen = keys == segments_ref[...].astype(jnp.float32)
      seen &= segments_ref[...] > 0
      scores = jnp.where(seen, scores, NO_KEYS)
    most = jnp.maximum(most_ref[...], scores.max(0, keepdims=True))
    old = jnp.exp(most_ref[...] - most)
    weights = jnp.exp(scores - most)
    most_ref[...] = most
    sum_ref[...] = sum_ref[...] * old + weights.sum(0, keepdims=True)
    v = v_ref[here, :]
    acc_ref[...] = acc_ref[...] * old + dot(v, weights.astype(v.dtype), (0, 0))

  def body(j, count):
    one_segment = whole_ref[r, i] == key_whole_ref[r, c * per_chunk + j]
    pl.when(one_segment)(lambda: visit(j, False))
    pl.when(jnp.logical_not(one_segment))(lambda: visit(j, True))
    return count + 1

  low, high = bounds_in(r, i, c, first_ref, last_ref, per_chunk)
  visits_ref[...] += jax.lax.fori_loop(low, high, body, 0)

  @pl.when(c == pl.num_programs(3) - 1)
  def _():
    # A query that saw no key has scores of -1e30, whose weights count as none.
    some = most_ref[...] > NO_KEYS / 2
    total = jnp.where(some, sum_ref[...], 1.0)
    share = jnp.where(some, 1.0 / total, 0.0)
    out_ref[...] = (acc_ref[...] * share).T.astype(out_ref.dtype)
    lse_ref[...] = jnp.where(some, most_ref[...] + jnp.log(total), NO_KEYS)
