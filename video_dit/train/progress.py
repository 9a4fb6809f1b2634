"""A run's progress: metrics read one step late, rates, a progress bar.

Rates count from the end of a step to the end of another. Where a step is done when it or
the next was handed over, as mostly on CPU, its end is then; elsewhere it is when its
metrics come.
"""

from collections.abc import Mapping
import contextlib
import time
from typing import Any, cast

import jax
import tqdm

from video_dit import config as config_lib
from video_dit.checkpoints.store import Position
from video_dit.parallel import hosts, programs
from video_dit.train import metrics as metrics_lib
from video_dit.trainer.step import StepMetrics

_MOST_SKIPPED = 10  # steps in a row; after that a run does not recover by itself


class Reader:
  """Reads metrics one step late and writes a line every `log_every` steps.

  Attributes:
    window: of the steps since the last line.
    skipped: steps that were skipped in a row, up to the last that was read.
  """

  def __init__(
    self,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
    log: metrics_lib.Log,
    position: Position,
  ):
    self.window = metrics_lib.Window(position.window)
    self._last: tuple[int, StepMetrics, float | None] | None = None
    self.skipped = 0
    self._log, self._mesh, self._train = log, mesh, config.train
    self._timed_steps, self._since = 0, time.monotonic()
    self._programs, self._first = programs.Watch(), True
    self._bar = tqdm.tqdm(
      total=self._train.steps,
      initial=position.step,
      unit="step",
      desc=config.name,
      dynamic_ncols=True,
      disable=None if hosts.leads() else True,
    )

  def __enter__(self) -> "Reader":
    self._open = contextlib.ExitStack()
    self._open.callback(self._bar.close)
    self._open.enter_context(self._programs)
    return self

  def __exit__(self, *_) -> None:
    self._open.close()

  def paused(self) -> "_Pause":
    """A context whose time does not count as training."""
    return _Pause(self)

  def skip(self, seconds: float) -> None:
    """Leaves seconds out of the rate."""
    self._since += seconds

  def hand_over(self, step: int, metrics: StepMetrics) -> None:
    """Takes a step's metrics on the device, and reads those of the step before.

    Raises:
      ValueError: as `read_last` does.
    """
    ready = cast(Any, metrics.num_skipped).is_ready()
    done = time.monotonic() if ready else None
    self.read_last(done)
    self._last = (step, metrics, done)

  def read_last(self, by: float | None = None) -> None:
    """Waits for the last dispatched step, and counts it.

    Args:
      by: a time at which it was done, if one is known.

    Raises:
      ValueError: too many steps in a row were skipped for training to continue.
    """
    if self._last is None:
      return
    (step, metrics, done), self._last = self._last, None
    metrics = metrics_lib.to_host(metrics)
    if done is None:
      done = time.monotonic() if by is None else by
    self.window.add(metrics)
    self._bar.update()
    if self._first:
      how = (
        "from the compilation cache" if self._programs.found else "including compilation"
      )
      hosts.say(f"the first step took {done - self._since:.1f} s, {how}")
      self._since, self._first = done, False
    else:
      self._timed_steps += 1
    self.skipped = self.skipped + 1 if metrics.skipped else 0
    if self.skipped:
      self._name_skipped(step, int(metrics.num_skipped))
    if due(step, self._train.log_every) or step == self._train.steps:
      self._write(step, done)

  def _name_skipped(self, step: int, in_all: int) -> None:
    self._log.write(step, {"skipped": 1})
    hosts.say(
      f"step {step}: the gradient or update is not finite, so the step was skipped"
      f" ({in_all} such steps so far)"
    )
    if self.skipped >= min(_MOST_SKIPPED, self._train.steps):
      raise ValueError(
        f"steps {step - self.skipped + 1} to {step}: none had a finite gradient and"
        " update, and the run cannot recover by itself. No checkpoint was saved"
        " since. Choose a smaller config.optimizer.learning_rate to continue from the"
        " newest checkpoint; if that one is at fault too, move it away to continue"
        " from the one before."
      )

  def _write(self, step: int, done: float) -> None:
    seconds = done - self._since
    counts = self.window.counts()
    rates = metrics_lib.speed(seconds, self._timed_steps, counts, self._mesh)
    means = self.window.means()
    self._log.write(step, means | rates)
    self._bar.set_postfix_str(f"loss {means.get('loss', float('nan')):.4f}")
    hosts.say(_line(step, self._train.steps, means, rates))
    self.window = metrics_lib.Window()
    self._timed_steps, self._since = 0, done


class _Pause:
  def __init__(self, reader: Reader):
    self._reader = reader

  def __enter__(self) -> None:
    self._start = time.monotonic()

  def __exit__(self, *_) -> None:
    self._reader.skip(time.monotonic() - self._start)


def _line(
  step: int, steps: int, means: Mapping[str, float], rates: Mapping[str, float]
) -> str:
  """A line of the console."""
  parts = [f"step {step}/{steps}"]
  for name in ("loss", "psnr", "grad_norm"):
    if name in means:
      parts.append(f"{name} {means[name]:.4g}")
  rate = rates.get("steps_per_second")
  if rate:
    left = int((steps - step) / rate)
    parts.append(f"{rate:.3g} steps/s, {left // 60}:{left % 60:02d} min left")
  if "mfu" in rates:
    parts.append(f"MFU {rates['mfu']:.1%}")
  return ", ".join(parts)


def due(step: int, period: int) -> bool:
  """Whether the period ends at `step`; a period of 0 never does."""
  return period > 0 and step % period == 0
