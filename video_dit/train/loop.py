"""The loop: from a workdir, new or begun, to a trained model in it.

Order matters in three places. Metrics are read one step late, so that the device always
has work. Before a checkpoint they are read to the end and a due evaluation is written,
so that the log up to a checkpoint's step is whole when a killed run goes on from it.
Samples come after the checkpoint, because they may take long.
"""

from collections.abc import Mapping
import json
import pathlib
import time
from typing import Any

import jax
import tqdm

from video_dit import config as config_lib
from video_dit.checkpoints.state import TrainState
from video_dit.checkpoints.store import Position, Store
from video_dit.train import metrics as metrics_lib
from video_dit.train import profile as profile_lib
from video_dit.train import report
from video_dit.train import workdir as workdir_lib
from video_dit.train.heldout import HeldOut
from video_dit.train.objective import Objective
from video_dit.train.stop import Stop
from video_dit.trainer.step import Trainer

FINISHED = "finished.json"


def train(
  objective: Objective,
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
  workdir: pathlib.Path,
  profile: profile_lib.Steps | None = None,
) -> bool:
  """Trains until `config.train.steps`, or until a signal asks to stop.

  Args:
    objective: what is trained.
    config: of the run.
    mesh: over which it is spread.
    workdir: of the run; one that was stopped or killed is continued.
    profile: steps that are traced.

  Returns:
    Whether the run is finished; False where a signal stopped it.

  Raises:
    ValueError: the workdir holds a run of another model, or one that is beyond the
      steps to trace.
  """
  workdir = pathlib.Path(workdir)
  workdir_lib.prepare(workdir, config, objective.shape_keys, _say)
  run = _Run(Trainer(objective, config, mesh), workdir, profile)
  with run.store, Stop() as stop:
    state, position = run.start()
    if position.step < config.train.steps:
      with metrics_lib.Log(workdir, step=position.step, enabled=_leads()) as log:
        state = run.advance(state, position, log, stop)
    if stop.name:
      step = run.store.latest()
      _say(f"stopped by {stop.name} at step {step}: saved. The same command goes on.")
      return False
    run.finish(state)
  return True


class _Run:
  """What the parts of one run share."""

  def __init__(
    self, trainer: Trainer, workdir: pathlib.Path, profile: profile_lib.Steps | None
  ):
    self.trainer, self.workdir = trainer, workdir
    self.objective, self.config = trainer.objective, trainer.config
    self.store = Store(workdir / "checkpoints", keep=self.config.train.keep)
    self.profile = profile_lib.Profile(profile, workdir, self.store.latest() or 0)
    self.heldout = HeldOut(trainer, self.config.train.evaluate_batches)

  def start(self) -> tuple[TrainState, Position]:
    """The newest whole checkpoint, or a fresh state."""
    trainer, config = self.trainer, self.config
    shape = ", ".join(f"{axis}={size}" for axis, size in trainer.mesh.shape.items())
    _say(f"{config.name}: {trainer.num_params():,} parameters on the mesh {shape}")
    fresh = Position(step=0, seed=config.seed, data=self.objective.data)
    if self.store.latest() is None:
      return trainer.init(), fresh
    position = self.store.position()
    if position.data != fresh.data:
      _say(
        "the data set is not the one that this run saw before"
        f" ({position.data} then, {fresh.data} now); it goes on with this one"
      )
    _say(f"continuing from step {position.step}")
    return self.store.restore(trainer.abstract), position

  def advance(
    self, state: TrainState, position: Position, log: metrics_lib.Log, stop: Stop
  ) -> TrainState:
    """Takes the steps that are left; ends early where `stop` asks."""
    train = self.config.train
    batches = self.objective.batches(self.trainer.mesh, position.step)
    reader = _Reader(self, log, metrics_lib.Window(position.window), position.step)
    mesh, profile = jax.set_mesh(self.trainer.mesh), self.profile
    with reader, profile, mesh, jax.transfer_guard("disallow"):
      for step in range(position.step + 1, train.steps + 1):
        if profile.begins(step):
          reader.read_last()
          with reader.paused():
            profile.start()
        with profile_lib.step_name(step):
          state, metrics = self.trainer.step(state, next(batches))
          reader.read_last()
        reader.last = (step, metrics)
        end = step == train.steps or stop.asked(step)
        if profile.ends(step):
          reader.read_last()
          with reader.paused():
            profile.stop()
          _say(f"the profile lies in {profile.folder}")
        if end or _due(step, train.checkpoint_every, train.evaluate_every):
          reader.read_last()
          with reader.paused():
            if step == train.steps or _due(step, train.evaluate_every):
              self._evaluate(state, step, log)
            if end or _due(step, train.checkpoint_every):
              self.store.save(state, self._position(step, reader.window))
        if _due(step, train.sample_every) and not end:
          with reader.paused():
            self._show(state, step)
        if end:
          break
    self.store.wait()
    return state

  def finish(self, state: TrainState) -> None:
    """Samples, export and report of a run that is at its end; once."""
    step = self.store.latest() or 0
    marker = self.workdir / FINISHED
    if marker.is_file() and json.loads(marker.read_text())["step"] == step:
      _say(f"step {step} of {self.config.train.steps}: there is nothing left to train")
      return
    self._show(state, step)
    if self.objective.finish:
      _say(self.objective.finish(self.trainer.mesh, state.ema, self.workdir))
    if _leads():
      path = report.write(self.workdir, self.config, self._facts())
      marker.write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")
      _say(f"trained {step} steps; see {path}")

  def _position(self, step: int, window: metrics_lib.Window) -> Position:
    return Position(
      step=step,
      seed=self.config.seed,
      data=self.objective.data,
      window=window.totals(),
    )

  def _evaluate(self, state: TrainState, step: int, log: metrics_lib.Log) -> None:
    values = self.heldout(state.ema)
    if values:
      log.write(step, values)
      _say(f"step {step}: held-out loss {values['heldout/loss']:.4f}")
    if _leads():
      report.write(self.workdir, self.config, self._facts())

  def _show(self, state: TrainState, step: int) -> None:
    if self.objective.show is None:
      return
    folder = self.workdir / "samples" / f"{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    with jax.transfer_guard("allow"):
      items = self.objective.show(self.trainer.mesh, state.ema, step, folder)
    if _leads():
      report.record_samples(folder, items)
      report.write(self.workdir, self.config, self._facts())

  def _facts(self) -> dict[str, Any]:
    mesh = self.trainer.mesh
    return {
      "parameters": self.trainer.num_params(),
      "mesh": ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items()),
      "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
      **self.objective.facts,
    }


class _Reader:
  """Reads metrics one step late and writes a line every `log_every` steps."""

  def __init__(
    self, run: _Run, log: metrics_lib.Log, window: metrics_lib.Window, step: int
  ):
    self.window = window
    self.last: tuple[int, Any] | None = None
    self._log, self._mesh, self._train = log, run.trainer.mesh, run.config.train
    self._timed_steps, self._since = 0, time.monotonic()
    self._first = True
    self._bar = tqdm.tqdm(
      total=self._train.steps,
      initial=step,
      unit="step",
      desc=run.config.name,
      dynamic_ncols=True,
      disable=None if _leads() else True,
    )

  def __enter__(self) -> "_Reader":
    return self

  def __exit__(self, *_) -> None:
    self._bar.close()

  def paused(self) -> "_Pause":
    """A context whose time does not count as training."""
    return _Pause(self)

  def skip(self, seconds: float) -> None:
    """Leaves seconds out of the rate."""
    self._since += seconds

  def read_last(self) -> None:
    """Waits for the last step that was handed over, and counts it."""
    if self.last is None:
      return
    (step, metrics), self.last = self.last, None
    metrics = metrics_lib.to_host(metrics)
    self.window.add(metrics)
    self._bar.update()
    if self._first:
      _say(f"the first step took {time.monotonic() - self._since:.1f} s with compiling")
      self._since, self._first = time.monotonic(), False
    else:
      self._timed_steps += 1
    if metrics.skipped:
      self._log.write(step, {"skipped": 1})
      _say(
        f"step {step}: the gradient is not finite, so nothing was updated"
        f" ({int(metrics.num_skipped)} such steps so far)"
      )
    if _due(step, self._train.log_every) or step == self._train.steps:
      self._write(step)

  def _write(self, step: int) -> None:
    seconds = time.monotonic() - self._since
    counts = self.window.counts()
    rates = metrics_lib.speed(seconds, self._timed_steps, counts, self._mesh)
    means = self.window.means()
    self._log.write(step, means | rates)
    self._bar.set_postfix_str(f"loss {means.get('loss', float('nan')):.4f}")
    _say(_line(step, self._train.steps, means, rates))
    self.window = metrics_lib.Window()
    self._timed_steps, self._since = 0, time.monotonic()


class _Pause:
  def __init__(self, reader: _Reader):
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


def _due(step: int, *periods: int) -> bool:
  """Whether one of the periods ends at `step`; a period of 0 never does."""
  return any(period and step % period == 0 for period in periods)


def _leads() -> bool:
  """Whether this is the process that writes."""
  return jax.process_index() == 0


def _say(text: str) -> None:
  if _leads():
    tqdm.tqdm.write(text)
