"""The state of a training run."""

import dataclasses
from typing import Any

import jax

Params = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
  """All that a resumed run needs besides its position in the data.

  Attributes:
    step: int32 scalar, steps taken; a skipped update is a step too.
    params: float32 parameters, nested by module.
    ema: their moving average, of the same shapes; never the same buffers.
    opt: the optimiser's state (optax).
  """

  step: jax.Array
  params: Params
  ema: Params
  opt: Any
