"""A plan: every program of a run, compiled or by formula, and what follows from it."""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

import jax

from video_dit import config as config_lib
from video_dit import extras
from video_dit.data import loader
from video_dit.generator import request as request_lib
from video_dit.generator import rows as rows_lib
from video_dit.parallel import partition
from video_dit.plan import (
  checks,
  devices,
  encoders,
  estimate,
  fill,
  formula,
  gpus,
  programs,
  remedies,
)
from video_dit.plan import mix as mix_lib
from video_dit.plan.chips import Chip, Topology

STAGES = ("train", "sample", "encode")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What is to be planned.

  Attributes:
    config: of the run.
    topology: that it would run on.
    axes: the given mesh axes.
    clips: tokens of the clips in a row; empty for one clip a row.
    price: of a chip-hour, in any currency; None leaves out the cost.
    stages: of `STAGES`.
  """

  config: config_lib.Config
  topology: Topology
  axes: dict[str, int]
  clips: tuple[int, ...] = ()
  price: float | None = None
  stages: Sequence[str] = STAGES


def plan(
  request: Request, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
  """Plans a run.

  Returns:
    The figures, as they are written to JSON: those of the training step at the top,
    `sampler` and `encoder` below.

  Raises:
    ValueError: no such topology, or the config does not divide over the mesh.
  """
  config = request.config
  chip = devices.chip_of(request.topology)
  trains_dit = config.objective == "diffusion"
  if trains_dit:
    _check_kernel(request)
  mix = mix_lib.of(config, request.clips) if trains_dit else None
  if is_by_formula(request.topology):
    return _by_formula(request, chip, mix)
  if "sample" in request.stages and trains_dit:
    _check_sampling(config)
  mesh = devices.mesh_of(request.topology, request.axes, config.mesh)
  axes = dict(mesh.shape)
  notes, config = fill.notes(config, axes), fill.filled(config, axes)
  started = config.dit.checkpoint or config.train.initial  # its heads are what they are
  if request.topology.platform == "tpu" and trains_dit and not started:
    note = chip.note_on_heads(config.dit.width, config.dit.heads)
    notes += [note] if note else []
  notes += mix_lib.notes(config, mix) if mix else []
  found = _head(request, chip, axes, mix) | {"notes": notes}
  any_mix = mix or mix_lib.of(config)
  if "train" in request.stages:
    say(f"compiling the training step for {mesh.size} devices")
    found |= _training(request, chip, mesh, mix, any_mix)
  if "sample" in request.stages and trains_dit:
    say("compiling the sampler")
    found["sampler"] = _sampling(request.config, chip, mesh)
  if "encode" in request.stages:
    say("compiling the encoders")
    found["encoder"] = encoder = encoders.figures(config, chip, mesh, any_mix)
    if "clips_per_second" in encoder:
      rate = encoder["clips_per_second"] * clip_tokens(config)
      encoder["tokens_per_second"] = rate
  return found


def _check_kernel(request: Request) -> None:
  """Refuses a kernel that the topology's devices would only interpret.

  Raises:
    ValueError: it is a TPU's, and the devices are GPUs.
  """
  kernel = request.config.dit.attention
  if request.topology.platform == "gpu" and kernel.startswith("splash"):
    raise ValueError(
      f"config.dit.attention={kernel!r} is a kernel for TPU, which"
      f" --topology={request.topology.text} would only interpret. Choose 'auto' or"
      " 'triton'."
    )


def is_by_formula(topology: Topology) -> bool:
  """Whether the topology's compiler is not installed."""
  return topology.platform == "gpu" and not gpus.has_compiler()


def _head(request: Request, chip: Chip, axes: dict[str, int], mix) -> dict[str, Any]:
  config = fill.filled(request.config, axes)
  devices_ = math.prod(axes.values())
  chips = devices_ // chip.devices
  head = {
    "config": config.name,
    "topology": request.topology.text,
    "estimated_by": "compiler",
    "devices": devices_,
    "chips": chips,
    "hosts": max(1, math.ceil(chips / chip.per_host)),
    "mesh": axes,
    "peak_flops_per_device": chip.peak,
    "rows": config.data.rows * config.train.accumulate,
  }
  if mix is not None:
    head |= {
      "clips_in_a_row": len(mix.tokens),
      "tokens_of_a_clip": mix.tokens[0],
      "row_length": mix.length,
      "fill": mix.fill,
      "remat": config.dit.remat,
    }
  return head


def _training(request: Request, chip: Chip, mesh, mix, any_mix) -> dict[str, Any]:
  axes = dict(mesh.shape)
  config, steps = fill.filled(request.config, axes), fill.steps(request.config, axes)
  program = programs.training(config, mesh)
  figures = estimate.program_figures(program, chip, axes, any_mix)
  figures = estimate.training_figures(
    figures, config, chip, mesh.size, mix, request.price, steps
  )
  figures["parameters"] = sum(x.size for x in jax.tree.leaves(program.shapes.params))
  state = programs.global_bytes(program.shapes)
  batch = programs.global_bytes(programs.step_batch(config, mesh))
  hosts = max(1, math.ceil(mesh.size / chip.devices / chip.per_host))
  figures["checkpoint_bytes"] = state
  figures["host_memory"] = estimate.host_figures(
    *(state, batch, config, hosts, _most_rows(mesh, config.data.rows)),
    figures["memory"].get("host", 0.0) * mesh.size,
  )
  figures["remedies"] = remedies.of_training(figures, request.config, axes)
  return figures


def _check_sampling(config: config_lib.Config) -> None:
  """Refuses the config's own clip size where sampling would refuse it.

  Raises:
    ValueError: it is off the grid, or longer than a sampling row.
  """
  sample = config.sample
  clip = request_lib.Request(
    prompt="",
    height=sample.height,
    width=sample.width,
    frames=sample.frames,
    frames_per_second=sample.frames_per_second,
  )
  shape = rows_lib.Shape(
    rows=sample.rows,
    length=sample.row_length or config.data.row_length,
    segments=config.data.row_segments,
    text=config.data.row_text,
  )
  try:
    clip.check(config_lib.Grid.of(config))
    rows_lib.plan([clip], [clip_tokens(config)], [0], shape)
  except ValueError as error:
    raise ValueError(f"{error} Or plan without the sampler: --stages=train.") from error


def _sampling(config: config_lib.Config, chip: Chip, mesh) -> dict[str, Any]:
  """Seconds of a group of rows, and of a clip of the config's own size."""
  own, ways = config, partition.row_ways(mesh.shape)
  rows = -(-config.sample.rows // ways) * ways
  sample = dataclasses.replace(config.sample, rows=rows)
  config = dataclasses.replace(config, sample=sample)
  length = sample.row_length or config.data.row_length
  tokens = clip_tokens(config)
  rowed = dataclasses.replace(
    config, data=dataclasses.replace(config.data, row_length=length)
  )
  mix = mix_lib.of(rowed, (tokens,))
  program = programs.sampling(config, mesh)
  figures = estimate.program_figures(program, chip, dict(mesh.shape), mix)
  figures |= {"rows": rows, "clips": rows * len(mix.tokens), "tokens_of_a_clip": tokens}
  if figures.get("step_seconds"):
    seconds = figures["seconds_of_a_group"] = figures.pop("step_seconds")
    figures["clips_per_second"] = figures["clips"] / seconds
  figures["remedies"] = remedies.of_sampling(figures, own, dict(mesh.shape), tokens)
  return figures


def clip_tokens(config: config_lib.Config) -> int:
  """Tokens of a clip of the size that the config generates."""
  grid, sample = config_lib.Grid.of(config), config.sample
  return math.prod(grid.tokens(sample.height, sample.width, sample.frames))


def _most_rows(mesh: jax.sharding.Mesh, rows: int) -> float:
  """The greatest share of a step's rows that a host makes."""
  hosts = {device.process_index for device in mesh.devices.flat}
  sharding = partition.rows_sharding(mesh)
  return max(len(loader.Share.of(sharding, rows, host).rows) for host in hosts) / rows


def _by_formula(request: Request, chip: Chip, mix) -> dict[str, Any]:
  """A DiT's training, by formula, on GPUs."""
  config = request.config
  if mix is None:
    raise ValueError(
      f"--topology={request.topology.text}: only the DiT is planned by formula, but this"
      " config trains the autoencoder. Plan it with cpu:N or a TPU topology."
    )
  if "train" not in request.stages:
    raise ValueError(
      f"--stages={','.join(request.stages)}: only the training step is planned by"
      " formula. Install XLA's compiler for GPUs, which needs no GPU, with"
      f" {extras.command('plan')}, or ask for --stages=train."
    )
  sizes = devices.axis_sizes(
    request.topology, request.topology.count, request.axes, config.mesh
  )
  axes = dict(zip(("data", "fsdp", "tensor", "context"), sizes, strict=True))
  notes, config = fill.notes(config, axes), fill.filled(config, axes)
  mesh = checks.abstract_mesh(axes)
  notes += mix_lib.notes(config, mix)
  params = sum(x.size for x in jax.tree.leaves(checks.parameters(config, mesh)))
  notes.append(
    f"by formula: {extras.command('plan')} adds XLA's compiler for GPUs, which gives"
    " memory, FLOPs and traffic, and needs no GPU"
  )
  if config.dit.attention in ("dense", "chunked"):
    notes.append(
      f"by formula attention takes as long as the GPU's kernels:"
      f" dit.attention={config.dit.attention} takes longer"
    )
  left = [stage for stage in request.stages if stage != "train"]
  if left:
    notes.append(f"not planned by formula: {' and '.join(left)}")
  found = _head(request, chip, axes, mix) | {"notes": notes, "estimated_by": "formula"}
  figures = formula.figures(config, chip, axes, mix, params)
  found |= estimate.training_figures(
    figures,
    config,
    chip,
    math.prod(sizes),
    mix,
    request.price,
    fill.steps(request.config, axes),
  )
  moments = 2 if config.optimizer.moments_dtype == "bfloat16" else 4
  state = params * (8 + 2 * moments)
  found |= {"parameters": params, "checkpoint_bytes": state}
  batch = programs.global_bytes(programs.step_batch(config, mesh))
  hosts = found["hosts"]
  share = max(1 / hosts, 1 / partition.row_ways(axes))
  offloaded = found["memory"].get("host", 0.0) * math.prod(sizes)
  found["host_memory"] = estimate.host_figures(
    state, batch, config, hosts, share, offloaded
  )
  found["remedies"] = remedies.of_training(found, request.config, axes)
  return found
