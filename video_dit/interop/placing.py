"""Where parameters that are read from others' files lie: their layout, one at a time."""

from collections.abc import Mapping
import functools

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from video_dit.interop import dtypes
from video_dit.parallel import partition


def abstract(
  state: nnx.State,
  kinds: Mapping[str, np.dtype] | jax.typing.DTypeLike,
  mesh: jax.sharding.Mesh | None,
) -> dict:
  """Shapes and layouts of parameters, as `names.load_into` lays them.

  Args:
    state: of the abstract model.
    kinds: the dtype of each path, or of all.
    mesh: that they would be laid over.
  """
  found = {}
  for parts, variable in nnx.to_flat_state(state):
    path = "/".join(map(str, parts))
    kind = kinds[path] if isinstance(kinds, Mapping) else kinds
    sharding = sharding_of(parts, variable, mesh)
    found[parts] = jax.ShapeDtypeStruct(variable.shape, kind, sharding=sharding)
  return traverse_util.unflatten_dict(found)


def sharding_of(path, variable, mesh) -> jax.sharding.NamedSharding | None:
  """The layout of a parameter, by the names beside it; None without a mesh.

  A named axis that does not divide over its axis of the mesh stays whole: the sizes are
  the checkpoint's, and nobody can choose others.
  """
  if mesh is None:
    return None
  axes = variable.get_metadata().get("axes")
  sizes = variable.shape[len(variable.shape) - len(axes) :]
  firsts = [partition.mesh_axes(name)[:1] for name in axes]
  ways = [mesh.shape[first[0]] if first else 1 for first in firsts]
  kept = zip(axes, sizes, ways, strict=True)
  fitting = tuple(name if size % n == 0 else None for name, size, n in kept)
  spec = partition.spec_for(path, variable.shape, fitting, mesh)
  return jax.sharding.NamedSharding(mesh, spec)


def without_first(
  sharding: jax.sharding.NamedSharding | None,
) -> jax.sharding.NamedSharding | None:
  """The layout of one layer of a stack that is laid so."""
  if sharding is None:
    return None
  spec = jax.sharding.PartitionSpec(*sharding.spec[1:])
  return jax.sharding.NamedSharding(sharding.mesh, spec)


def place(value: np.ndarray, dtype: np.dtype, sharding, name: str) -> jax.Array:
  """A copy on the devices: none of it is backed by the file afterwards.

  Raises:
    NotFiniteError: it holds a number that is not finite, whatever the dtype.
    ValueError: it holds one that would not be finite in this dtype.
  """

  def copy(part: np.ndarray) -> np.ndarray:
    found = dtypes.cast(part, dtype, name)
    found = np.array(found, order="C") if found is part else found
    if not dtypes.is_finite(found):
      raise dtypes.NotFiniteError(f"{name} is not finite")
    return found

  if sharding is None:
    return jax.device_put(copy(value))
  return jax.make_array_from_callback(
    value.shape, sharding, lambda index: copy(value[index])
  )


def zeros(shape, dtype, sharding) -> jax.Array:
  """A stack that is to be filled, made where it lies."""
  return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)()


@functools.partial(jax.jit, donate_argnums=0)
def set_layer(whole: jax.Array, part: jax.Array, layer: jax.Array) -> jax.Array:
  """Puts a layer into a stack, in the stack's own memory."""
  return jax.lax.dynamic_update_index_in_dim(whole, part, layer, 0)
