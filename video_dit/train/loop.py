"""The loop: from a workdir, new or partly trained, to a trained model in it.

Order matters in three places. Metrics are read one step late, so that the device always
has work. Before a checkpoint they are read to the end and a due evaluation is written,
so that the log up to a checkpoint's step is whole when a killed run goes on from it.
Samples come after the checkpoint, because they may take long.
"""

import json
import pathlib
from typing import Any

import jax

from video_dit import config as config_lib
from video_dit import files
from video_dit.checkpoints.state import TrainState
from video_dit.checkpoints.store import Position, Store
from video_dit.parallel import hosts
from video_dit.train import metrics as metrics_lib
from video_dit.train import profile as profile_lib
from video_dit.train import report, resume
from video_dit.train import workdir as workdir_lib
from video_dit.train.heldout import HeldOut
from video_dit.train.objective import Objective
from video_dit.train.progress import Reader, due
from video_dit.train.stop import Stop
from video_dit.trainer.step import Trainer

FINISHED = "finished.json"


def train(
  objective: Objective,
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
  workdir: pathlib.Path,
  profile: profile_lib.Steps | None = None,
  *,
  wait_seconds: float = 120.0,
) -> bool:
  """Trains until `config.train.steps`, or until a signal asks to stop.

  Args:
    objective: what is trained.
    config: of the run.
    mesh: over which it is spread.
    workdir: of the run; a stopped or killed run is continued.
    profile: steps that are traced.
    wait_seconds: how long to wait for a run that is still ending in the workdir.

  Returns:
    Whether the run is finished; False where a signal stopped it.

  Raises:
    ValueError: the workdir holds a run of another model, or training cannot recover.
    lock.Busy: another process is at work there.
  """
  workdir = pathlib.Path(workdir)
  # The hosts share the folder, and one of them stands for all.
  with hosts.alone(workdir, flag="--workdir", wait_seconds=wait_seconds):
    return _train(objective, config, mesh, workdir, profile)


def _train(
  objective: Objective,
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
  workdir: pathlib.Path,
  profile: profile_lib.Steps | None,
) -> bool:
  begun = workdir_lib.check(workdir, config, objective.model_keys)
  run = _Run(Trainer(objective, config, mesh), workdir, profile)
  with run.store, Stop() as stop:
    state, position = run.start(begun)
    if position.step < config.train.steps:
      workdir_lib.write(workdir, config, begun, hosts.say)
      if hosts.leads():  # What starts runs again goes by it.
        (workdir / FINISHED).unlink(missing_ok=True)
      with metrics_lib.Log(workdir, step=position.step, enabled=hosts.leads()) as log:
        state = run.advance(state, position, log, stop)
    if stop.name:
      step = run.store.latest() or 0
      again = "continue" if step < config.train.steps else "write its samples and report"
      hosts.say(
        f"stopped by {stop.name} at step {step}: saved. Run the same command to {again}."
      )
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
    train = self.config.train
    self.store = Store(
      workdir / "checkpoints", keep=train.keep, keep_every=train.keep_every
    )
    self.profile = profile_lib.Profile(profile, workdir, self.store.latest() or 0)
    self.heldout = HeldOut(trainer, self.config.train.evaluate_batches)

  def start(self, begun: config_lib.Config | None) -> tuple[TrainState, Position]:
    """The newest whole checkpoint, or a fresh state.

    Args:
      begun: the config that the checkpoint was trained with, if it is known.
    """
    trainer, config = self.trainer, self.config
    shape = ", ".join(f"{axis}={size}" for axis, size in trainer.mesh.shape.items())
    hosts.say(f"{config.name}: {trainer.num_params():,} parameters on the mesh {shape}")
    newest = hosts.greatest(self.store.latest() or 0)
    if not newest:
      fresh = Position(step=0, seed=config.seed, data=self.objective.data)
      return trainer.init(), fresh
    self.store.await_step(newest)
    position = self.store.position(newest)
    state = self.store.restore(trainer.abstract, newest)
    if self.objective.steps:
      self.objective.steps.learn(position.epochs)
    hosts.say(f"continuing from step {position.step}")
    if position.step > config.train.steps:
      hosts.say(
        f"this is beyond config.train.steps={config.train.steps}: no step is taken, and"
        " other changed settings have no effect"
      )
    if position.step < config.train.steps:
      for change in resume.changes(position, self.objective, config, begun):
        hosts.say(change)
    return state, position

  def advance(
    self, state: TrainState, position: Position, log: metrics_lib.Log, stop: Stop
  ) -> TrainState:
    """Takes the steps that are left; ends early where `stop` asks."""
    train = self.config.train
    batches = self.objective.batches(self.trainer.mesh, position.step)
    reader = Reader(self.config, self.trainer.mesh, log, position)
    mesh, profile = jax.set_mesh(self.trainer.mesh), self.profile
    owed = False  # a checkpoint
    with reader, profile, mesh, jax.transfer_guard("disallow"):
      for step in range(position.step + 1, train.steps + 1):
        if profile.begins(step):
          reader.read_last()
          with reader.paused():
            profile.start()
        with profile_lib.step_name(step):
          state, metrics = self.trainer.step(state, next(batches))
          reader.hand_over(step, metrics)
        end = step == train.steps or stop.asked(step)
        if profile.ends(step):
          reader.read_last()
          with reader.paused():
            profile.stop()
          hosts.say(f"the profile is in {profile.folder}")
        owed = owed or due(step, train.checkpoint_every)
        if end or owed or due(step, train.evaluate_every):
          reader.read_last()
          with reader.paused():
            if step == train.steps or due(step, train.evaluate_every):
              self._evaluate(state, step, log)
            # Steps that are skipped in a row must not push good checkpoints out.
            if end or (owed and not reader.skipped):
              self.store.save(state, self._position(step, reader.window))
              owed = False
        if due(step, train.sample_every) and not end:
          reader.read_last()
          with reader.paused():
            self._show(state, step)
        if end:
          break
    self.store.wait()
    return state

  def finish(self, state: TrainState) -> None:
    """Writes samples, export and report of a finished run; once."""
    step = self.store.latest() or 0
    marker = self.workdir / FINISHED
    if hosts.greatest(_marked(marker) == step):
      hosts.say(f"step {step} of {self.config.train.steps}: nothing left to train")
      return
    self._show(state, step)
    if self.objective.finish:
      hosts.say(self.objective.finish(self.trainer.mesh, state.ema, self.workdir))
    if hosts.leads():
      path = report.write(self.workdir, self.config, self._facts())
      files.write(marker, json.dumps({"step": step}) + "\n")
      hosts.say(f"trained {step} steps; see {path}")

  def _position(self, step: int, window: metrics_lib.Window) -> Position:
    return Position(
      step=step,
      seed=self.config.seed,
      data=self.objective.data,
      rows=self.config.data.rows * self.config.train.accumulate,
      window=window.totals(),
      epochs=self.objective.steps.known(step) if self.objective.steps else {},
    )

  def _evaluate(self, state: TrainState, step: int, log: metrics_lib.Log) -> None:
    values = self.heldout(state.ema)
    if values:
      log.write(step, values)
      hosts.say(f"step {step}: held-out loss {values['heldout/loss']:.4f}")
    if hosts.leads():
      report.write(self.workdir, self.config, self._facts())

  def _show(self, state: TrainState, step: int) -> None:
    if self.objective.show is None:
      return
    folder = self.workdir / "samples" / f"{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    with jax.transfer_guard("allow"):
      items = self.objective.show(self.trainer.mesh, state.ema, step, folder)
    if hosts.leads():
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


def _marked(marker: pathlib.Path) -> int | None:
  """The step at which a run was finished; None without a complete marker."""
  try:
    return int(json.loads(marker.read_text(encoding="utf-8"))["step"])
  except (FileNotFoundError, ValueError, TypeError, LookupError):
    return None
