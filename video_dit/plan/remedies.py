"""What is too large in a plan that does not fit, and what would make it fit.

A change is named only if the program accepts it, on as many devices.
"""

from collections.abc import Iterator
import dataclasses
from typing import Any

from video_dit import config as config_lib
from video_dit.plan import checks
from video_dit.plan.estimate import GB

_PARTS = ("parameters", "ema", "optimizer", "batch", "activations", "temporaries")


def lines(
  figures: dict[str, Any], config: config_lib.Config, mesh: dict[str, int]
) -> list[str]:
  """The lines below DOES NOT FIT; none where it fits."""
  memory = figures["memory"]
  over = memory["total"] - memory["available"]
  if over <= 0 and figures["fits"]:
    return []
  largest = sorted((p for p in _PARTS if memory.get(p)), key=lambda p: -memory[p])
  named = ", ".join(f"{part} {memory[part] / GB:.1f} GB" for part in largest[:3])
  found = [
    f"{memory['total'] / GB:.1f} GB are needed, {memory['available'] / GB:.1f} GB are"
    f" available: {over / GB:.1f} GB too much.",
    f"The largest: {named}.",
  ]
  state = sum(memory.get(part, 0.0) for part in ("parameters", "ema", "optimizer"))
  if state > 0.25 * memory["available"]:
    found.append(_of_state(state, config, mesh))
  diffuses = config.objective == "diffusion"
  if diffuses and config.dit.remat in ("none", "dots"):
    found.append("--config.dit.remat=attention recomputes what the blocks save now.")
  if diffuses and config.dit.remat == "attention":
    found.append("--config.dit.remat=block saves only the blocks' inputs.")
  ways = mesh["data"] * mesh["fsdp"]
  if config.data.rows > ways:
    found += _of_rows(config, mesh, ways)
  elif diffuses:
    found.append(" ".join(_of_row(config, mesh)))
  return found


def _of_state(state: float, config: config_lib.Config, mesh: dict[str, int]) -> str:
  line = f"The state takes {state / GB:.1f} GB of a chip:"
  for ways in range(mesh["data"], 1, -1):
    if mesh["data"] % ways == 0:
      axes = mesh | {"data": mesh["data"] // ways, "fsdp": mesh["fsdp"] * ways}
      if checks.accepts(config, axes):
        line += f" {_flag(axes)} makes that {state / ways / GB:.1f} GB"
        break
  else:
    line += " it is split over all chips that it divides over"
  flag = "--config.optimizer.moments_dtype=bfloat16"
  if config.optimizer.moments_dtype == "bfloat16":
    return line + "."
  if not checks.accepts(_with(config, optimizer={"moments_dtype": "bfloat16"}), mesh):
    flag += " --config.optimizer.beta2=0.95"
  return f"{line}; {flag} saves a quarter of it."


def _of_rows(config: config_lib.Config, mesh: dict[str, int], ways: int) -> Iterator[str]:
  """Fewer rows at once, the same total."""
  parts = config.data.rows // ways
  fewer, flags = _in_turn(config, ways, parts)
  if checks.accepts(fewer, mesh):
    yield f"A device has {parts} rows at once: {flags} processes them one by one."


def _of_row(config: config_lib.Config, mesh: dict[str, int]) -> Iterator[str]:
  """Fewer tokens of a row."""
  length = config.data.row_length
  yield f"A device has one row of {length // mesh['context']} tokens:"
  for axis in ("data", "fsdp"):
    axes = mesh | {axis: mesh[axis] // 2, "context": mesh["context"] * 2}
    fewer, flags = _in_turn(config, axes["data"] * axes["fsdp"], 2)
    if mesh[axis] % 2 == 0 and checks.accepts(fewer, axes):
      yield f"{_flag(axes)} {flags} halves it;"
      break
  if length % 2 == 0 and checks.accepts(
    _with(config, data={"row_length": length // 2}), mesh
  ):
    yield f"--config.data.row_length={length // 2} halves it, for clips no longer;"
  yield "more chips split the state further."


def _in_turn(
  config: config_lib.Config, rows: int, parts: int
) -> tuple[config_lib.Config, str]:
  """A config with `rows` rows at once, in more micro-batches, and its flags."""
  accumulate = config.train.accumulate * parts
  data = {"rows": rows, "balance_rows": 1}
  flags = f"--config.data.rows={rows} --config.train.accumulate={accumulate}"
  if config.data.balance_rows > 1:
    flags += " --config.data.balance_rows=1"
  return _with(config, data=data, train={"accumulate": accumulate}), flags


def _flag(axes: dict[str, int]) -> str:
  """The --mesh flag of these axes; data takes the rest."""
  named = (f"{axis}={size}" for axis, size in axes.items() if axis != "data")
  return f"--mesh={','.join(named)}"


def _with(config: config_lib.Config, **sections: dict[str, Any]) -> config_lib.Config:
  changed = {
    name: dataclasses.replace(getattr(config, name), **values)
    for name, values in sections.items()
  }
  return dataclasses.replace(config, **changed)
