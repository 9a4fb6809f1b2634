"""Flash attention over a block map, as Pallas kernels for Triton: the backward pass.

Weights are recomputed from the log-sum-exp (Dao et al., 2022, arXiv:2205.14135,
algorithm 4). With S the scores, P = exp(S - lse) and dP = dO V', a score's gradient is
dS = P (dP - delta). One kernel has blocks of queries, dQ = dS K, the other blocks of
keys, dV = P' dO and dK = dS' Q: both compute the weights, and neither adds to another
program's output.
"""

from collections.abc import Callable
import functools

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from video_dit.parallel.kernels.triton_forward import (
  LOG2E,
  Call,
  compiler,
  dot,
  seen,
  visit_runs,
)
from video_dit.parallel.kernels.triton_sizes import Sizes


def of_queries(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  lse_RAN: jax.Array,
  delta_RAN: jax.Array,
  dout: jax.Array,
  *,
  scale: float,
  sizes: Sizes,
  interpret: bool,
) -> tuple[jax.Array, jax.Array]:
  """The gradient of the queries.

  Args:
    q, k, v, segments_RN, key_segments_RM, scale, interpret: as of `forward`.
    lse_RAN, delta_RAN: float32; where a query sees nothing, `lse` is so large that every
      weight is 0.
    dout: cotangent of the output, like `q`.
    sizes: its `block` divides N, its `other` M.

  Returns:
    `(R, N, A, K)`, and the key blocks visited, `(R, A, I)`.
  """
  call = Call(q, k, segments_RN, key_segments_RM, sizes)
  dq, visits = pl.pallas_call(
    functools.partial(
      _queries_kernel,
      scale=scale,
      size=sizes.other,
      dot=functools.partial(dot, interpret=interpret),
    ),
    grid=call.grid,
    in_specs=[
      *(call.runs_spec, call.mine, call.mine, call.my_row, call.my_row),
      *(call.my_segments, call.theirs, call.theirs, call.their_segments),
    ],
    out_specs=[call.mine, call.visits],
    out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), call.visits_shape],
    compiler_params=compiler(sizes),
    interpret=interpret,
    name="packed_attention_backward_queries",
  )(call.runs, q, dout, lse_RAN, delta_RAN, segments_RN, k, v, key_segments_RM)
  return dq, visits[0]


def of_keys(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  lse_RAN: jax.Array,
  delta_RAN: jax.Array,
  dout: jax.Array,
  *,
  scale: float,
  sizes: Sizes,
  parts: int,
  interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The gradients of the keys and the values.

  Args:
    sizes: its `block` divides M, its `other` N. Others as of `of_queries`.
    parts: programs that share the queries of a block of keys. A text has few blocks of
      keys, and a GPU many cores.

  Returns:
    Two of `(R, M, A, K)`, and the query blocks visited, `(R, A, J)`.
  """
  call = Call(k, q, key_segments_RM, segments_RN, sizes, parts)
  dtype = k.dtype if parts == 1 else jnp.float32
  like_k = jax.ShapeDtypeStruct((parts, *k.shape), dtype)
  dk, dv, visits = pl.pallas_call(
    functools.partial(
      _keys_kernel,
      scale=scale,
      size=sizes.other,
      parts=parts,
      dot=functools.partial(dot, interpret=interpret),
    ),
    grid=call.grid,
    in_specs=[
      *(call.runs_spec, call.mine, call.mine, call.my_segments),
      *(call.theirs, call.theirs, call.their_row, call.their_row, call.their_segments),
    ],
    out_specs=[call.my_part, call.my_part, call.visits],
    out_shape=[like_k, like_k, call.visits_shape],
    compiler_params=compiler(sizes),
    interpret=interpret,
    name="packed_attention_backward_keys",
  )(call.runs, k, v, key_segments_RM, q, dout, lse_RAN, delta_RAN, segments_RN)
  return dk.sum(0), dv.sum(0), visits.sum(0)


def _queries_kernel(
  runs_ref,
  q_ref,
  dout_ref,
  lse_ref,
  delta_ref,
  segments_ref,
  k_ref,
  v_ref,
  key_segments_ref,
  dq_ref,
  visits_ref,
  *,
  scale: float,
  size: int,
  dot: Callable[[jax.Array, jax.Array], jax.Array],
):
  q, dout, segments = q_ref[...], dout_ref[...], segments_ref[...]
  lse, delta = lse_ref[...] * LOG2E, delta_ref[...]

  def visit(here, dq, masked: bool):
    k = k_ref[here, :]
    weights = jnp.exp2(dot(q, k.T) * (scale * LOG2E) - lse[:, None])
    if masked:
      weights = jnp.where(seen(segments, key_segments_ref[here]), weights, 0.0)
    of_scores = weights * (dot(dout, v_ref[here, :].T) - delta[:, None])
    return dq + dot(of_scores.astype(k.dtype), k)

  dq, count = visit_runs(runs_ref, visit, jnp.zeros(q.shape, jnp.float32), size)
  dq_ref[...] = (dq * scale).astype(dq_ref.dtype)
  visits_ref[0] = count


def _keys_kernel(
  runs_ref,
  k_ref,
  v_ref,
  key_segments_ref,
  q_ref,
  dout_ref,
  lse_ref,
  delta_ref,
  segments_ref,
  dk_ref,
  dv_ref,
  visits_ref,
  *,
  scale: float,
  size: int,
  parts: int,
  dot: Callable[[jax.Array, jax.Array], jax.Array],
):
  k, v, key_segments = k_ref[...], v_ref[...], key_segments_ref[...]

  def visit(here, carry, masked: bool):
    dk, dv = carry
    q, dout = q_ref[here, :], dout_ref[here, :]
    lse = lse_ref[here] * LOG2E
    weights = jnp.exp2(dot(k, q.T) * (scale * LOG2E) - lse[None, :])  # keys x queries
    if masked:
      weights = jnp.where(seen(key_segments, segments_ref[here]), weights, 0.0)
    dv += dot(weights.astype(dout.dtype), dout)
    of_scores = weights * (dot(v, dout.T) - delta_ref[here][None, :])
    return dk + dot(of_scores.astype(q.dtype), q), dv

  zeros = jnp.zeros(k.shape, jnp.float32)
  (dk, dv), count = visit_runs(runs_ref, visit, (zeros, zeros), size, parts)
  dk_ref[...] = (dk * scale).astype(dk_ref.dtype)
  dv_ref[...] = dv.astype(dv_ref.dtype)
  visits_ref[0] = count
