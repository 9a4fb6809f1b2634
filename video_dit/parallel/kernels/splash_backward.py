"""Flash attention over a block map, as a Pallas kernel for TPU: the backward pass.

Weights are recomputed from the log-sum-exp (Dao et al., 2022, arXiv:2205.14135,
algorithm 4). With S the scores, P = exp(S - lse) and dP = dO V', a score's gradient is
dS = P (dP - delta). Each grid step has a block of keys and loops over the queries:
dV = P' dO, dK = dS' Q, and, summed in VMEM over the blocks of keys, dQ = dS K.
"""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from video_dit.parallel.kernels import blocks
from video_dit.parallel.kernels.dense import NO_KEYS
from video_dit.parallel.kernels.splash_forward import bounds_in, chunk_of, column, dot
from video_dit.parallel.kernels.splash_sizes import Sizes, cost


def gradients(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  lse: jax.Array,
  delta: jax.Array,
  dout: jax.Array,
  *,
  sizes: Sizes,
  scale: float,
  dtype: jax.typing.DTypeLike,
  interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """The gradients of the keys, the values and the queries.

  Args:
    q, k, v, segments_RN, key_segments_RM, scale, interpret: as of `forward`.
    lse, delta: `(R, A, 1, N)` float32; where a query sees nothing, `lse` is so large that
      every weight is 0.
    dout: cotangent of the output, like `q`.
    sizes: its `block` cuts keys, its `key_block` queries; its `chunk` is all queries.
    dtype: of the keys' and values' gradients.

  Returns:
    Two of `(R, A, M, K)`, one of `(R, A, N, K)`, and the query blocks visited,
    `(R, A, J, 1, 1)`.
  """
  call = _Call(k, q, key_segments_RM, segments_RN, sizes)
  mine, theirs, their_row = call.mine, call.theirs, call.their_row
  assert sizes.chunk == q.shape[2], (sizes, q.shape)
  like_k = jax.ShapeDtypeStruct(k.shape, dtype)
  scratch = [pltpu.VMEM((sizes.block, sizes.head), jnp.float32)] * 2
  scratch.append(pltpu.VMEM((sizes.head, sizes.chunk), jnp.float32))
  return pl.pallas_call(
    functools.partial(_keys_kernel, sizes=sizes, scale=scale),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=4,
      grid=call.grid,
      in_specs=[
        *(mine, mine, call.my_segments),
        *(theirs, theirs, their_row, their_row, call.their_segments),
      ],
      out_specs=[mine, mine, theirs, call.visits],
      scratch_shapes=scratch,
    ),
    out_shape=[
      *(like_k, like_k, jax.ShapeDtypeStruct(q.shape, q.dtype), call.visits_shape)
    ],
    # All blocks of keys add to one sum, the queries' gradient.
    compiler_params=sizes.compiler("parallel", "parallel", "arbitrary", "arbitrary"),
    cost_estimate=cost(q, k, products=5, arrays=3),
    interpret=interpret,
    name="packed_attention_backward",
  )(
    *call.scalars,
    *(k, v, key_segments_RM[:, None]),
    *(q, dout, lse, delta, segments_RN[:, None]),
  )


class _Call:
  """Grid, block map and specs of a pass whose blocks are `x`'s, looping over `y`."""

  def __init__(self, x, y, segments_RN, other_segments_RM, sizes: Sizes):
    rows, heads, length, _ = x.shape
    num_blocks = length // sizes.block
    per_chunk = sizes.chunk // sizes.key_block
    self.grid = (rows, heads, num_blocks, y.shape[2] // sizes.chunk)
    found = blocks.block_map(segments_RN, other_segments_RM, sizes.block, sizes.key_block)
    whole = blocks.whole(segments_RN, sizes.block, -1)
    other_whole = blocks.whole(other_segments_RM, sizes.key_block, -2)
    self.scalars = (found.first_RI, found.last_RI, whole, other_whole)

    def chunk(r, i, c, first, last):
      return chunk_of(r, i, c, first, last, per_chunk)

    one = pl.Buffered(1)  # a chunk stays for many grid steps: no second buffer
    self.mine = pl.BlockSpec(
      (None, None, sizes.block, sizes.head), lambda r, a, i, c, *_: (r, a, i, 0)
    )

    self.my_segments = pl.BlockSpec(
      (None, 1, sizes.block), lambda r, a, i, c, *_: (r, 0, i)
    )
    self.theirs = pl.BlockSpec(
      (None, None, sizes.chunk, sizes.head),
      lambda r, a, i, c, first, last, *_: (r, a, chunk(r, i, c, first, last), 0),
      pipeline_mode=one if self.grid[3] == 1 else None,
    )
    self.their_row = pl.BlockSpec(
      (None, None, 1, sizes.chunk),
      lambda r, a, i, c, first, last, *_: (r, a, 0, chunk(r, i, c, first, last)),
    )
    self.their_segments = pl.BlockSpec(
      (None, 1, sizes.chunk),
      lambda r, a, i, c, first, last, *_: (r, 0, chunk(r, i, c, first, last)),
    )
    self.visits = pl.BlockSpec(
      (None, None, None, 1, 1), lambda r, a, i, c, *_: (r, a, i, 0, 0)
    )
    self.visits_shape = jax.ShapeDtypeStruct((rows, heads, num_blocks, 1, 1), jnp.int32)


def _weights(q, k, lse, seen, scale: float):
  """Weights, keys x queries, from the log-sum-exp of the queries, a row."""
  scores = scale * dot(k, q, (1, 1))
  scores = scores if seen is None else jnp.where(seen, scores, NO_KEYS)
  return jnp.exp(scores - lse)


def _loop(scalar_refs, visits_ref, sizes: Sizes, visit):
  """Calls `visit(slice, masked)` for the blocks of this chunk that the map names."""
  first_ref, last_ref, whole_ref, other_whole_ref = scalar_refs
  r, i, c = pl.program_id(0), pl.program_id(2), pl.program_id(3)
  per_chunk, size = sizes.chunk // sizes.key_block, sizes.key_block

  def body(j, count):
    here = pl.ds(pl.multiple_of(j * size, size), size)
    one_segment = whole_ref[r, i] == other_whole_ref[r, c * per_chunk + j]
    pl.when(one_segment)(lambda: visit(here, False))
    pl.when(jnp.logical_not(one_segment))(lambda: visit(here, True))
    return count + 1

  low, high = bounds_in(r, i, c, first_ref, last_ref, per_chunk)
  visits_ref[...] += jax.lax.fori_loop(low, high, body, 0)


def _keys_kernel(*refs, sizes: Sizes, scale: float):
  scalars, mine, theirs, results = refs[:4], refs[4:7], refs[7:12], refs[12:16]
  k_ref, v_ref, key_segments_ref = mine
  q_ref, dout_ref, lse_ref, delta_ref, segments_ref = theirs
  dk_ref, dv_ref, dq_ref, visits_ref = results
  dk_acc_ref, dv_acc_ref, dq_acc_ref = refs[16:]
  j = pl.program_id(2)
  dk_acc_ref[...] = jnp.zeros_like(dk_acc_ref)
  dv_acc_ref[...] = jnp.zeros_like(dv_acc_ref)
  visits_ref[...] = jnp.zeros_like(visits_ref)

  @pl.when(j == 0)
  def _():
    dq_acc_ref[...] = jnp.zeros_like(dq_acc_ref)

  def visit(here, masked: bool):
    q, dout = q_ref[here, :], dout_ref[here, :]
    seen = None
    if masked:
      queries = segments_ref[:, here]
      seen = column(key_segments_ref[...], sizes.key_block) == queries.astype(jnp.float32)
      seen &= queries > 0
    weights = _weights(q, k_ref[...], lse_ref[:, here], seen, scale)
    dv_acc_ref[...] += dot(weights.astype(dout.dtype), dout, (1, 0))
    of_scores = weights * (dot(v_ref[...], dout, (1, 1)) - delta_ref[:, here])
    of_scores = of_scores.astype(q.dtype)
    dk_acc_ref[...] += dot(of_scores, q, (1, 0))
    dq_acc_ref[:, here] += dot(k_ref[...], of_scores, (0, 0))

  _loop(scalars, visits_ref, sizes, visit)
  dk_ref[...] = (scale * dk_acc_ref[...]).astype(dk_ref.dtype)
  dv_ref[...] = dv_acc_ref[...].astype(dv_ref.dtype)

  @pl.when(j == pl.num_programs(2) - 1)
  def _():
    def write(n, _):
      here = pl.ds(pl.multiple_of(n * sizes.key_block, sizes.key_block), sizes.key_block)
      dq_ref[here, :] = (scale * dq_acc_ref[:, here]).T.astype(dq_ref.dtype)
      return 0

    jax.lax.fori_loop(0, sizes.chunk // sizes.key_block, write, 0)
