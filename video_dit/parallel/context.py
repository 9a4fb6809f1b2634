"""Attention within segments when the tokens of a row are split over `context`.

Two ways for a query to meet the keys of other devices, and both together:

- *Trading tokens for heads* (DeepSpeed-Ulysses, Jacobs et al., 2023, arXiv:2309.14509):
  `heads` devices exchange, all to all, so that each holds the tokens of all of them for
  its share of the heads.
- *A ring* (Ring Attention, Liu et al., 2023, arXiv:2310.01889): keys and values travel
  around `ring` groups of devices, and each block's results are merged by their
  log-sum-exp. A block is transferred while the one before it is processed. The backward
  pass is a ring too: the gradients of keys and values follow them around, and no device
  ever holds more than two blocks.

The context axis is `ring` groups of `heads` neighbours. A row's tokens are dealt to the
groups so that work is even (stripes.py) and in order, so that kernels see each segment as
one run and skip the blocks that share none.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

import einops
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from video_dit.parallel.kernels.dense import NO_KEYS
from video_dit.parallel.local import SAVED, local_attention, local_gradients
from video_dit.parallel.partition import ROWS

AXIS = "context"

_TOKENS = PartitionSpec(ROWS, AXIS, "tensor")
_SEGMENTS = PartitionSpec(ROWS, AXIS)
_BY_HEAD = PartitionSpec(ROWS, "tensor", AXIS)


@dataclasses.dataclass(frozen=True)
class Split:
  """How a context axis of `heads * ring` devices is used.

  Attributes:
    heads: neighbouring devices that trade tokens for heads.
    ring: groups of such devices, around which keys and values travel.
  """

  heads: int
  ring: int


def split(mode: str, heads: int, tensor: int, context: int) -> Split | None:
  """Divides the context axis as a mode says.

  Args:
    mode: `config.dit.context`.
    heads: of the model.
    tensor, context: sizes of the mesh axes.

  Returns:
    The split; None where keys and values are gathered.

  Raises:
    ValueError: the heads of a device do not divide as the mode needs.
  """
  if mode == "gather":
    return None
  own = heads // tensor
  common = math.gcd(own, context)
  where = (
    f"config.dit.context={mode!r}: the {own} heads of a device (dit.heads={heads} over"
    f" tensor={tensor})"
  )
  if mode == "ring":
    return Split(1, context)
  if mode == "all_to_all" and common != context:
    raise ValueError(
      f"{where} do not divide over context={context}. Choose 'both', 'ring' or 'auto',"
      f" a number of heads that is a multiple of {tensor * context}, or a mesh with less"
      " tensor or context."
    )
  if mode == "both":
    # The most heads that leave a ring of two.
    shares = [n for n in range(2, context) if common % n == 0 and context % n == 0]
    if not shares and context > 1:
      raise ValueError(
        f"{where} and context={context} leave no group of devices that could trade"
        " heads within a ring of several. Choose 'auto', 'ring' or 'all_to_all', or"
        " sizes with a common divisor below context."
      )
    common = max(shares, default=1)
  return Split(common, context // common)


def attention(
  q_RNAK: jax.Array,
  k_RNAK: jax.Array,
  v_RNAK: jax.Array,
  segments_RN: jax.Array,
  *,
  parts: Split,
  kernel: str = "auto",
) -> jax.Array:
  """Self-attention within segments over the context axis of the mesh in use.

  Args:
    q_RNAK, k_RNAK, v_RNAK: queries, keys and values, tokens dealt by `Deal`.
    segments_RN: their segments.
    parts: how the axis is used.
    kernel: of one device, as `local_attention` takes it.

  Returns:
    `(R, N, A, K)` in the queries' dtype.
  """
  mesh = jax.sharding.get_abstract_mesh()
  forward = functools.partial(local_attention, kernel=kernel)
  gradients = functools.partial(local_gradients, kernel=kernel)

  def ahead(q, k, v, segments):
    q, k, v = (_to_heads(x, parts) for x in (q, k, v))
    out, lse = _ring_forward(q, k, v, _whole(segments, parts), parts, forward)
    # Heads before tokens: the last axis is the long one, which needs no padding.
    lse_RAN = einops.rearrange(_to_tokens(lse, parts), "r n a -> r a n")
    return _to_tokens(out.astype(q.dtype), parts), lse_RAN

  def back(q, k, v, segments, out, lse_RAN, dout):
    delta = jnp.sum(out.astype(jnp.float32) * dout.astype(jnp.float32), -1)
    lse = einops.rearrange(lse_RAN, "r a n -> r n a")
    q, k, v, lse, delta, dout = (_to_heads(x, parts) for x in (q, k, v, lse, delta, dout))
    found = _ring_backward(
      q, k, v, _whole(segments, parts), lse, delta, dout, parts, gradients
    )
    return tuple(
      _to_tokens(d.astype(x.dtype), parts) for d, x in zip(found, (q, k, v), strict=True)
    )

  rows = (_TOKENS, _TOKENS, _TOKENS, _SEGMENTS)
  run_ahead: Callable[..., Any] = jax.shard_map(
    ahead, mesh=mesh, in_specs=rows, out_specs=(_TOKENS, _BY_HEAD), check_vma=False
  )
  run_back: Callable[..., Any] = jax.shard_map(
    back,
    mesh=mesh,
    in_specs=(*rows, _TOKENS, _BY_HEAD, _TOKENS),
    out_specs=(_TOKENS,) * 3,
    check_vma=False,
  )

  @jax.custom_vjp
  def attend(q, k, v, segments):
    return run_ahead(q, k, v, segments)[0]

  def attend_forward(q, k, v, segments):
    out, lse = run_ahead(q, k, v, segments)
    out, lse = checkpoint_name(out, SAVED), checkpoint_name(lse, SAVED)
    return out, (q, k, v, segments, out, lse)

  def attend_backward(saved, dout):
    return *run_back(*saved, dout), None

  attend.defvjp(attend_forward, attend_backward)
  return attend(q_RNAK, k_RNAK, v_RNAK, segments_RN)


def _groups(parts: Split) -> list[list[int]]:
  """The devices of the context axis that trade with each other."""
  return [[g * parts.heads + i for i in range(parts.heads)] for g in range(parts.ring)]


def _trade(x: jax.Array, parts: Split, cut: int, join: int) -> jax.Array:
  if parts.heads == 1:
    return x
  return jax.lax.all_to_all(
    x, AXIS, cut, join, axis_index_groups=_groups(parts), tiled=True
  )


def _to_heads(x_RNA: jax.Array, parts: Split) -> jax.Array:
  """All tokens of a group for a share of the heads, from a share for all heads."""
  return _trade(x_RNA, parts, 2, 1)


def _to_tokens(x_RNA: jax.Array, parts: Split) -> jax.Array:
  """Undoes `_to_heads`."""
  return _trade(x_RNA, parts, 1, 2)


def _whole(segments_RN: jax.Array, parts: Split) -> jax.Array:
  """Segments of all tokens of a group."""
  if parts.heads == 1:
    return segments_RN
  return jax.lax.all_gather(
    segments_RN, AXIS, axis=1, axis_index_groups=_groups(parts), tiled=True
  )


def _ring_forward(q, k, v, segments, parts: Split, forward):
  """Output and log-sum-exp over the keys of every group of the ring."""
  if parts.ring == 1:
    return forward(q, k, v, segments, segments)

  def turn(carry, _):
    (k, v, key_segments), (out, lse) = carry
    following = _pass((k, v, key_segments), parts)
    found = forward(q, k, v, segments, key_segments)
    following, found = _at_once(following, found)
    return (following, _merge(out, lse, *found)), None

  out = jnp.zeros(q.shape, jnp.float32)
  lse = jnp.full(q.shape[:3], NO_KEYS, jnp.float32)
  (_, found), _ = jax.lax.scan(turn, ((k, v, segments), (out, lse)), length=parts.ring)
  return found


def _ring_backward(q, k, v, segments, lse, delta, dout, parts: Split, gradients):
  """Gradients of queries, keys and values; those of keys end where they began."""
  if parts.ring == 1:
    return gradients(q, k, v, segments, segments, lse, delta, dout)

  def turn(carry, _):
    (k, v, key_segments), (dk, dv), dq = carry
    following = _pass((k, v, key_segments), parts)
    # Sums one step old: they arrive with the keys that they belong to, while those
    # keys' new share is computed.
    sums = _pass((dk, dv), parts)
    found = gradients(q, k, v, segments, key_segments, lse, delta, dout)
    (following, (dk, dv)), found = _at_once((following, sums), found)
    dq, dk, dv = (
      total + new.astype(jnp.float32)
      for total, new in zip((dq, dk, dv), found, strict=True)
    )
    return (following, (dk, dv), dq), None

  dq, dk, dv = (jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
  (_, sums, dq), _ = jax.lax.scan(
    turn, ((k, v, segments), (dk, dv), dq), length=parts.ring
  )
  return dq, *_pass(sums, parts)


def _pass(blocks, parts: Split):
  """Passes blocks to the same position in the next group."""
  size = parts.ring * parts.heads
  pairs = [(i, (i + parts.heads) % size) for i in range(size)]
  return jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, pairs), blocks)


def _at_once(sent, found):
  """Makes what is sent arrive before what was computed is used.

  Else the TPU scheduler starts a transfer after the kernel, where only the little that
  follows can hide it.
  """
  return jax.lax.optimization_barrier((sent, found))


def _merge(out_RNAK, lse_RNA, more_RNAK, more_lse_RNA):
  """Attention over two disjoint sets of keys, from the results over each."""
  top = jnp.maximum(lse_RNA, more_lse_RNA)
  weight, more = jnp.exp(lse_RNA - top), jnp.exp(more_lse_RNA - top)
  total = weight + more
  out = out_RNAK * (weight / total)[..., None]
  out += more_RNAK.astype(jnp.float32) * (more / total)[..., None]
  seen = top > 0.5 * NO_KEYS
  return out, jnp.where(seen, top + jnp.log(total), NO_KEYS)
