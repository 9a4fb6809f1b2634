"""Rates: a line's steps and its seconds are of the same steps, whatever comes between."""

import types

import jax
import numpy as np
import pytest

from tests.train import line
from video_dit.checkpoints.store import Position
from video_dit.parallel import mesh as mesh_lib
from video_dit.train import metrics, progress


class _Clock:
  """Seconds that pass where a test says so."""

  now = 100.0

  def monotonic(self) -> float:
    return self.now


class _Result:
  """A number that a device has at `done`; to read it before is to wait until then."""

  def __init__(self, clock: _Clock, done: float, reading: float = 0.0):
    self._clock, self._done, self._reading = clock, done, reading

  def is_ready(self) -> bool:
    return self._clock.now >= self._done

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    self._clock.now = max(self._clock.now, self._done) + self._reading
    return np.zeros((), dtype or np.int32)


def _metrics(result: _Result) -> metrics.StepMetrics:
  zero, one = np.float32(0), np.float32(1)
  return metrics.StepMetrics(
    means={"loss": (one, one)},
    counts={"tokens": np.float32(10)},
    learning_rate=zero,
    skipped=zero,
    num_skipped=result,
  )


@pytest.mark.parametrize("waits", [True, False], ids=["as on CPU", "ahead of the device"])
def test_a_lines_rate_is_that_of_its_own_steps_beside_pauses_too(
  waits, monkeypatch, tmp_path
):
  clock, end = _Clock(), 0.0
  monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=clock.monotonic))
  config = line.config(steps=8, log_every=2)
  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))
  position = Position(step=0, seed=0, data="")
  with (
    metrics.Log(tmp_path, step=0) as log,
    progress.Reader(config, mesh, log, position) as reader,
  ):
    for step in range(1, config.train.steps + 1):
      end = max(clock.now, end) + (1.0 if step <= 4 else 2.0)
      if waits:
        clock.now = end
      reader.hand_over(step, _metrics(_Result(clock, end)))
      if step % 3 == 0 or step == config.train.steps:  # a checkpoint
        reader.read_last()
        with reader.paused():
          clock.now += 100
  lines = [found for found in metrics.read(tmp_path / "metrics.jsonl") if "loss" in found]
  assert [found["step"] for found in lines] == [2, 4, 6, 8]
  assert [found["steps_per_second"] for found in lines] == [1.0, 1.0, 0.5, 0.5]
  assert [found["tokens_per_second"] for found in lines] == [10.0, 10.0, 5.0, 5.0]


def test_no_rate_is_negative_where_a_step_is_done_before_the_last_was_read(
  monkeypatch, tmp_path
):
  clock = _Clock()
  monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=clock.monotonic))
  config = line.config(steps=8, log_every=1)
  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))
  with (
    metrics.Log(tmp_path, step=0) as log,
    progress.Reader(config, mesh, log, Position(step=0, seed=0, data="")) as reader,
  ):
    for step in range(1, config.train.steps + 1):
      clock.now += 1.0
      late = 0.5 * (step % 2)  # Of two steps one is done only after it was handed over.
      reader.hand_over(step, _metrics(_Result(clock, clock.now + late, reading=0.25)))
    reader.read_last()
  lines = [found for found in metrics.read(tmp_path / "metrics.jsonl") if "loss" in found]
  assert [found["step"] for found in lines] == list(range(1, 9))
  rates = [found["steps_per_second"] for found in lines if "steps_per_second" in found]
  assert rates and all(rate > 0 for rate in rates)
