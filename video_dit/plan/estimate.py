"""From compiled programs to figures: seconds, MFU, memory, days, cost."""

import dataclasses
from typing import Any

from video_dit import config as config_lib
from video_dit.plan import hlo, residuals
from video_dit.plan import mix as mix_lib
from video_dit.plan.chips import Chip
from video_dit.plan.kernels import Kernels
from video_dit.plan.programs import Program
from video_dit.plan.walk import Cost, Walker

GB = 1e9


def program_figures(
  program: Program, chip: Chip, mesh: dict[str, int], mix: mix_lib.Mix
) -> dict[str, Any]:
  """What one program costs on one device; without seconds where it does not fit."""
  memory = dict(program.memory)
  figures: dict[str, Any] = {
    "compile_seconds": program.seconds,
    "fits": not program.too_large and memory["total"] <= chip.memory,
    "memory": memory,
  }
  memory["available"] = chip.memory
  if program.too_large:
    figures["too_large"] = program.too_large
    return figures
  module = hlo.parse(program.text)
  # The loop's stacks are part of the temporaries, but may share memory with others.
  saved = min(residuals.saved_bytes(module), memory["temporaries"])
  memory["activations"] = saved
  memory["temporaries"] -= saved
  cost = Walker(module, chip, mesh, Kernels(mix)).entry()
  return figures | cost_figures(cost)


def cost_figures(cost: Cost) -> dict[str, Any]:
  """A cost as written to JSON; all for one device."""
  collectives = [
    {"axes": axes, "kind": kind, **dataclasses.asdict(part)}
    for (axes, kind), part in sorted(cost.collectives.items())
  ]
  return {
    "step_seconds": cost.total,
    "seconds": dict(cost.seconds),
    "flops": cost.flops,
    "kernel_flops": cost.kernel_flops,
    "kernels": dict(cost.kernels),
    "bytes": cost.bytes,
    "collectives": collectives,
    "not_estimated": cost.unknown,
  }


def training_figures(
  figures: dict[str, Any],
  config: config_lib.Config,
  chip: Chip,
  devices: int,
  mix: mix_lib.Mix | None,
  price: float | None,
  steps: float,
) -> dict[str, Any]:
  """Adds what follows from a step's seconds: MFU, rates, days, cost."""
  seconds = figures.get("step_seconds")
  chips = devices / chip.devices
  found = dict(figures)
  if mix is not None:
    model = mix_lib.step_flops(config, mix, mix_lib.patch_dim(config))
    tokens = config.data.rows * config.train.accumulate * sum(mix.tokens)
    found |= {
      "model_flops": model,
      "tokens_per_step": tokens,
      "tokens": tokens * steps,
    }
    if seconds:
      found["mfu"] = model / (seconds * devices * chip.peak)
      found["tokens_per_second"] = tokens / seconds
      found["tokens_per_second_per_chip"] = tokens / seconds / chips
  if seconds:
    hours = seconds * steps / 3600
    found |= {"days": hours / 24, "chip_hours": hours * chips}
    if price is not None:
      found["cost"] = hours * chips * price
  return found


def host_figures(
  state_bytes: float,
  batch_bytes: float,
  config: config_lib.Config,
  hosts: int,
  share: float,
  offloaded: float,
) -> dict[str, float]:
  """Memory of one host: a checkpoint being written, batches ahead, what devices offload.

  Args:
    state_bytes: of the whole state.
    batch_bytes: of a whole step's batch.
    config: of the run.
    hosts: their number.
    share: of a step's rows that a host makes; hosts that share rows each make them all.
    offloaded: bytes that all devices keep on their hosts.
  """
  ahead = config.data.prefetch + config.data.threads + 1
  found = {
    "checkpoint_copy": state_bytes / hosts,
    "batches": ahead * batch_bytes * share,
    "offloaded": offloaded / hosts,
    "process": 2e9,  # Python, JAX, the compiler
  }
  return {"hosts": hosts, **found, "total": sum(found.values())}
