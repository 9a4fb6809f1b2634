"""What a run that goes on does otherwise than before: data, rate and what is frozen."""

from collections.abc import Iterator
import math

import jax.numpy as jnp

from video_dit import config as config_lib
from video_dit.checkpoints.store import Position
from video_dit.train.objective import Objective
from video_dit.trainer import optimizer, reconstruction


def changes(
  position: Position,
  objective: Objective,
  config: config_lib.Config,
  begun: config_lib.Config | None,
) -> Iterator[str]:
  """Sentences for the console, none where the run goes on as it would have.

  Args:
    position: of the checkpoint.
    objective: of the run, with its data set.
    config: of the run.
    begun: its config as it was; None if that is lost.
  """
  yield from _data(position, objective, config)
  if begun is not None:
    yield from _learning(position.step, config, begun)


def _data(
  position: Position, objective: Objective, config: config_lib.Config
) -> Iterator[str]:
  rows = config.data.rows * config.train.accumulate
  # A checkpoint of an older version has the first half alone.
  if position.data not in (objective.data, objective.data.partition("-")[0]):
    yield (
      "the data set has changed since this run last saved"
      f" ({position.data} then, {objective.data} now); continuing with the new one at the"
      " same step, so clips of this epoch may come again or be left out"
    )
    return
  steps, keys = objective.steps, "config.seed"
  if steps:
    keys += " and data.row_length, row_segments, row_text, lookahead, balance_rows, long,"
    keys += " weights"
  packing = steps.packing if steps else None
  if position.seed != config.seed or position.epochs.get("packing", packing) != packing:
    yield (
      "the order of the clips has changed since this run last saved: the data continue at"
      f" row {position.step * rows:,} of the new one, so clips of this epoch may come"
      f" again or be left out. Keep {keys} to see each clip once an epoch."
    )
  elif position.rows not in (0, rows):
    seen, first = position.step * position.rows, position.step * rows
    yield (
      f"a step had {position.rows} rows and has {rows} now: the data continue at"
      f" row {first:,}, where {seen:,} were seen, so {abs(first - seen):,} rows"
      f" {'are skipped' if first > seen else 'repeat'}, and the rest of the epoch"
      " comes in another order. Keep data.rows x train.accumulate to see each row once."
    )


def _learning(
  step: int, config: config_lib.Config, begun: config_lib.Config
) -> Iterator[str]:
  old, new = (
    float(optimizer.learning_rate(jnp.int32(step), c.optimizer, c.train.steps))
    for c in (begun, config)
  )
  if not math.isclose(old, new, rel_tol=1e-5):
    yield f"the learning rate goes on at {new:.3g}, where it would have been {old:.3g}"
  if config.objective != "reconstruction":
    return
  first, again = (reconstruction.mends_from(c) for c in (begun, config))
  if first <= step < again:
    keep = math.floor(first / config.train.steps * 1e6) / 1e6
    yield (
      f"the encoder was frozen from step {first:g} on and trains again"
      f" {f'until step {again:g}' if config.reconstruction.noise else 'to the end'}:"
      " latents that this run's export has made will not fit it any more."
      f" reconstruction.noise={begun.reconstruction.noise:g} with noise_from={keep:g}"
      " keeps it frozen."
    )
