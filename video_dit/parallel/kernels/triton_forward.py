"""Flash attention over a block map, as a Pallas kernel for Triton: the forward pass.

Online softmax (Dao et al., 2022, arXiv:2205.14135, algorithm 1); each program has one
block of queries of one head. It first visits the run of key blocks that hold only the
block's own segment and need no mask, then the blocks around it. Exponentials are base 2.
"""

from collections.abc import Callable
import functools
import math

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from video_dit.parallel.kernels import blocks
from video_dit.parallel.kernels.dense import NO_KEYS
from video_dit.parallel.kernels.triton_sizes import Sizes

LOG2E = math.log2(math.e)


def forward(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  *,
  scale: float,
  sizes: Sizes,
  interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The kernel on padded arrays.

  Args:
    q, k, v: `(R, N, A, K)` and `(R, M, A, K)`, K a power of two.
    segments_RN, key_segments_RM: padded with 0 like them.
    scale: of the scores.
    sizes: its `block` divides N, its `other` M.
    interpret: run it as plain JAX.

  Returns:
    Output `(R, N, A, K)`, log-sum-exp `(R, A, N)`, and the key blocks that were visited,
    counted in the loops, `(R, A, I)`.
  """
  call = Call(q, k, segments_RN, key_segments_RM, sizes)
  rows, length, heads, _ = q.shape
  out, lse, visits = pl.pallas_call(
    functools.partial(
      _kernel,
      scale=scale * LOG2E,
      size=sizes.other,
      dot=functools.partial(dot, interpret=interpret),
    ),
    grid=call.grid,
    in_specs=[
      *(call.runs_spec, call.mine, call.theirs, call.theirs),
      *(call.my_segments, call.their_segments),
    ],
    out_specs=[call.mine, call.my_row, call.visits],
    out_shape=[
      jax.ShapeDtypeStruct(q.shape, q.dtype),
      jax.ShapeDtypeStruct((rows, heads, length), jnp.float32),
      call.visits_shape,
    ],
    compiler_params=compiler(sizes),
    interpret=interpret,
    name="packed_attention_forward",
  )(call.runs, q, k, v, segments_RN, key_segments_RM)
  return out, lse, visits[0]


class Call:
  """Grid, runs and specs of a kernel with blocks of `x`, looping over those of `y`.

  Args:
    parts: programs that share the visits of a block, in the last axis of the grid.
  """

  def __init__(self, x, y, segments_RN, other_segments_RM, sizes: Sizes, parts: int = 1):
    rows, length, heads, head = x.shape
    others, count = y.shape[1], length // sizes.block

    def spec(shape, place):
      def of_step(i, a, step):
        return place(i, a, jax.lax.div(step, parts), jax.lax.rem(step, parts))

      return pl.BlockSpec(shape, of_step)

    self.grid = (count, heads, rows * parts)
    self.runs = blocks.runs(segments_RN, other_segments_RM, sizes.block, sizes.other)
    self.runs_spec = spec((None, None, 4), lambda i, a, r, p: (r, i, 0))
    wide = (None, sizes.block, None, head)
    self.mine = spec(wide, lambda i, a, r, p: (r, i, a, 0))
    self.my_part = spec((None, *wide), lambda i, a, r, p: (p, r, i, a, 0))
    self.theirs = spec((None, others, None, head), lambda i, a, r, p: (r, 0, a, 0))
    self.my_row = spec((None, None, sizes.block), lambda i, a, r, p: (r, a, i))
    self.their_row = spec((None, None, others), lambda i, a, r, p: (r, a, 0))
    self.my_segments = spec((None, sizes.block), lambda i, a, r, p: (r, i))
    self.their_segments = spec((None, others), lambda i, a, r, p: (r, 0))
    self.visits = spec((None, None, None, 1), lambda i, a, r, p: (p, r, a, i))
    self.visits_shape = jax.ShapeDtypeStruct((parts, rows, heads, count), jnp.int32)


def compiler(sizes: Sizes):
  """Triton's parameters."""
  # Imported where it is used: JAX announces that a later version will drop it.
  from jax.experimental.pallas import triton

  return triton.CompilerParams(num_warps=sizes.warps, num_stages=sizes.stages)


def visit_runs(runs_ref, visit, carry, size: int, parts: int = 1):
  """Calls `visit(slice, carry, masked)` for the blocks in the runs, or a part of them.

  Returns:
    The last carry, and the blocks visited.
  """
  first, whole, past, last = (runs_ref[n] for n in range(4))

  def unmasked(j, state):
    carry, count = state
    return visit(pl.ds(j * size, size), carry, False), count + 1

  def masked(n, state):
    carry, count = state
    j = first + n
    j += jnp.where(j >= whole, past - whole, 0)
    return visit(pl.ds(j * size, size), carry, True), count + 1

  part = jax.lax.rem(pl.program_id(2), parts)

  def loop(start, count, body, state):
    low = start + jax.lax.div(count * part, parts)
    high = start + jax.lax.div(count * (part + 1), parts)
    return jax.lax.fori_loop(low, high, body, state)

  state = loop(whole, past - whole, unmasked, (carry, jnp.int32(0)))
  return loop(0, (last - first) - (past - whole), masked, state)


def dot(a: jax.Array, b: jax.Array, interpret: bool) -> jax.Array:
  """Matrix product, summed in float32.

  A float32 product is three of TensorFloat-32: full float32 would not use the matrix
  units, and its operands would not fit the registers.
  """
  precision: jax.lax.PrecisionLike = None
  if a.dtype == jnp.float32:
    whole, thrice = jax.lax.Precision.HIGHEST, jax.lax.DotAlgorithmPreset
    precision = whole if interpret else thrice.TF32_TF32_F32_X3
  return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def seen(mine: jax.Array, theirs: jax.Array) -> jax.Array:
  """Pairs of the same segment, padding excluded."""
  return (mine[:, None] == theirs[None, :]) & (mine > 0)[:, None]


def _kernel(
  runs_ref,
  q_ref,
  k_ref,
  v_ref,
  segments_ref,
  key_segments_ref,
  out_ref,
  lse_ref,
  visits_ref,
  *,
  scale: float,
  size: int,
  dot: Callable[[jax.Array, jax.Array], jax.Array],
):
  q, segments = q_ref[...], segments_ref[...]

  def visit(here, carry, masked: bool):
    most, total, acc = carry
    scores = dot(q, k_ref[here, :].T)
    if masked:
      scores = jnp.where(seen(segments, key_segments_ref[here]), scores, NO_KEYS)
    new = jnp.maximum(most, scores.max(-1))
    old = jnp.exp2((most - new) * scale)
    weights = jnp.exp2(scores * scale - (new * scale)[:, None])
    v = v_ref[here, :]
    acc = acc * old[:, None] + dot(weights.astype(v.dtype), v)
    return new, total * old + weights.sum(-1), acc

  most = jnp.full(q.shape[:1], NO_KEYS, jnp.float32)
  carry = most, jnp.zeros_like(most), jnp.zeros(q.shape, jnp.float32)
  (most, total, acc), count = visit_runs(runs_ref, visit, carry, size)
  # A query that saw no key has scores of -1e30, whose weights count as none.
  some = most > NO_KEYS / 2
  total = jnp.where(some, total, 1.0)
  out_ref[...] = (acc * jnp.where(some, 1.0 / total, 0.0)[:, None]).astype(out_ref.dtype)
  lse = (most * scale + jnp.log2(total)) * (1 / LOG2E)
  lse_ref[...] = jnp.where(some, lse, NO_KEYS)
  visits_ref[0] = count
