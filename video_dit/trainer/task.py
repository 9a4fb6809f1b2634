"""What the trainer must know about a problem: a model, its loss and batch layout.

Nothing here opens data, so a task can be compiled without any.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

from flax import nnx
import jax

from video_dit import config as config_lib
from video_dit.checkpoints.state import Params
from video_dit.data.batch import Batch, Windows
from video_dit.models.autoencoder.model import Autoencoder
from video_dit.models.dit.build import build
from video_dit.parallel import context, partition
from video_dit.trainer import diffusion, reconstruction
from video_dit.trainer.sums import Sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """What a step trains.

  Attributes:
    build: makes the model from its random streams; it holds parameters only.
    loss: model, batch, seed, step -> `Sums`; seed and step are int32 scalars.
    layout: mesh -> sharding of each array of a batch, in a batch's structure.
    weight: of the average step; each step's gradient is its total over this, so that a
      clip counts the same in a step of many clips as in one of few. None divides by the
      step's own weight.
    initial: mesh -> the float32 parameters that a new run starts from, sharded over it;
      None draws them.
  """

  build: Callable[[nnx.Rngs], Any]
  loss: Callable[[Any, Any, jax.Array, jax.Array], Sums]
  layout: Callable[[jax.sharding.Mesh], Any]
  weight: float | None = None
  initial: Callable[[jax.sharding.Mesh], Params] | None = None


def check_mesh(config: config_lib.Config, mesh: jax.sharding.Mesh) -> None:
  """Refuses a mesh over which the batch or the model does not divide.

  Raises:
    ValueError: what does not divide, and the remedy.
  """
  ways = partition.row_ways(mesh.shape)
  if config.data.rows % ways:
    raise ValueError(
      f"config.data.rows={config.data.rows} does not divide over data x fsdp = {ways}"
      f" of the mesh. Choose a multiple of {ways}, or a mesh with smaller data or fsdp."
    )
  if config.objective == "reconstruction":
    for axis in ("tensor", "context"):
      if mesh.shape[axis] > 1:
        raise ValueError(
          f"{axis}={mesh.shape[axis]} of the mesh: the autoencoder is trained over data"
          f" and fsdp alone, so these devices would repeat work. Leave {axis} at 1."
        )
    return
  if config.dit.heads % mesh.shape["tensor"]:
    raise ValueError(
      f"config.dit.heads={config.dit.heads} does not divide over"
      f" tensor={mesh.shape['tensor']} of the mesh. Choose a multiple of it, or a mesh"
      " with a smaller tensor axis."
    )
  if config.data.row_length % mesh.shape["context"]:
    raise ValueError(
      f"config.data.row_length={config.data.row_length} does not divide over"
      f" context={mesh.shape['context']} of the mesh. Choose a multiple of it."
    )
  context.split(
    config.dit.context, config.dit.heads, mesh.shape["tensor"], mesh.shape["context"]
  )


def diffusion_task(config: config_lib.Config, channels: int, text_width: int) -> Task:
  """The DiT on latents.

  Args:
    config: of the run.
    channels: of the latents.
    text_width: of the captions' encodings.
  """
  patch_dim = channels * math.prod(config.dit.patch)
  return Task(
    build=lambda rngs: build(config.dit, patch_dim, text_width, rngs=rngs),
    loss=functools.partial(diffusion.loss, config=config),
    layout=rows_layout,
  )


def reconstruction_task(config: config_lib.Config) -> Task:
  """The autoencoder on windows of pixels."""
  return Task(
    build=lambda rngs: Autoencoder(config.autoencoder, rngs=rngs),
    loss=functools.partial(reconstruction.loss, config=config),
    layout=windows_layout,
  )


def rows_layout(mesh: jax.sharding.Mesh) -> Batch:
  """Layout of each array of a batch: per-token arrays are split over `context` too."""
  by_token = ("patches", "segments", "positions", "frames")
  names = [field.name for field in dataclasses.fields(Batch)]
  tokens, rows = partition.tokens_sharding(mesh), partition.rows_sharding(mesh)
  return Batch(**{name: tokens if name in by_token else rows for name in names})


def windows_layout(mesh: jax.sharding.Mesh) -> Windows:
  """Layout of windows: split by rows."""
  rows = partition.rows_sharding(mesh)
  return Windows(clips=rows, keys=rows)
