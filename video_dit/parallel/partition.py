"""The partition table: names beside parameters to mesh axes, in one place.

Nothing in a model names a mesh axis; nothing in the table names a layer.
"""

from collections.abc import Mapping
import math
from typing import Any

from flax import nnx
import jax
from jax.sharding import NamedSharding, PartitionSpec

TABLE: dict[str, str | tuple[str, ...] | None] = {
  "layer": None,
  # Over `context` too where it divides: else its devices would hold copies of all state.
  "embed": ("fsdp", "context"),
  "heads": "tensor",
  "mlp": "tensor",
  "head": None,
  "patch": None,
  "text": None,
  "freq": None,
  "vocabulary": "tensor",
  "buckets": None,
  "window": None,
  "channels_in": None,
  "channels_out": ("fsdp", "context"),
}

# Which settings decide the sizes of the axes that must divide.
_SETTINGS = {
  "embed": "config.dit.width",
  "heads": "config.dit.heads",
  "mlp": "config.dit.width and config.dit.mlp_ratio",
  "vocabulary": "config.text.vocabulary",
  "channels_out": "config.autoencoder.widths",
}

ROWS = ("data", "fsdp")  # the mesh axes that split the rows of a batch


def row_ways(sizes: Mapping[str, int]) -> int:
  """Over how many devices the rows of a batch are split, by the sizes of the axes."""
  return math.prod(sizes[axis] for axis in ROWS)


def spec_for(
  path: tuple, shape: tuple[int, ...], axes: tuple[str | None, ...] | None, mesh
) -> PartitionSpec:
  """Turns the names beside one parameter into a PartitionSpec.

  Args:
    path: of the parameter, for messages.
    shape: of the parameter; dimensions before the named ones are stacked layers.
    axes: a name or None for each dimension.
    mesh: concrete or abstract.

  Raises:
    ValueError: no names, too many names, two names on one mesh axis, or a dimension
      that does not divide over its mesh axis.
  """
  where = "/".join(map(str, path))
  if axes is None or len(axes) > len(shape):
    raise ValueError(f"{where}: parameter of shape {shape} has the axis names {axes}.")
  names = ("layer",) * (len(shape) - len(axes)) + tuple(axes)
  targets: list[str | tuple[str, ...] | None] = []
  used: set[str] = set()
  for size, name in zip(shape, names, strict=True):
    if name is not None and name not in TABLE:
      raise ValueError(f"{where}: the partition table has no axis {name!r}.")
    first = mesh_axes(name)[:1]
    if used.intersection(first):
      raise ValueError(f"{where}: two of the axes {names} map to {first[0]!r}.")
    used.update(first)
    if first and size % mesh.shape[first[0]]:
      raise ValueError(
        f"{where}: axis {name!r} of size {size} does not divide over"
        f" {first[0]}={mesh.shape[first[0]]}. Choose a smaller {first[0]} in --mesh or"
        f" config.mesh, or a model of other sizes ({_SETTINGS[str(name)]})."
      )
    targets.append(_dividing(mesh_axes(name), size, mesh))
  return PartitionSpec(*targets)


def mesh_axes(name: str | None) -> tuple[str, ...]:
  """The mesh axes of a name: the first must divide it, others are used if they do."""
  found = TABLE.get(name) if name is not None else None
  return (found,) if isinstance(found, str) else found or ()


def _dividing(axes: tuple[str, ...], size: int, mesh) -> str | tuple[str, ...] | None:
  """The longest run of the mesh axes, from the first on, whose product divides a size."""
  kept: list[str] = []
  for axis in axes:
    size, rest = divmod(size, mesh.shape[axis])
    if rest:
      break
    kept += [axis] if mesh.shape[axis] > 1 else []
  return tuple(kept) if len(kept) > 1 else kept[0] if kept else None


def shardings(shapes: nnx.State, mesh: jax.sharding.Mesh):
  """The sharding of every parameter, as a pure dictionary like the parameters'.

  Args:
    shapes: abstract parameters that carry `axes`, from `nnx.eval_shape`.
    mesh: over which they are laid.
  """

  def one(path, variable):
    axes = variable.get_metadata().get("axes")
    return NamedSharding(mesh, spec_for(path, variable.shape, axes, mesh))

  return nnx.to_pure_dict(nnx.map_state(one, shapes))


def rows_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Layout of a batch's arrays: rows over `data` and `fsdp`."""
  return NamedSharding(mesh, PartitionSpec(ROWS))


def tokens_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Layout of per-token arrays: rows over `data` and `fsdp`, tokens over `context`."""
  return NamedSharding(mesh, PartitionSpec(ROWS, "context"))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Layout of arrays that every device holds completely."""
  return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, *axes) -> jax.Array:
  """Pins an activation's layout by logical names; does nothing outside a mesh.

  Args:
    x: the activation.
    *axes: for each dimension `rows`, `tokens`, `stream`, a name of the table, or None.
      `stream` are the tokens of the residual stream: split over `tensor` too where that
      divides, since all work on it is per token (sequence parallelism, Korthikanti et
      al., 2022, arXiv:2205.05198).
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  places: dict[Any, Any] = {**TABLE, "rows": ROWS, "tokens": "context", None: None}
  if "stream" in axes:
    tokens = x.shape[axes.index("stream")]
    places["stream"] = _dividing(("context", "tensor"), tokens, mesh)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*(places[a] for a in axes)))
