"""What a loss returns to the step: totals that add up over micro-batches."""

import dataclasses

import jax

Totals = dict[str, tuple[jax.Array, jax.Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums:
  """Totals of one batch; those of several batches add up.

  Attributes:
    loss: float32, sum of weighted losses; this is what is differentiated.
    weight: sum of the weights; free of parameters.
    means: name to (total, weight) of further means.
    counts: name to amount.
  """

  loss: jax.Array
  weight: jax.Array
  means: Totals
  counts: dict[str, jax.Array]
