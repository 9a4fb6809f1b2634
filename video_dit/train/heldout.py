"""The held-out loss by noise level: the averaged weights on the same data every time.

Noise and data are fixed, so two values of one run differ by the weights alone.
"""

from collections.abc import Callable

import jax
import numpy as np

from video_dit.checkpoints.state import Params
from video_dit.train.objective import Objective
from video_dit.trainer.step import Trainer
from video_dit.trainer.sums import Sums


class HeldOut:
  """Measures a run's held-out loss; compiled once.

  Args:
    trainer: of the run.
    batches: maximum number of batches to evaluate.
  """

  def __init__(self, trainer: Trainer, batches: int):
    self._objective: Objective = trainer.objective
    self._mesh, self._num = trainer.mesh, batches

    def measure(params: Params, batch, level: jax.Array) -> Sums:
      return self._objective.heldout(trainer.model(params), batch, level)

    self._measure: Callable[..., Sums] = jax.jit(
      measure,
      in_shardings=(
        trainer.shardings.params,
        self._objective.layout(trainer.mesh),
        trainer.replicated,
      ),
      out_shardings=trainer.replicated,
    )
    self._levels = [
      jax.device_put(np.float32(level), trainer.replicated)
      for level in self._objective.levels
    ]

  def __call__(self, ema: Params) -> dict[str, float]:
    """Means over the held-out batches, by name; empty where nothing is held out.

    Returns:
      `heldout/loss` over all levels, `heldout/loss/<level>` at each where there are
      several, and the objective's own means.
    """
    if self._objective.heldout_batches is None:
      return {}
    totals: dict[str, np.ndarray] = {}

    def add(name: str, total, weight) -> None:
      pair = np.asarray([total, weight], np.float64)
      totals[name] = totals.get(name, np.zeros(2)) + pair

    several = len(self._levels) > 1
    batches = self._objective.heldout_batches(self._mesh)
    with jax.set_mesh(self._mesh):
      for _, batch in zip(range(self._num), batches, strict=False):
        pairs = zip(self._objective.levels, self._levels, strict=True)
        for level, level_array in pairs:
          sums = jax.device_get(self._measure(ema, batch, level_array))
          add("heldout/loss", sums.loss, sums.weight)
          if several:
            add(f"heldout/loss/{level:g}", sums.loss, sums.weight)
          else:
            for name, (total, weight) in sums.means.items():
              add(f"heldout/{name}", total, weight)
    return {name: float(t / w) for name, (t, w) in totals.items() if w > 0}
