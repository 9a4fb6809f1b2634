"""The large configs, built abstractly: no weight is drawn, no device is needed.

Their partition is checked on meshes of more devices than a test can have.
"""

import functools
import importlib
import math

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType
import pytest

from video_dit import config as config_lib
from video_dit.models.dit.build import build
from video_dit.parallel import mesh as mesh_lib
from video_dit.parallel import partition

# Layers, width and heads; parameters in millions.
_SIZES = {
  "s": (12, 384, 3, 40),
  "b": (12, 768, 6, 159),
  "l": (24, 1024, 8, 560),
  "xl": (28, 1152, 9, 827),
  # As Wan-AI published them: 1,418,996,800 and 14,288,491,584.
  "wan_1_3b": (30, 1536, 12, 1419),
  "wan_14b": (40, 5120, 40, 14_288),
}


def _config(name: str) -> config_lib.Config:
  return config_lib.parse(importlib.import_module(f"configs.{name}").get_config())


def _patch_dim(config: config_lib.Config) -> int:
  return config.autoencoder.channels * math.prod(config.dit.patch)


@functools.cache
def _abstract(name: str):
  """The model's graph and the shapes of its parameters."""
  config = _config(name)

  def make():
    width = config.text.width
    return build(config.dit, _patch_dim(config), width, rngs=nnx.Rngs(0))

  return nnx.split(nnx.eval_shape(make))


def _mesh(*shape: int) -> AbstractMesh:
  return AbstractMesh(shape, mesh_lib.AXES, axis_types=(AxisType.Auto,) * 4)


def _leaves(name: str, mesh: AbstractMesh):
  """Shape and sharding of each parameter, by its path."""
  shapes = _abstract(name)[1]
  shardings = dict(jax.tree.leaves_with_path(partition.shardings(shapes, mesh)))
  sizes = dict(jax.tree.leaves_with_path(nnx.to_pure_dict(shapes)))
  assert shardings.keys() == sizes.keys()
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      sizes[path].shape,
      shardings[path],
    )
    for path in sizes
  }


@pytest.mark.parametrize("name", _SIZES)
def test_sizes_are_those_of_the_table(name):
  dit = _config(name).dit
  depth, width, heads, millions = _SIZES[name]
  assert (dit.depth, dit.width, dit.heads) == (depth, width, heads)
  assert dit.width // dit.heads == 128
  assert dit.patch == (1, 2, 2)
  total = sum(math.prod(shape) for shape, _ in _leaves(name, _mesh(1, 1, 1, 1)).values())
  assert round(total / 1e6) == millions


def test_xl_is_split_over_a_mesh_of_three_axes():
  mesh = _mesh(2, 2, 3, 1)
  leaves = _leaves("xl", mesh)
  expected = {
    "blocks/qkv/kernel": ((28, 1152, 3456), (None, "fsdp", "tensor")),
    "blocks/out/kernel": ((28, 1152, 1152), (None, "tensor", "fsdp")),
    "blocks/up/kernel": ((28, 1152, 4608), (None, "fsdp", "tensor")),
    "blocks/down/kernel": ((28, 4608, 1152), (None, "tensor", "fsdp")),
    "blocks/modulation/kernel": ((28, 1152, 6912), (None, "fsdp", "tensor")),
    "embed/kernel": ((64, 1152), (None, "fsdp")),
    "head/kernel": ((1152, 64), ("fsdp", None)),
  }
  for path, (shape, spec) in expected.items():
    found, sharding = leaves[path]
    assert (found, tuple(sharding.spec)) == (shape, spec), path


@pytest.mark.parametrize(
  ("name", "shape"),
  [
    *(("xl", shape) for shape in ((2, 2, 3, 1), (1, 8, 1, 2), (4, 16, 1, 1))),
    *(("wan_1_3b", shape) for shape in ((1, 8, 1, 1), (2, 4, 2, 1), (4, 4, 4, 2))),
    *(("wan_14b", shape) for shape in ((1, 8, 1, 1), (2, 16, 4, 1), (4, 64, 1, 2))),
  ],
)
def test_nearly_all_is_split_over_fsdp_and_tensor(name, shape):
  whole = held = 0
  for size, sharding in _leaves(name, _mesh(*shape)).values():
    whole += math.prod(size)
    held += math.prod(sharding.shard_shape(size))
  _, fsdp, tensor, _ = shape
  assert held < 1.05 * whole / (fsdp * tensor)


@pytest.mark.parametrize(
  ("name", "shape"),
  [
    *(("xl", shape) for shape in ((2, 2, 3, 1), (1, 2, 1, 4))),
    *(("wan_14b", shape) for shape in ((2, 2, 4, 1), (1, 2, 2, 4))),
  ],
)
def test_it_traces_on_rows_that_are_split_over_the_mesh(name, shape):
  config = _config(name)
  graph, shapes = _abstract(name)
  rows, length, segments, text = 8, 4096, 16, 512

  def array(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)

  def run(params, *batch):
    return nnx.merge(graph, params)(*batch)

  with jax.sharding.use_abstract_mesh(_mesh(*shape)):
    prediction = jax.eval_shape(
      run,
      shapes,
      array(rows, length, _patch_dim(config)),
      array(rows, segments),
      array(rows, length, dtype=jnp.int32),
      array(rows, length, 3),
      array(rows, text, config.text.width),
      array(rows, text, dtype=jnp.int32),
    )
  assert prediction.shape == (rows, length, _patch_dim(config))
  assert prediction.dtype == jnp.float32


def test_a_mesh_that_does_not_divide_the_width_is_refused_by_name():
  with pytest.raises(ValueError, match=r"axis 'embed' of size 1152.*fsdp=5"):
    _leaves("xl", _mesh(1, 5, 1, 1))
