"""The partition table: names to mesh axes, and which mistakes it names."""

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
import pytest

from video_dit.parallel import mesh as mesh_lib
from video_dit.parallel import partition

_MESH = AbstractMesh((2, 2, 4, 1), mesh_lib.AXES, axis_types=(AxisType.Auto,) * 4)


def _spec(shape, axes, mesh=_MESH) -> tuple:
  return tuple(partition.spec_for(("blocks", "qkv", "kernel"), shape, axes, mesh))


def test_names_become_mesh_axes():
  assert _spec((8, 12), ("embed", "heads")) == ("fsdp", "tensor")
  assert _spec((12, 8), ("mlp", "embed")) == ("tensor", "fsdp")
  assert _spec((7, 8), ("patch", "embed")) == (None, "fsdp")
  assert _spec((5,), (None,)) == (None,)


def test_state_is_split_over_context_too_where_it_divides():
  mesh = AbstractMesh((1, 2, 1, 4), mesh_lib.AXES, axis_types=(AxisType.Auto,) * 4)
  assert _spec((8, 12), ("embed", "heads"), mesh) == (("fsdp", "context"), None)
  assert _spec((12, 12), ("embed", "heads"), mesh) == ("fsdp", None)
  alone = AbstractMesh((2, 1, 1, 4), mesh_lib.AXES, axis_types=(AxisType.Auto,) * 4)
  assert _spec((8, 12), ("embed", "heads"), alone) == ("context", None)


def test_the_stream_is_split_by_token_over_tensor_where_it_divides():
  mesh = mesh_lib.make(jax.devices(), (1, 1, 4, 2))

  @jax.jit
  def run(x):
    return partition.constrain(x, "rows", "stream", None)

  with jax.set_mesh(mesh):
    split, context_alone = run(jnp.zeros((1, 16, 2))), run(jnp.zeros((1, 6, 2)))
  assert split.sharding.shard_shape(split.shape) == (1, 2, 2)
  assert context_alone.sharding.shard_shape(context_alone.shape) == (1, 3, 2)


def test_dimensions_ahead_of_the_names_are_stacked_layers():
  assert _spec((3, 8, 12), ("embed", "heads")) == (None, "fsdp", "tensor")
  assert _spec((5, 3, 8), ("embed",)) == (None, None, "fsdp")


def test_a_mesh_axis_of_one_device_splits_nothing():
  mesh = AbstractMesh((8, 1, 1, 1), mesh_lib.AXES, axis_types=(AxisType.Auto,) * 4)
  assert _spec((7, 9), ("embed", "heads"), mesh) == (None, None)


@pytest.mark.parametrize(
  ("shape", "axes", "said"),
  [
    ((8, 6), ("embed", "heads"), ["'heads' of size 6", "tensor=4", "Choose a smaller"]),
    ((3, 7, 8), ("embed", "heads"), ["'embed' of size 7", "fsdp=2", "config.mesh"]),
    ((8, 8), ("embed", "hedas"), ["no axis 'hedas'"]),
    ((8, 8), ("mlp", "heads"), ["two of the axes", "'mlp', 'heads'", "'tensor'"]),
    ((8,), ("embed", "heads"), ["shape (8,)", "('embed', 'heads')"]),
    ((8,), None, ["shape (8,)", "names None"]),
  ],
)
def test_a_parameter_that_cannot_be_laid_out_is_refused_by_name(shape, axes, said):
  with pytest.raises(ValueError) as refused:
    _spec(shape, axes)
  for part in ("blocks/qkv/kernel", *said):
    assert part in str(refused.value)


class _Layer(nnx.Module):
  def __init__(self, key):
    self.kernel = nnx.Param(jax.random.normal(key, (4, 8)), axes=("embed", "mlp"))


def test_shardings_are_a_dictionary_like_the_parameters():
  def stack():
    return jax.vmap(_Layer)(jax.random.split(jax.random.key(0), 3))

  mesh = mesh_lib.make(jax.devices(), (1, 2, 4, 1))
  shardings = partition.shardings(nnx.split(nnx.eval_shape(stack))[1], mesh)
  assert shardings["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
  assert shardings["kernel"].shard_shape((3, 4, 8)) == (3, 2, 2)


def test_an_activation_is_laid_out_inside_a_mesh_and_left_alone_outside():
  x = jnp.zeros((4, 6, 8))
  assert partition.constrain(x, "rows", "tokens", "mlp") is x
  mesh = mesh_lib.make(jax.devices(), (1, 2, 2, 2))
  with jax.set_mesh(mesh):
    y = jax.jit(lambda x: partition.constrain(x, "rows", "tokens", "mlp"))(x)
  assert y.sharding.shard_shape(y.shape) == (2, 3, 4)
