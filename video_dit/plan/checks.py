"""Finds what training would refuse, without devices and before compiling."""

from typing import Any

from flax import nnx
import jax

from video_dit import config as config_lib
from video_dit.config import rules
from video_dit.parallel import partition
from video_dit.plan import programs
from video_dit.trainer import task as task_lib


def parameters(config: config_lib.Config, mesh) -> Any:
  """The abstract parameters of a run, checked as training checks config and mesh.

  Args:
    config: of the run.
    mesh: concrete or abstract.

  Raises:
    ValueError: batch, model or a parameter does not divide over the mesh.
  """
  task_lib.check_mesh(config, mesh)
  task = programs.task(config)
  shapes = nnx.state(nnx.eval_shape(lambda: task.build(nnx.Rngs(0))), nnx.Param)
  partition.shardings(shapes, mesh)
  return shapes


def accepts(config: config_lib.Config, axes: dict[str, int]) -> bool:
  """Whether a run of the config would start on a mesh with these axes."""
  try:
    rules.check(config, dict(config_lib.leaves(config)))
    parameters(config, abstract_mesh(axes))
  except ValueError:
    return False
  return True


def abstract_mesh(axes: dict[str, int]) -> jax.sharding.AbstractMesh:
  """A mesh with these axes and without devices."""
  return jax.sharding.AbstractMesh(tuple(axes.values()), tuple(axes))
