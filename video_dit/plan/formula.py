"""A plan by formula, for GPUs whose compiler is not installed.

step      sum over matrix products, attention forward, attention backward and elementwise
          work of FLOPs over a share of the peak (less of it for float32), or bytes over
          memory bandwidth; products are those of whole rows, padding included
links     parameters gathered forward and backward and gradients scattered, in the dtype
          of the products, over the slowest link that an axis crosses, half hidden; over
          tensor, the inputs of three products of a block are gathered and the outputs
          scattered: forward, backward, and where the backward pass recomputes them
copies    what `offload` sends to the host and back, where the work does not hide it
memory    state by the partition; saved inputs of each block, which `offload` keeps in the
          host's memory; one block's own arrays
"""

from typing import Any

import numpy as np

from video_dit import config as config_lib
from video_dit.models.dit import flops
from video_dit.parallel import partition
from video_dit.plan import checks, programs
from video_dit.plan import mix as mix_lib
from video_dit.plan.chips import FLOAT32, TENSOR_FLOAT32, Chip

# Passes over the tokens' width that elementwise work makes in a block, forward and
# backward, in XLA's programs for H100: norms, modulations, rotations, residuals, casts.
_PASSES = 120

# Attention's backward pass relative to its forward pass: seven products of a pair of
# blocks, in two kernels, instead of two.
_BACKWARD = 3.5

# What a block saves, in widths of the row: its input; with it attention's output; with
# these the eleven widths that its linear maps put out; all that its backward pass reads.
_SAVED = {"offload": 0, "block": 1, "attention": 2, "dots": 13, "none": 34}


def figures(
  config: config_lib.Config,
  chip: Chip,
  mesh: dict[str, int],
  mix: mix_lib.Mix,
  params: int,
) -> dict[str, Any]:
  """Seconds, memory and traffic of one training step on one device.

  Args:
    config: of a DiT's training.
    chip: a GPU.
    mesh: sizes of its axes.
    mix: of the rows.
    params: parameters of the model.
  """
  dit = config.dit
  item = 2 if config.train.compute_dtype == "bfloat16" else 4
  exact = item == 4  # float32, whose attention is three products of TensorFloat-32
  peak = chip.peak / (FLOAT32 if exact else 1)
  attention_peak = chip.peak / (3 * TENSOR_FLOAT32 if exact else 1)
  rows = config.data.rows * config.train.accumulate / partition.row_ways(mesh)
  split = mesh["context"] * mesh["tensor"]
  linear = _linear(config, mix) * rows / split
  attention = _attention(dit, mix.tokens, mix.text) * rows / split
  again = 0 if dit.remat in ("none", "dots") else 1
  attend_again = 1 if dit.remat == "block" else 0
  tokens = rows * mix.length / mesh["context"]
  moved = _PASSES * tokens * dit.width * item * dit.depth / mesh["tensor"]
  reached = [
    attention_peak * chip.attention_share(dit.width // dit.heads, backward=backward)
    for backward in (False, True)
  ]
  seconds = {
    "matrix": linear * (3 + again) / (peak * chip.matrix),
    "kernel": attention * (1 + attend_again) / reached[0]
    + attention * _BACKWARD / reached[1],
    "vector": moved * (1 + (dit.remat != "none") / 3) / chip.bandwidth,
  }
  # What goes to the host comes back; what the work takes longer than is hidden.
  kept = config.train.accumulate * memory(config, mesh, params).get("host", 0.0)
  seconds["copy"] = max(0.0, 2 * kept / chip.host_link - sum(seconds.values()))
  collectives = _collectives(config, chip, mesh, params, tokens, item)
  seconds["collective"] = sum(part["exposed"] for part in collectives)
  found = memory(config, mesh, params) | {"available": chip.memory}
  return {
    "fits": found["total"] <= chip.memory,
    "memory": found,
    "step_seconds": sum(seconds.values()),
    "seconds": seconds,
    "flops": linear * (3 + again) + attention * (1 + _BACKWARD + attend_again),
    "kernel_flops": attention * (1 + _BACKWARD + attend_again),
    "bytes": moved,
    "collectives": collectives,
    "not_estimated": [],
  }


def _linear(config: config_lib.Config, mix: mix_lib.Mix) -> float:
  """Forward FLOPs of a row's linear maps: of all its places, whatever fills them."""
  places = config.data.row_segments
  tokens = np.full(places, mix.length / places)
  text = np.full(places, config.data.row_text / places)
  forward = flops.forward_flops(
    config.dit,
    patch_dim=mix_lib.patch_dim(config),
    text_width=config.text.width,
    tokens_S=tokens,  # type: ignore[arg-type]
    text_tokens_S=text,  # type: ignore[arg-type]
  )
  return float(forward) - _attention(config.dit, tokens, text)


def _attention(dit: config_lib.DiT, tokens, text) -> float:
  """Forward FLOPs of the attention of segments."""
  tokens, text = np.asarray(tokens, np.float64), np.asarray(text, np.float64)
  keys = tokens + text + (dit.text_length > 0)
  return 4.0 * dit.width * dit.depth * float((tokens * keys).sum())


def _collectives(config, chip: Chip, mesh, params: int, tokens: float, item: int):
  """Traffic of each axis; half of what is not needed at once is hidden."""
  per_device = params / mesh["tensor"]
  found = []
  # Devices from the first to the last of a group: axes are laid out innermost last.
  reach = {"context": mesh["context"], "tensor": mesh["tensor"] * mesh["context"]}
  state = "fsdp" if mesh["context"] == 1 else "fsdp,context"  # over which it is split
  reach[state] = reach["tensor"] * mesh["fsdp"]
  reach["data"] = reach[state] * mesh["data"]

  def add(
    axes: str, kind: str, count: int, whole: float, ways: int, hidden: float
  ) -> None:
    if ways == 1:
      return
    rate = chip.link if reach[axes] <= chip.per_host else chip.network
    sent = whole * (ways - 1) / ways  # a device's own part stays
    seconds = sent / rate
    part = {"axes": axes, "kind": kind, "count": count, "bytes": sent}
    found.append({**part, "seconds": seconds, "exposed": seconds * (1 - hidden)})

  turns = config.train.accumulate
  blocks = turns * config.dit.depth
  split = mesh["fsdp"] * mesh["context"]
  gathered = turns * per_device * item
  add(state, "all-gather", 2 * blocks, 2 * gathered, split, 0.5)
  add(state, "reduce-scatter", blocks, gathered, split, 0.5)
  add("data", "all-reduce", 1, 2 * per_device / split * 4, mesh["data"], 0.5)
  width = tokens * config.dit.width * item * config.dit.depth
  gathers, scatters = (9, 8) if config.dit.remat not in ("none", "dots") else (6, 6)
  add("tensor", "all-gather", gathers * blocks, gathers * width, mesh["tensor"], 0.0)
  add("tensor", "reduce-scatter", scatters * blocks, scatters * width, mesh["tensor"], 0)
  add("context", "all-gather", 6 * blocks, 6 * width, mesh["context"], 0.5)
  return found


def memory(
  config: config_lib.Config, mesh: dict[str, int], params: int
) -> dict[str, float]:
  """Bytes of a device by class, in a training step of a DiT; arguments as `figures`'."""
  dit = config.dit
  item = 2 if config.train.compute_dtype == "bfloat16" else 4
  batch = programs.step_batch(config, checks.abstract_mesh(mesh))
  mine = params / mesh["tensor"] / mesh["fsdp"] / mesh["context"]
  moments = 2 if config.optimizer.moments_dtype == "bfloat16" else 4
  rows = config.data.rows / partition.row_ways(mesh)
  width = rows * config.data.row_length / mesh["context"] * dit.width * item
  hidden = dit.mlp_width / dit.width / mesh["tensor"]
  found = {
    "parameters": 4 * mine,
    "ema": 4 * mine,
    "optimizer": 2 * moments * mine,
    "batch": programs.device_bytes(batch),
    "activations": width * _SAVED[dit.remat] * dit.depth / mesh["tensor"],
    # One block's arrays, its modulations, and gradients of all parameters.
    "temporaries": width * (24 + 3 * hidden) + 4 * mine,
  }
  found["total"] = sum(found.values())
  if dit.remat == "offload":  # the blocks' inputs, and attention's output
    found["host"] = 2 * width * dit.depth / mesh["tensor"]
  return found
