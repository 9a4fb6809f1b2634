"""Checkpoints of a run: saved while training goes on, restored on any mesh.

A checkpoint is a folder named by its step. It is written under another name and
renamed when complete, so a run that dies during a save leaves the one before it as the
latest. The averaged weights are a tree of their own beside the rest, so that sampling
reads nothing else:

    checkpoints/1200/ema/    averaged weights
    checkpoints/1200/rest/   step, weights, optimiser
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from video_dit.checkpoints import damage
from video_dit.checkpoints.state import Params, TrainState

_FULL = ("No space left on device", "Disk quota exceeded", "File too large")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
  """Where a run stands in its data; all that the loader needs to resume.

  Attributes:
    step: steps taken.
    seed: of the run.
    data: fingerprint of the data set.
    rows: of a step; 0 in a checkpoint that an older version wrote, which did not say.
    window: totals of the metrics since the last line of the log.
    epochs: what is known of the rows of past epochs (`data.steps.Steps.known`).
  """

  step: int
  seed: int
  data: str
  rows: int = 0
  window: dict[str, Any] = dataclasses.field(default_factory=dict)
  epochs: dict[str, Any] = dataclasses.field(default_factory=dict)


class Store:
  """The checkpoints of one folder. Use as a context, or `close` it.

  Args:
    folder: made where missing, for a run that writes.
    keep: newest checkpoints kept by a run that writes; None only reads, and leaves
      alone what a concurrent run is writing.
    keep_every: checkpoints of multiples of this step are kept too, for good; 0 is none.

  Raises:
    ValueError: the folder to read does not exist.
  """

  def __init__(
    self, folder: str | pathlib.Path, *, keep: int | None = None, keep_every: int = 0
  ):
    self.folder = pathlib.Path(folder).absolute()
    if keep is None and not self.folder.is_dir():
      raise ValueError(f"{self.folder}: contains no checkpoints. Train first.")
    self._checkpointer = ocp.training.Checkpointer(
      self.folder,
      save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
      preservation_policy=_preservation(keep, keep_every),
      cleanup_tmp_directories=keep is not None,
    )
    self._saving: Any = None  # Orbax's answer to the last save

  def __enter__(self) -> "Store":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def steps(self) -> list[int]:
    """Steps of the complete checkpoints, oldest first."""
    return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

  def latest(self) -> int | None:
    """Step of the newest complete checkpoint."""
    return max(self.steps(), default=None)

  def await_step(self, step: int, seconds: float = 60.0) -> None:
    """Waits until a checkpoint is seen here, on a disk that shows changes late.

    Raises:
      TimeoutError: it was not, in that many seconds.
    """
    until = time.monotonic() + seconds
    while step not in self.steps():
      if time.monotonic() > until:
        raise TimeoutError(
          f"{self.folder}: another host sees a checkpoint of step {step} there, this one"
          " does not. All hosts need the same workdir; start the run again if it is."
        )
      time.sleep(1)
      self._checkpointer.reload()

  def save(self, state: TrainState, position: Position) -> None:
    """Starts saving; returns when `state` may be donated.

    At most one save is under way: a second waits for the first. A failed save is
    raised by the next call.

    Raises:
      ValueError: the disk is full.
    """
    # Orbax fetches arrays without saying so, which a training loop's guard refuses.
    with self._disk(), jax.transfer_guard("allow"):
      self._end_save()
      self._saving = self._checkpointer.save_checkpointables_async(
        position.step,
        {"ema": state.ema, "rest": _rest(state)},
        custom_metadata=dataclasses.asdict(position),
      )

  def wait(self) -> None:
    """Returns when the last save is complete; raises what `save` does."""
    with self._disk():
      self._end_save()

  def close(self) -> None:
    """Waits for the last save and releases the folder; raises what `save` does."""
    with self._disk():
      try:
        self._end_save()
      finally:
        self._checkpointer.close()

  def _end_save(self) -> None:
    """Waits for the last save; only when asked for its result Orbax ends its thread."""
    saving, self._saving = self._saving, None
    if saving is not None:
      saving.result()

  @contextlib.contextmanager
  def _disk(self) -> Iterator[None]:
    """Turns a full disk into a message that says what is saved, and the remedy."""
    try:
      yield
    except Exception as error:  # TensorStore has its own error type for each operation.
      found = next((text for text in _FULL if text in str(error)), None)
      if found is None:
        raise
      latest = self.latest()
      kept, next_run = "No checkpoint is complete yet", "starts over"
      if latest is not None:
        kept, next_run = f"That of step {latest} is complete", "resumes from there"
      raise ValueError(
        f"{self.folder}: could not write a checkpoint ({found}). {kept}. Free some space,"
        f" or lower config.train.keep, and run the same command again: it {next_run}."
      ) from error

  def position(self, step: int | None = None) -> Position:
    """Position of the checkpoint of `step`, by default the newest.

    Raises:
      ValueError: there is no such checkpoint, or it is damaged.
    """
    step = self.existing(step)
    there = [p.name for p in (self.folder / str(step)).iterdir() if p.is_dir()]
    self._check(step, *there)  # Orbax opens them all
    metadata = self._checkpointer.checkpointables_metadata(step)
    known = {field.name for field in dataclasses.fields(Position)}
    # A later version may say more, which this one does without.
    return Position(**{k: v for k, v in metadata.custom_metadata.items() if k in known})

  def restore(self, abstract: TrainState, step: int | None = None) -> TrainState:
    """Reads a complete state into the layout of `abstract`.

    Args:
      abstract: shapes, dtypes and shardings; the mesh may differ from the writer's.
      step: of the checkpoint; by default the newest.

    Raises:
      ValueError: there is no such checkpoint, it is damaged, or shapes differ; the
        message names the file, or each parameter with both shapes.
    """
    target = {"ema": abstract.ema, "rest": _rest(abstract)}
    found = self._load(step, target)
    return TrainState(ema=found["ema"], **found["rest"])

  def restore_ema(self, abstract: Params, step: int | None = None) -> Params:
    """Reads the averaged weights alone; arguments and errors as in `restore`."""
    return self._load(step, {"ema": abstract})["ema"]

  def extents(self, step: int | None = None) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the averaged weights by path; none is read."""
    step = self.existing(step)
    self._check(step, "ema")
    stored = self._checkpointer.checkpointables_metadata(step).metadata
    return _shapes(stored["ema"])

  def differences(self, params: Params, step: int | None = None) -> list[str]:
    """How the averaged weights differ from a model's, by parameter; none is read."""
    step = self.existing(step)
    self._check(step, "ema")
    stored = self._checkpointer.checkpointables_metadata(step).metadata
    return compare(stored["ema"], params)

  def existing(self, step: int | None = None) -> int:
    """The step itself, by default the newest.

    Raises:
      ValueError: there is no complete checkpoint of it; the message lists those there.
    """
    steps = self.steps()
    if not steps:
      raise ValueError(
        f"{self.folder}: contains no complete checkpoint. Train first, or name the"
        " workdir of a run that has saved."
      )
    step = steps[-1] if step is None else step
    if step not in steps:
      raise ValueError(f"{self.folder}: no checkpoint of step {step}; there are {steps}.")
    return step

  def _load(self, step: int | None, target: dict[str, Any]) -> dict[str, Any]:
    step = self.existing(step)
    self._check(step, *target)
    stored = self._checkpointer.checkpointables_metadata(step).metadata
    for name, tree in target.items():
      # A mismatch inside Orbax never names the parameter.
      differences = compare(stored[name], tree)
      if differences:
        raise ValueError(
          f"{self.folder / str(step)}: the checkpoint is of another model or optimiser:"
          f" {'; '.join(differences[:8])}"
          f"{f'; and {len(differences) - 8} more' if len(differences) > 8 else ''}."
          " Use the config that the run was started with, or another workdir."
        )
    try:
      return self._checkpointer.load_checkpointables(step, target)
    except Exception as error:  # Orbax has its own error type for each layer.
      # A lost host, a disk that does not answer: starting again is the remedy.
      passing = isinstance(error, MemoryError | OSError | jax.errors.JaxRuntimeError)
      missing = isinstance(error, FileNotFoundError)
      if (passing and not missing) or "RESOURCE_EXHAUSTED" in str(error):
        raise
      raise self._damaged(step, damage.explain(error), target) from error

  def _check(self, step: int, *trees: str) -> None:
    """Refuses a checkpoint in which one of these trees is damaged."""
    what = damage.find(self.folder / str(step), trees)
    if what:
      raise self._damaged(step, what, trees)

  def _damaged(self, step: int, what: str, trees: Iterable[str]) -> ValueError:
    """What is damaged, and which other checkpoint the run can resume from."""
    others = [n for n in self.steps() if n != step]
    whole = [n for n in others if not damage.find(self.folder / str(n), trees)]
    remedy = "No other checkpoint is intact; start over in a new workdir."
    if whole:
      remedy = (
        f"Intact checkpoints: steps {whole}. Move {self.folder / str(step)} somewhere"
        f" else, and the same command resumes from step {max(whole)}."
      )
    return ValueError(
      f"{self.folder / str(step)}: the checkpoint is damaged: {what}. {remedy}"
    )


def _preservation(keep: int | None, keep_every: int):
  """Orbax's rule of what stays when a newer checkpoint is complete."""
  policies = ocp.training.preservation_policies
  if keep is None:
    return policies.PreserveAll()
  newest = policies.LatestN(keep)
  if not keep_every:
    return newest
  return policies.AnyPreservationPolicy([newest, policies.EveryNSteps(keep_every)])


def _rest(state: TrainState) -> dict[str, Any]:
  return {"step": state.step, "params": state.params, "opt": state.opt}


def compare(stored: Any, wanted: Any) -> list[str]:
  """Says how the arrays of two trees differ, one line a parameter.

  Args:
    stored: tree of arrays, or of what describes them.
    wanted: another.
  """
  old, new = _shapes(stored), _shapes(wanted)
  lines = []
  for path in sorted(old.keys() | new.keys()):
    if path not in new:
      lines.append(f"{path}: {old[path]} stored, not in the model")
    elif path not in old:
      lines.append(f"{path}: not stored, {new[path]} in the model")
    elif old[path] != new[path]:
      lines.append(f"{path}: {old[path]} stored, {new[path]} in the model")
  return lines


def _shapes(tree: Any) -> Mapping[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda x: hasattr(x, "shape")
  )
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in leaves
    if hasattr(leaf, "shape")
  }
