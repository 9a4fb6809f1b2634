"""Reading and writing of configs: ConfigDict, nested dictionaries and text.

Values are checked against the annotations of `sections.py`; rules between them are in
`rules.py`.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import difflib
import json
import os
import types
import typing
from typing import Any, Literal

from video_dit.config import rules
from video_dit.config.sections import Config

_PATHS = ("path", "checkpoint", "tokenizer")  # keys, in any section, where ~ is expanded


def template(**leaves: Any):
  """A ConfigDict of every key at its default, for a file of `configs/` to change.

  Args:
    **leaves: top-level values, `name` and `objective` at least.

  Returns:
    A locked `ml_collections.ConfigDict`: unknown keys cannot be set.
  """
  import ml_collections

  config = Config(**leaves)
  return ml_collections.ConfigDict(to_dict(config)).lock()


def to_dict(config: Config) -> dict[str, Any]:
  """The config as nested plain dictionaries, tuples kept."""

  def section(value):
    if not dataclasses.is_dataclass(value):
      return value
    names = [f.name for f in dataclasses.fields(value)]
    return {name: section(getattr(value, name)) for name in names}

  return section(config)


def to_text(config: Config) -> str:
  """The config as sorted `dotted.key: value` lines, one per leaf, values in JSON."""
  return "".join(f"{key}: {json.dumps(value)}\n" for key, value in leaves(config))


def leaves(config: Config) -> Iterator[tuple[str, Any]]:
  """Yields `(dotted key, value)` of every leaf, sorted by key."""

  def walk(prefix: str, tree: Mapping):
    for name in sorted(tree):
      key = f"{prefix}{name}"
      if isinstance(tree[name], Mapping):
        yield from walk(f"{key}.", tree[name])
      else:
        yield key, tree[name]

  return walk("", to_dict(config))


def from_text(text: str) -> Config:
  """Reads what `to_text` wrote."""
  tree: dict[str, Any] = {}
  for line in text.splitlines():
    key, value = line.split(": ", 1)
    *sections, name = key.split(".")
    node = tree
    for section in sections:
      node = node.setdefault(section, {})
    node[name] = json.loads(value)
  return parse(tree)


def parse(tree: Mapping[str, Any]) -> Config:
  """Turns a ConfigDict or plain nested dictionaries into a checked `Config`.

  Raises:
    ValueError: an unknown key, a wrong type or a value out of its range; the message
      names the key, the value, the rule and the nearest right key.
  """
  if hasattr(tree, "to_dict"):
    tree = tree.to_dict()
  config = parse_section(Config, tree, "config")
  rules.check(config, dict(leaves(config)))
  return config


def check_key(key: str) -> None:
  """Refuses a dotted key, like `train.steps`, that no config has.

  Raises:
    ValueError: with the nearest right key.
  """
  kind: Any = Config
  where = "config"
  for name in key.split("."):
    if not dataclasses.is_dataclass(kind):
      raise ValueError(f"{where}.{name}: {where} is a value, and has no keys.")
    hints = typing.get_type_hints(kind)
    if name not in hints:
      raise _no_key(name, hints, where)
    kind, where = hints[name], f"{where}.{name}"


def _no_key(key: str, hints: Mapping[str, Any], where: str) -> ValueError:
  near = difflib.get_close_matches(key, hints, n=1, cutoff=0.4)
  hint = f" Did you mean {where}.{near[0]}?" if near else ""
  return ValueError(
    f"{where}.{key}: there is no such key.{hint} Keys here: {', '.join(sorted(hints))}."
  )


def parse_section(cls: type, tree: Any, where: str):
  """Builds one dataclass from a mapping, key by key; rules are not checked.

  Args:
    cls: `Config` or one of its sections.
    tree: its content; what is missing has its default.
    where: of the content, for messages.

  Raises:
    ValueError: an unknown key, or a wrong type.
  """
  if not isinstance(tree, Mapping):
    raise ValueError(f"{where}={tree!r}: a section of keys is expected here.")
  hints = typing.get_type_hints(cls)
  values = {}
  for key, value in tree.items():
    if key not in hints:
      raise _no_key(str(key), hints, where)
    kind = hints[key]
    if dataclasses.is_dataclass(kind):
      values[key] = parse_section(typing.cast(type, kind), value, f"{where}.{key}")
    else:
      values[key] = _parse_leaf(kind, value, f"{where}.{key}")
  missing = [
    f.name
    for f in dataclasses.fields(cls)
    if f.default is dataclasses.MISSING and f.name not in values
  ]
  if missing:
    raise ValueError(f"{where}.{missing[0]} is missing: it has no default. Set it.")
  return cls(**values)


def _parse_leaf(kind: Any, value: Any, where: str) -> Any:
  """Checks one value against its annotation; whole numbers may stand for floats."""
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin is Literal:
    if value not in args:
      near = difflib.get_close_matches(str(value), args, n=1)
      hint = f" Did you mean {near[0]!r}?" if near else ""
      raise ValueError(
        f"{where}={value!r}: must be one of {', '.join(map(repr, args))}.{hint}"
      )
    return value
  if origin is tuple:
    if not isinstance(value, (tuple, list)):
      raise ValueError(f"{where}={value!r}: must be a tuple, like (1, 2, 2).")
    kinds = (args[0],) * len(value) if args[-1] is Ellipsis else args
    if len(kinds) != len(value):
      raise ValueError(f"{where}={value!r}: must have {len(kinds)} entries.")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_parse_leaf(k, v, f"{where}[{i}]") for i, (k, v) in pairs)
  if kind is float and type(value) is int:
    try:
      return float(value)
    except OverflowError as error:
      raise ValueError(f"{where}: {error}.") from None
  if type(value) is not kind:
    name = kind.__name__ if not isinstance(kind, types.UnionType) else str(kind)
    raise ValueError(
      f"{where}={value!r}: must be {name}, but it is {type(value).__name__}."
    )
  if kind is str and where.rpartition(".")[2] in _PATHS:
    return os.path.expanduser(value)
  return value
