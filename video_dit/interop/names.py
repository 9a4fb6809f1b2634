"""Tables that map others' names to ours, applied in both directions.

A table is a run of `Rule`s. `load_into` checks every name and shape before it reads a
value, then carries one tensor at a time to the devices; `save_from` goes back.

  Rule("norm/scale", "encoder.final_layer_norm.weight")
  Rule("blocks/q/kernel", "encoder.block.{i}.layer.0.SelfAttention.q.weight",
       "o i -> i o", layers=24)                       # stacked over layers
  Rule("blocks/{i}/qkv/kernel", ("b.{i}.q", "b.{i}.k", "b.{i}.v"),
       "(s a k) i -> i (a s k)", ...)                 # several of theirs, stacked first
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib
import re
import reprlib
from typing import Any

from absl import logging
import einops
from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from video_dit.interop import dtypes, placing
from video_dit.interop.extent import Extent
from video_dit.interop.safetensors_file import Outgoing
from video_dit.interop.tensors import Tensors

_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Rule:
  """How parameters of ours and tensors of theirs correspond.

  Attributes:
    ours: path of a parameter, `blocks/q/kernel`. Of several, the pattern's result is cut
      along its first axis.
    theirs: name of a tensor. Several are stacked along a new first axis.
    pattern: of einops, from theirs to ours; empty where nothing moves.
    sizes: of the pattern's axes, as far as either direction needs them.
    layers: `{i}` in the names counts to this. Where `ours` has none, the parameter is
      stacked over layers.
  """

  ours: str | tuple[str, ...]
  theirs: str | tuple[str, ...]
  pattern: str = ""
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  layers: int = 0


@dataclasses.dataclass(frozen=True)
class _Move:
  """One rule for one layer."""

  rule: Rule
  ours: tuple[str, ...]
  theirs: tuple[str, ...]
  layer: int | None  # place in a stacked parameter

  def forth(self, sources: Sequence[Any]) -> list[Any]:
    """Values of theirs to values of ours, of numpy or of jax."""
    rule = self.rule
    value = sources[0] if isinstance(rule.theirs, str) else _stack(sources)
    if rule.pattern:
      value = einops.rearrange(value, rule.pattern, **rule.sizes)
    return [value] if isinstance(rule.ours, str) else list(value)

  def back(self, values: Sequence[Any]) -> list[Any]:
    """Values of ours to values of theirs."""
    rule = self.rule
    value = values[0] if isinstance(rule.ours, str) else _stack(values)
    if rule.pattern:
      left, right = rule.pattern.split("->")
      value = einops.rearrange(value, f"{right} -> {left}", **rule.sizes)
    return [value] if isinstance(rule.theirs, str) else list(value)

  def shapes_of_theirs(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple]:
    """Shapes that the tensors must have for parameters of these shapes."""
    cut = 0 if self.layer is None else 1
    dummies = [jax.ShapeDtypeStruct(shapes[p][cut:], jnp.float32) for p in self.ours]
    return [x.shape for x in jax.eval_shape(lambda *x: self.back(x), *dummies)]


def _stack(values: Sequence[Any]) -> Any:
  stack = np.stack if isinstance(values[0], np.ndarray) else jnp.stack
  return stack(values)


def _moves(table: Iterable[Rule]) -> Iterator[_Move]:
  for rule in table:
    ours = (rule.ours,) if isinstance(rule.ours, str) else rule.ours
    theirs = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
    apart = any("{i}" in path for path in ours)
    for i in range(rule.layers or 1):
      here, there = (
        tuple(n.replace("{i}", str(i)) for n in names) for names in (ours, theirs)
      )
      yield _Move(rule, here, there, i if rule.layers and not apart else None)


def load_into(
  shadow: nnx.Module | nnx.State,
  tensors: Tensors,
  table: Iterable[Rule],
  *,
  dtype: jax.typing.DTypeLike | None = jnp.float32,
  mesh: jax.sharding.Mesh | None = None,
  ignored: Iterable[str] = (),
) -> dict:
  """Fills a model's parameters from tensors of others.

  All names and shapes are checked first. Then one tensor at a time is read, cast, and
  laid on the devices, so the host holds one tensor beyond the model.

  Args:
    shadow: the abstract model, of `nnx.eval_shape`, or its state.
    tensors: of the checkpoint.
    table: for all parameters of the model.
    dtype: of the parameters; None keeps the tensors'. Those that lie in one parameter,
      as of the layers of a stack, have there the narrowest that holds them all.
    mesh: that the parameters are laid over, by the names beside them; None puts them on
      the default device.
    ignored: patterns of names that the checkpoint may hold beside what is read.

  Returns:
    A pure dictionary of parameters, to be merged with the model's graph; shapes and
    layouts where the tensors are `abstract`.

  Raises:
    ValueError: tensors are missing, extra, or of the wrong shape or kind: all are listed;
      or one is not finite, or the dtype cannot hold its values.
  """
  table = tuple(table)
  compare(shadow, tensors, table, ignored=ignored)
  variables, moves = _variables(shadow), list(_moves(table))
  kinds = _kinds(tensors, moves, dtype)
  if tensors.abstract:
    state = shadow if isinstance(shadow, nnx.State) else nnx.state(shadow)
    return placing.abstract(state, kinds, mesh)
  _tell_coarse(tensors, moves)
  found: dict[str, jax.Array] = {}
  for move in moves:
    try:
      _load(move, tensors, kinds, variables, mesh, found)
    except dtypes.NotFiniteError as e:
      raise ValueError(_not_finite(tensors, move.theirs)) from e
  return traverse_util.unflatten_dict({variables[n][0]: x for n, x in found.items()})


def _load(move: _Move, tensors: Tensors, kinds, variables, mesh, found) -> None:
  """Adds what one rule for one layer says to the parameters found so far."""
  sources = [tensors.read(name) for name in move.theirs]
  if len(sources) > 1:  # numpy stacks what is of one dtype
    pairs, kind = zip(sources, move.theirs, strict=True), kinds[move.ours[0]]
    sources = [dtypes.cast(source, kind, name) for source, name in pairs]
  values = move.forth(sources)
  for path, value in zip(move.ours, values, strict=True):
    kind, name = kinds[path], move.theirs[0]
    parts, variable = variables[path]
    sharding = placing.sharding_of(parts, variable, mesh)
    if move.layer is None:
      found[path] = placing.place(value, kind, sharding, name)
      continue
    if path not in found:
      found[path] = placing.zeros(variable.shape, kind, sharding)
    part = placing.place(value, kind, placing.without_first(sharding), name)
    layer = jax.device_put(np.int32(move.layer))
    found[path] = placing.set_layer(found[path], part, layer)


def _tell_coarse(tensors: Tensors, moves: Iterable[_Move]) -> None:
  """Logs that tensors have one byte for each number, if some do."""
  theirs = {name for move in moves for name in move.theirs}
  kinds = [tensors.extents[name].dtype for name in theirs]
  coarse = [kind for kind in kinds if kind.itemsize == 1]
  if coarse:
    logging.warning(
      "%s: %d of %d tensors are %s, whose numbers have about one digit: what is computed"
      " with them is as coarse.",
      *(tensors.path, len(coarse), len(kinds)),
      ", ".join(sorted({str(kind) for kind in coarse})),
    )


def _not_finite(tensors: Tensors, theirs: Iterable[str]) -> str:
  """Which of several tensors has numbers that are not finite, and where it lies."""
  with np.errstate(invalid="ignore"):  # a NaN may be a signalling one
    wrong = {name: ~np.isfinite(tensors.read(name)) for name in theirs}
  name, where = next((name, where) for name, where in wrong.items() if where.any())
  return (
    f"{tensors.extents[name].path}: {name} is not finite: {where.sum():,} of its"
    f" {where.size:,} numbers are infinite or none at all. Copy it again."
  )


def compare(
  shadow: nnx.Module | nnx.State,
  tensors: Tensors,
  table: Iterable[Rule],
  *,
  ignored: Iterable[str] = (),
) -> None:
  """Checks names and shapes as `load_into` does, with the same arguments; reads nothing.

  Raises:
    ValueError: tensors are missing, extra, or of the wrong shape or kind: all are listed.
  """
  shapes = {name: v.shape for name, (_, v) in _variables(shadow).items()}
  check(tensors, _moves(table), shapes, ignored)


def _variables(shadow: nnx.Module | nnx.State) -> dict[str, tuple[Any, Any]]:
  """Parts of the name of each parameter, and the parameter."""
  state = shadow if isinstance(shadow, nnx.State) else nnx.state(shadow)
  return {"/".join(map(str, p)): (p, v) for p, v in nnx.to_flat_state(state)}


def _kinds(
  tensors: Tensors, moves: Iterable[_Move], dtype: jax.typing.DTypeLike | None
) -> dict[str, np.dtype]:
  """The dtype of each parameter."""
  theirs: dict[str, set[np.dtype]] = {}
  for move in moves:
    for path in move.ours:
      kinds = (tensors.extents[name].dtype for name in move.theirs)
      theirs.setdefault(path, set()).update(kinds)
  if dtype is not None:
    return dict.fromkeys(theirs, jnp.dtype(dtype))
  if any(np.dtype(np.float64) in kinds for kinds in theirs.values()):
    raise ValueError(
      f"{tensors.path}: holds float64, which would become float32 here. Pass"
      " dtype='float32' (--dtype=float32), or another dtype."
    )
  return {path: dtypes.common(kinds) for path, kinds in theirs.items()}


def held(tensors: Tensors, table: Iterable[Rule]) -> tuple[np.dtype, ...]:
  """In which dtypes the files hold what a table reads, sorted by name."""
  theirs = {name for move in _moves(table) for name in move.theirs}
  return tuple(sorted({tensors.extents[name].dtype for name in theirs}, key=str))


def check(
  tensors: Tensors,
  moves: Iterable[_Move],
  shapes: Mapping[str, tuple[int, ...]],
  ignored: Iterable[str] = (),
) -> None:
  """Compares names and shapes; raises one error that lists all mismatches."""
  present = tensors.names
  wanted: dict[str, tuple[int, ...]] = {}
  filled: set[str] = set()
  for move in moves:
    unknown = [path for path in move.ours if path not in shapes]
    assert not unknown, f"the table names {unknown[0]}, which the model does not have"
    filled.update(move.ours)
    theirs = zip(move.theirs, move.shapes_of_theirs(shapes), strict=True)
    wanted.update(theirs)
  assert filled == set(shapes), f"the table leaves out {sorted(set(shapes) - filled)[:4]}"
  skip = re.compile("|".join(f"(?:{p})" for p in ignored) or r"(?!)")
  missing = [f"{n} {shape}" for n, shape in wanted.items() if n not in present]
  beside = [n for n in present if n not in wanted and not skip.fullmatch(n)]
  extra = [f"{n} {present[n].shape}" for n in beside]
  wrong = [
    f"{n} has {present[n].shape}, needs {shape}"
    for n, shape in wanted.items()
    if n in present and present[n].shape != shape
  ]
  kinds = [
    f"{n} is {present[n].dtype}"
    for n in wanted
    if n in present and not jnp.issubdtype(present[n].dtype, jnp.floating)
  ]
  groups = (
    ("missing", missing),
    ("extra", extra),
    ("of the wrong shape", wrong),
    ("not of floating point", kinds),
  )
  told = [_listed(word, lines) for word, lines in groups if lines]
  if told:
    raise ValueError(
      f"{tensors.path}: the tensors do not fit the detected model.\n"
      + "\n".join(told)
      + "\nGive the config.json that belongs to these weights, or the whole checkpoint."
    )


def _listed(word: str, lines: list[str]) -> str:
  more = f"\n    and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
  return f"  {len(lines)} {word}:\n    " + "\n    ".join(lines[:_SHOWN]) + more


def check_naming(naming: str, kind: str, known: Iterable[str]) -> None:
  """Raises a ValueError if a kind of checkpoint has no such naming."""
  if naming not in (known := tuple(known)):
    raise ValueError(
      f"{naming!r} is not a naming of {kind}. Choose one of {', '.join(known)}."
    )


def check_carried(
  had: Any,
  told: Callable[[Tensors], Any],
  outgoing: Mapping[str, Outgoing],
  instead: str,
) -> None:
  """Refuses to write, without a `config.json`, what would then be read back as another.

  Args:
    had: sizes of the model, a dataclass.
    told: the sizes that tensors alone tell.
    outgoing: the tensors to be written.
    instead: the naming that comes with a `config.json`.

  Raises:
    ValueError: the tensors tell no sizes, or others.
  """
  place = pathlib.Path("what would be written")
  extents = {n: Extent(place, 0, x.shape, x.dtype) for n, x in outgoing.items()}
  remedy = f"This naming has no config.json to store them: choose --naming={instead}."
  try:
    found = told(Tensors(place, (), extents))
  except ValueError as e:
    raise ValueError(f"{e} {remedy}") from e
  pairs = {
    field.name: (getattr(had, field.name), getattr(found, field.name))
    for field in dataclasses.fields(had)
  }
  shown = {n: map(reprlib.repr, pair) for n, pair in pairs.items() if len(set(pair)) > 1}
  if lost := [f"{n}={a} (but {b})" for n, (a, b) in shown.items()]:
    raise ValueError(f"{place} could not be read back with {', '.join(lost)}. {remedy}")


def save_from(
  params: Mapping[str, Any],
  table: Iterable[Rule],
  *,
  dtype: jax.typing.DTypeLike | None = None,
) -> dict[str, Outgoing]:
  """The tensors of theirs that parameters of ours stand for; values come when asked for.

  Args:
    params: pure dictionary, as `load_into` returned it.
    table: that it was loaded by.
    dtype: of the tensors; None keeps the parameters'.

  `read` of a tensor raises a ValueError where the dtype does not hold its values.
  """
  flat = {
    "/".join(map(str, path)): value
    for path, value in traverse_util.flatten_dict(dict(params)).items()
  }
  shapes = {path: value.shape for path, value in flat.items()}
  outgoing = {}
  for move in _moves(table):
    theirs = zip(move.theirs, move.shapes_of_theirs(shapes), strict=True)
    kind = jnp.dtype(dtype or flat[move.ours[0]].dtype)
    for place, (name, shape) in enumerate(theirs):
      read = functools.partial(_read_back, flat, move, place, kind, name)
      outgoing[name] = Outgoing(shape, kind, read)
  return outgoing


def _read_back(flat, move: _Move, place: int, dtype: np.dtype, name: str) -> np.ndarray:
  values = [flat[path] for path in move.ours]
  if move.layer is not None:
    values = [value[move.layer] for value in values]
  theirs = move.back([np.asarray(jax.device_get(value)) for value in values])
  return dtypes.cast(theirs[place], dtype, name)
