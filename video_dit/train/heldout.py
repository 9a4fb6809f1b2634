"""The held-out loss of a run, under the names of its log."""

import itertools

import numpy as np

from video_dit.checkpoints.state import Params
from video_dit.train.objective import Objective
from video_dit.trainer import heldout
from video_dit.trainer.step import Trainer


class HeldOut:
  """Measures a run's held-out loss; compiled once.

  Args:
    trainer: of the run.
    batches: maximum number of batches to evaluate.
  """

  def __init__(self, trainer: Trainer, batches: int):
    objective: Objective = trainer.objective
    self._objective, self._mesh, self._num = objective, trainer.mesh, batches
    self._by_level = heldout.ByLevel(
      lambda params, *given: objective.heldout(trainer.model(params), *given),
      objective.levels,
      trainer.mesh,
    )

  def __call__(self, ema: Params) -> dict[str, float]:
    """Means over the held-out batches, by name; empty where nothing is held out.

    Returns:
      `heldout/loss` over all levels, `heldout/loss/<level>` at each where there are
      several, and the objective's own means where there is one.
    """
    if self._objective.heldout_batches is None:
      return {}
    batches = self._objective.heldout_batches(self._mesh)
    found = self._by_level(ema, itertools.islice(batches, self._num))
    if len(found) == 1:
      (only,) = found.values()
      totals = {f"heldout/{name}": pair for name, pair in only.items()}
    else:
      losses = {level: pairs["loss"] for level, pairs in found.items() if pairs}
      totals = {f"heldout/loss/{level:g}": pair for level, pair in losses.items()}
      totals |= {"heldout/loss": np.sum([*losses.values()], axis=0)} if losses else {}
    return {name: float(t / w) for name, (t, w) in totals.items() if w > 0}
