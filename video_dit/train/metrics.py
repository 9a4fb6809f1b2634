"""Metrics of a run: totals on the device, windows on the host, lines in files.

A step returns `StepMetrics`, which are read one step late so that the host never waits
for the device. `Window` adds them up between two lines of the log; `Log` writes a line
to `metrics.jsonl`, to TensorBoard and to the console.
"""

from collections.abc import Mapping
import functools
import json
import math
import pathlib
import socket
import time
from typing import Any

from absl import logging
import jax
import numpy as np
from tensorboardX import record_writer, summary
from tensorboardX.proto import event_pb2

from video_dit import files
from video_dit.parallel import hosts, peaks
from video_dit.trainer.step import StepMetrics

_FLUSH_SECONDS = 120.0


class Window:
  """Means and counts of the steps since the last line of the log.

  Args:
    totals: of a window that a checkpoint interrupted, as `totals()` returned them.
  """

  def __init__(self, totals: Mapping[str, Any] | None = None):
    totals = totals or {}
    self._means = {k: tuple(v) for k, v in totals.get("means", {}).items()}
    self._counts = dict(totals.get("counts", {}))
    self._last = dict(totals.get("last", {}))
    self.steps = int(totals.get("steps", 0))

  def add(self, metrics: StepMetrics) -> None:
    """Adds a step's metrics, already on the host; a skipped step adds no means."""
    self.steps += 1
    if not metrics.skipped:
      for name, (total, weight) in metrics.means.items():
        old_total, old_weight = self._means.get(name, (0.0, 0.0))
        self._means[name] = (old_total + float(total), old_weight + float(weight))
    for name, amount in metrics.counts.items():
      self._counts[name] = self._counts.get(name, 0.0) + float(amount)
    self._last = {"learning_rate": float(metrics.learning_rate)}
    self._last["skipped_steps"] = int(metrics.num_skipped)

  def means(self) -> dict[str, float]:
    """Means of what was measured, and the last learning rate and skipped steps."""
    means = {
      k: total / weight for k, (total, weight) in self._means.items() if weight > 0
    }
    return means | self._last

  def counts(self) -> dict[str, float]:
    """Amounts per step."""
    return {name: total / max(1, self.steps) for name, total in self._counts.items()}

  def totals(self) -> dict[str, Any]:
    """All of the window, for a checkpoint's JSON; Python's floats survive it exactly."""
    return {
      "means": {k: list(v) for k, v in self._means.items()},
      "counts": self._counts,
      "last": self._last,
      "steps": self.steps,
    }


class _Board:
  """A TensorBoard file, written by the caller's thread, to whom a full disk is told."""

  def __init__(self, folder: pathlib.Path, purge_step: int | None):
    """Begins a file in the folder; what older ones have from `purge_step` on goes."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
    self.path = folder / name
    self._records = record_writer.RecordWriter(str(self.path))
    self._flush_at = time.monotonic()
    self._add(file_version="brain.Event:2")
    if purge_step is not None:
      began = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._add(step=purge_step, session_log=began)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds scalars; they are on the disk some minutes later."""
    for name, value in values.items():
      self._add(step=step, summary=summary.scalar(name, value))
    if time.monotonic() >= self._flush_at:
      self._flush_at = time.monotonic() + _FLUSH_SECONDS
      self._records.flush()

  def close(self) -> None:
    """Writes what is left."""
    self._records.close()

  def _add(self, **fields: Any) -> None:
    event = event_pb2.Event(wall_time=time.time(), **fields)
    self._records.write(event.SerializeToString())


class Log:
  """The files of a run's metrics. Use as a context, or `close` it.

  Args:
    workdir: of the run; lines after `step`, which a killed run left, are cut off.
    step: that the run continues from.
    enabled: whether this process writes; only one does.
  """

  def __init__(self, workdir: pathlib.Path, *, step: int, enabled: bool = True):
    self._enabled = enabled
    if not enabled:
      return
    self._path = path = workdir / "metrics.jsonl"
    kept = [line for line in read(path) if line["step"] <= step]
    files.write(path, "".join(json.dumps(line) + "\n" for line in kept))
    self._file = path.open("a", encoding="utf-8")
    self._board = _Board(workdir / "tensorboard", step + 1 if kept else None)

  def __enter__(self) -> "Log":
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    try:
      self.close()
    except OSError:
      if kind is None:  # else the first error is the one reported
        raise

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds one line; values that are not finite are written as null.

    Raises:
      OSError: the disk is full; it names the file.
    """
    if not self._enabled:
      return
    finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
    with files.naming(self._path):
      self._file.write(json.dumps({"step": step, **finite}) + "\n")
      self._file.flush()
    with files.naming(self._board.path):
      self._board.write(step, {k: v for k, v in finite.items() if v is not None})

  def close(self) -> None:
    """Flushes and closes the files; raises what `write` does."""
    if not self._enabled:
      return
    try:
      with files.naming(self._path):
        self._file.close()
    finally:
      with files.naming(self._board.path):
        self._board.close()


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Lines of a `metrics.jsonl`, oldest first, without damaged ones.

  The last may be torn, if a run was killed; others are named in the log.
  """
  if not path.is_file():
    return []
  lines, damaged = [], []
  written = path.read_bytes().splitlines()
  for number, text in enumerate(written, 1):
    try:
      line = json.loads(text.decode())
      lines.append({**line, "step": int(line["step"])})
    except (ValueError, TypeError, LookupError):
      damaged.append(number)
  if said := ", ".join(str(number) for number in damaged if number < len(written)):
    logging.warning("%s: skipped damaged lines: %s", path, said)
  return lines


def speed(
  seconds: float, steps: int, counts: Mapping[str, float], mesh: jax.sharding.Mesh
) -> dict[str, float]:
  """Rates of a window.

  Args:
    seconds: that its steps took.
    steps: in the window.
    counts: amounts per step; `tokens` and `model_flops` turn into rates.
    mesh: of the run; MFU is given where its devices' peak is known.
  """
  flops = counts.get("model_flops")
  values = {"model_tflops_per_step": flops / 1e12} if flops else {}
  if not seconds or not steps:
    return values
  per_second = steps / seconds
  values["steps_per_second"] = per_second
  for name in ("tokens", "clips"):
    if name in counts:
      values[f"{name}_per_second"] = counts[name] * per_second
  if flops:
    values["model_tflops_per_second"] = flops * per_second / 1e12
    device = mesh.devices.flat[0]
    if peak := peaks.FLOPS.get(device.device_kind):
      values["mfu"] = flops * per_second / (peak * mesh.size)
    elif device.platform != "cpu":
      _report_unknown(device.device_kind)
  return values


@functools.cache  # once
def _report_unknown(kind: str) -> None:
  hosts.say(f"no MFU: the peak of {kind!r} is not in video_dit/parallel/peaks.py")


def to_host(metrics: StepMetrics) -> StepMetrics:
  """Reads metrics from the device; waits for their step."""
  return jax.tree.map(np.asarray, jax.device_get(metrics))
