"""The programs of a run, compiled for devices that need not be present.

All arrays are abstract: shapes, dtypes and layouts. The training step is the one that
`train` runs, the sampler's program that of `sample`, the encoders' those of `preprocess`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import re
import tempfile
import time
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from video_dit import config as config_lib
from video_dit.checkpoints.state import TrainState
from video_dit.data.batch import Windows
from video_dit.generator import generator
from video_dit.generator.sampler import Sampler
from video_dit.models.autoencoder import frozen
from video_dit.parallel import partition
from video_dit.plan import mix as mix_lib
from video_dit.trainer import task as task_lib
from video_dit.trainer.step import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """One compiled program.

  Attributes:
    text: of the compiled module; empty where it does not fit.
    memory: bytes of a device by class; `total` is the compiler's own.
    seconds: how long compiling took.
    too_large: the compiler's message where the program does not fit, else empty.
    shapes: of the arguments, for the parts of the memory and the checkpoint.
  """

  text: str
  memory: dict[str, float]
  seconds: float
  too_large: str
  shapes: Any = None


def training(config: config_lib.Config, mesh: jax.sharding.Mesh) -> Program:
  """The training step of the config's objective."""
  task_lib.check_mesh(config, mesh)
  trainer = Trainer(task(config), config, mesh)
  state, batch = trainer.abstract, step_batch(config, mesh)
  parts = {
    "parameters": device_bytes(state.params),
    "ema": device_bytes(state.ema),
    "optimizer": device_bytes(state.opt),
    "batch": device_bytes(batch),
  }
  return _compile(lambda: trainer.step.lower(state, batch), mesh, parts, state)


def task(config: config_lib.Config) -> task_lib.Task:
  """What the config's objective trains."""
  if config.objective == "reconstruction":
    return task_lib.reconstruction_task(config)
  return task_lib.diffusion_task(config, config.autoencoder.channels, config.text.width)


def step_batch(config: config_lib.Config, mesh) -> Any:
  """The abstract batch of a training step, all its micro-batches."""
  rows = config.data.rows * config.train.accumulate
  if config.objective == "reconstruction":
    return _abstract_windows(config, mesh, rows)
  return mix_lib.abstract_rows(config, mesh, rows)


def sampling(config: config_lib.Config, mesh: jax.sharding.Mesh) -> Program:
  """The program that turns the noise of a group of rows into latents, always guided."""
  sample = dataclasses.replace(config.sample, guidance_interval=(0.0, 1.0))
  config = dataclasses.replace(config, sample=sample)
  graphdef, shapes = generator.abstract_model(
    config, config.autoencoder.channels, config.text.width
  )
  params = generator.abstract_params(shapes, mesh)
  sampler = Sampler(config, mesh, graphdef)
  rows = dataclasses.replace(
    config, data=dataclasses.replace(config.data, row_length=sampler.shape.length)
  )
  batch = mix_lib.abstract_rows(rows, mesh, sampler.shape.rows, jnp.float32)
  arrays = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
  arrays |= {
    "given": jax.ShapeDtypeStruct(
      batch.segments.shape, jnp.bool_, sharding=batch.segments.sharding
    ),
    "negative_text": batch.text,
    "negative_segments": batch.text_segments,
  }
  parts = {"parameters": device_bytes(params), "batch": device_bytes(arrays)}

  def lower():
    return sampler.program.lower(params, arrays, guided=True, has_given=False)

  return _compile(lower, mesh, parts)


def encoding(
  model: Any,
  mesh: jax.sharding.Mesh,
  size: tuple[int, int],
  clips: int,
  spans: Sequence[tuple[int, int]],
) -> Program:
  """An autoencoder's program for one later chunk of clips, which most chunks run.

  Args:
    model: abstract, as `frozen.Model`; its decoder lies on the devices too.
    mesh: over whose devices the clips are spread.
    size: height and width in pixels.
    clips: encoded at once, over all devices.
    spans: frames of the chunks.
  """
  graph, shapes = nnx.split(model)
  whole, split = partition.replicated(mesh), _over_all(mesh)
  params = _placed(nnx.to_pure_dict(shapes), whole)
  channel = jax.ShapeDtypeStruct((model.channels,), jnp.float32)
  statistics = _placed((channel, channel), whole)
  program, _ = frozen.programs(graph, jnp.float32)

  def chunk(number: int):
    start, stop = spans[number]
    shape = (clips, stop - start, *size, 3)
    return jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=split)

  cache = None
  if len(spans) > 1:
    _, cache = jax.eval_shape(program, params, statistics, chunk(0), None, None)
    cache = _placed(cache, split)
  lowered = jax.jit(program, donate_argnums=3, keep_unused=True)
  arguments = (params, statistics, chunk(min(1, len(spans) - 1)), cache, None)
  parts = {"parameters": device_bytes(params), "batch": device_bytes(arguments[2:])}
  return _compile(lambda: lowered.lower(*arguments), mesh, parts)


def captioning(
  model: nnx.Module,
  params: Any,
  mesh: jax.sharding.Mesh,
  shape: tuple[int, int],
  dtype: str,
) -> Program:
  """A text encoder's program for one group of captions.

  Args:
    model: abstract.
    params: shapes of its parameters; without layouts they lie whole on each device.
    mesh: of the devices that work on the group.
    shape: captions of the group, and tokens of each.
    dtype: of the arithmetic.
  """
  graphdef, _ = nnx.split(model)
  whole = partition.replicated(mesh)
  params = jax.tree.map(lambda x: x if x.sharding else _placed(x, whole), params)
  ids = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=whole)
  mask = jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=whole)

  def encode(params, ids, mask):
    return nnx.merge(graphdef, params)(ids, mask, dtype=dtype)

  parts = {"parameters": device_bytes(params), "batch": device_bytes((ids, mask))}
  program = jax.jit(encode, keep_unused=True)
  return _compile(lambda: program.lower(params, ids, mask), mesh, parts)


def device_bytes(tree: Any) -> float:
  """Bytes that one device holds of abstract arrays with layouts."""
  total = 0.0
  for leaf in jax.tree.leaves(tree):
    shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
    total += _size(shape) * leaf.dtype.itemsize
  return total


def global_bytes(tree: Any) -> float:
  """Bytes of abstract arrays, each counted once."""
  return float(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)))


def checkpoint_bytes(state: TrainState) -> float:
  """Bytes of a checkpoint before compression."""
  return global_bytes(state)


def _size(shape) -> float:
  total = 1.0
  for extent in shape:
    total *= extent
  return total


def _abstract_windows(config, mesh, rows: int) -> Windows:
  data, layout = config.data, task_lib.windows_layout(mesh)
  side = data.window_side
  shape = (rows, data.window_frames, side, side, 3)
  return Windows(
    clips=jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=layout.clips),
    keys=jax.ShapeDtypeStruct((rows, 2), jnp.uint32, sharding=layout.keys),
  )


def _over_all(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def _placed(tree: Any, sharding: NamedSharding) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


_FIRST = 200  # characters of a compiler's message that are shown


def _compile(
  lower: Callable[[], Any],
  mesh: jax.sharding.Mesh,
  parts: dict,
  shapes: Any = None,
) -> Program:
  """Compiles; a program that does not fit into memory is returned without text.

  Args:
    lower: makes the program.
    mesh: that it is compiled for.
    parts: bytes of its arguments by class.
    shapes: see `Program`.

  Raises:
    ValueError: the compiler refuses the program for another reason, as for a layout that
      it cannot make.
  """
  began = time.monotonic()
  with jax.set_mesh(mesh):
    lowered = lower()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    message = str(error)
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
      first = message.splitlines()[0] if message else repr(error)
      raise ValueError(
        f"the compiler refuses this program: {first[:_FIRST]}. Try another mesh, another"
        " number of rows (config.data.rows) or another config.dit.remat."
      ) from error
    return Program(
      text="",
      memory=parts | needed(message, sum(parts.values())),
      seconds=time.monotonic() - began,
      too_large=message,
      shapes=shapes,
    )
  found = compiled.memory_analysis()
  total = (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
    + found.temp_size_in_bytes
    + found.generated_code_size_in_bytes
  )
  memory = {
    **parts,
    "temporaries": float(found.temp_size_in_bytes),
    "code": float(found.generated_code_size_in_bytes),
  }
  # Outputs that reuse no argument's memory, and the padding of arguments.
  memory["other"] = total - sum(memory.values())
  memory["host"] = float(
    found.host_temp_size_in_bytes + found.host_argument_size_in_bytes
  )
  memory["total"] = float(total)
  return Program(
    text=_text(lowered, compiled),
    memory=memory,
    seconds=time.monotonic() - began,
    too_large="",
    shapes=shapes,
  )


def _text(lowered: jax.stages.Lowered, compiled: jax.stages.Compiled) -> str:
  """The compiled module as text."""
  try:
    # It contains GPU kernels as bytes.
    return re.sub(r' ir = "[^"]*",', "", compiled.as_text() or "")
  except jax.errors.JaxRuntimeError:
    # JAX cannot parse what libtpu assigns to a chip's sparse cores (large gathers); the
    # compiler can write the same text itself.
    with tempfile.TemporaryDirectory(prefix="video_dit_plan") as folder:
      lowered.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
      found = sorted(pathlib.Path(folder).glob("*.after_codegen.txt"))
      if not found:
        raise
      return max((path.read_text() for path in found), key=len)


def needed(message: str, known: float) -> dict[str, float]:
  """Bytes of temporaries, and in total, from a compiler's refusal.

  Args:
    message: of libtpu, which states either the total or only the temporaries.
    known: bytes of the arguments.
  """
  used = _gibibytes(r"Used ([\d.]+)([KMGT]) of", message)
  temporaries = _gibibytes(r"HLO temporaries \(([\d.]+)([KMGT])\)", message)
  temporaries = temporaries or max(0.0, used - known)
  return {"temporaries": temporaries, "total": used or known + temporaries}


def _gibibytes(pattern: str, message: str) -> float:
  found = re.search(pattern, message)
  if not found:
    return 0.0
  return float(found[1]) * 1024.0 ** ("KMGT".index(found[2]) + 1)
