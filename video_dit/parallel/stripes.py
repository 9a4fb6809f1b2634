"""Which tokens of a row each group of a ring holds: stripes, dealt in turn.

If each group had one run of the row, the group with the longest segment would work
longest, and in most steps of the ring some groups would have all the work and others
none. With stripes, each has its part of every long segment. A stripe is as long as a
kernel's block: shorter ones are more even, but blocks that hold stripes of many segments
visit more others (docs/performance.md, "Long rows").
"""

import einops
import jax

from video_dit.parallel import context
from video_dit.parallel.partition import constrain

STRIPE = 512  # tokens of a stripe where rows are long: a block of the kernels
_STRIPES = 8  # minimum stripes per group, if it has the tokens


class Deal:
  """How the tokens of rows are dealt on the mesh in use, for a model to query.

  Args:
    mode: `config.dit.context`.
    heads: of the model.
  """

  def __init__(self, mode: str, heads: int):
    mesh = jax.sharding.get_abstract_mesh()
    self.ring = 1
    if not mesh.empty and mesh.shape[context.AXIS] > 1:
      found = context.split(mode, heads, mesh.shape["tensor"], mesh.shape[context.AXIS])
      self.ring = found.ring if found else 1

  def tokens(self, x_RN: jax.Array) -> jax.Array:
    """Deals the tokens of rows, axis 1."""
    return stripe(x_RN, self.ring)

  def back(self, x_RN: jax.Array) -> jax.Array:
    """Puts dealt tokens back into their rows' order."""
    return unstripe(x_RN, self.ring)


def stripe_tokens(length: int, ring: int) -> int:
  """Tokens of a stripe: a power of two that deals a row evenly to the groups."""
  size = STRIPE
  while size > 1 and (length % (ring * size) or length < ring * size * _STRIPES):
    size //= 2
  return size


def stripe(x_RN: jax.Array, ring: int) -> jax.Array:
  """Deals the tokens of rows, axis 1, to the groups of a ring by stripes, in turn.

  Each group gets its part of every long segment, so that all have equal work in every
  step of the ring; within a group tokens keep their order.
  """
  if ring == 1:
    return x_RN
  size = stripe_tokens(x_RN.shape[1], ring)
  return _laid(einops.rearrange(x_RN, "r (n w b) ... -> r (w n b) ...", w=ring, b=size))


def unstripe(x_RN: jax.Array, ring: int) -> jax.Array:
  """Undoes `stripe`."""
  if ring == 1:
    return x_RN
  size = stripe_tokens(x_RN.shape[1], ring)
  return _laid(einops.rearrange(x_RN, "r (w n b) ... -> r (n w b) ...", w=ring, b=size))


def _laid(x_RN: jax.Array) -> jax.Array:
  return constrain(x_RN, "rows", "tokens", *(None,) * (x_RN.ndim - 2))
