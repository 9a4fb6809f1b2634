"""How often the loops of a compiled module run.

For some loops the compiler says so itself. For the others a counter is followed: its
start, its increment, and the constant it is compared with. All three are followed
through copies and fusions.
"""

import re
from typing import NamedTuple

from video_dit.plan.hlo import Computation, Instruction, Module

_THROUGH = ("copy", "bitcast", "convert", "copy-done", "copy-start", "reshape")
_FLIPPED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}


class _Value(NamedTuple):
  """A value of a computation.

  Attributes:
    where: the computation.
    made: the instruction that computes it.
    fusion: that the computation belongs to; None outside of fusions.
  """

  where: Computation
  made: Instruction
  fusion: "_Value | None" = None


def trips(module: Module, where: Computation, loop: Instruction) -> int | None:
  """How often the body of a `while` runs; None where the text does not say."""
  known = loop.backend.get("known_trip_count", {}).get("n")
  if known is not None:
    return int(known)
  compared = _comparison(module, module.computations[loop.calls["condition"][0]])
  if compared is None:
    return None
  index, limit, direction = compared
  start = _constant(module, _part(module, _operand(_Value(where, loop), 0), index))
  result = _root(module.computations[loop.calls["body"][0]])
  step = _increment(module, _part(module, result, index), index)
  if start is None or not step:
    return None
  span = {
    "LT": limit - start,
    "LE": limit - start + 1,
    "NE": limit - start,
    "GT": start - limit,
    "GE": start - limit + 1,
  }.get(direction)
  # The compiler removes a loop that never runs: zero iterations is a misread counter.
  return -(-span // abs(step)) if span is not None and span > 0 else None


def _comparison(module: Module, condition: Computation) -> tuple[int, int, str] | None:
  """Which part of the loop's tuple is compared with which constant, and how."""
  compare = _origin(module, _root(condition))
  if compare is None or compare.made.opcode != "compare":
    return None
  direction = compare.made.attribute("direction")
  left, right = _operand(compare, 0), _operand(compare, 1)
  if _constant(module, left) is not None:
    left, right, direction = right, left, _FLIPPED.get(direction, direction)
  index, limit = _index(module, left), _constant(module, right)
  return None if limit is None or index is None else (index, limit, direction)


def _increment(module: Module, value: _Value | None, index: int) -> int | None:
  """What is added to the counter for its next value; None if not only constants are."""
  found = _origin(module, value)
  if found is None:
    return None
  if _index(module, found) == index:
    return 0
  if found.made.opcode not in ("add", "subtract"):
    return None
  counter, change = _operand(found, 0), _operand(found, 1)
  if found.made.opcode == "add" and _constant(module, counter) is not None:
    counter, change = change, counter
  before, constant = _increment(module, counter, index), _constant(module, change)
  if before is None or constant is None:
    return None
  return before + (constant if found.made.opcode == "add" else -constant)


def _origin(module: Module, value: _Value | None) -> _Value | None:
  """What a value is a copy of; a fusion's is looked for inside, its operand outside."""
  while value is not None:
    _, made, fusion = value
    if made.opcode in _THROUGH:
      value = _operand(value, 0)
    elif made.opcode == "fusion":
      value = _root(module.computations[made.calls["calls"][0]], value)
    elif made.opcode == "parameter" and fusion is not None:
      value = _operand(fusion, int(made.operands[0]))
    elif made.opcode == "get-tuple-element":
      part = _part(module, _operand(value, 0), int(made.attribute("index")))
      if part is None:
        return value
      value = part
    else:
      return value
  return None


def _part(module: Module, value: _Value | None, index: int) -> _Value | None:
  """One part of a tuple that is made where it can be seen; None of any other."""
  found = _origin(module, value)
  if found is None or found.made.opcode != "tuple":
    return None
  return _operand(found, index)


def _operand(value: _Value, number: int) -> _Value | None:
  """An operand of the instruction that computes a value."""
  where, made, fusion = value
  found = where.get(made.operands[number]) if number < len(made.operands) else None
  return None if found is None else _Value(where, found, fusion)


def _root(where: Computation, fusion: _Value | None = None) -> _Value:
  """A computation's result."""
  return _Value(where, next(i for i in where.values() if i.root), fusion)


def _index(module: Module, value: _Value | None) -> int | None:
  """Which part of the loop's tuple a value is; None of any other."""
  found = _origin(module, value)
  if found is None or found.made.opcode != "get-tuple-element":
    return None
  of = _origin(module, _operand(found, 0))
  if of is None or of.made.opcode != "parameter":
    return None
  return int(found.made.attribute("index"))


def _constant(module: Module, value: _Value | None) -> int | None:
  """The value of a constant, or of one that fills an array."""
  found = _origin(module, value)
  if found is not None and found.made.opcode == "broadcast":
    found = _origin(module, _operand(found, 0))
  if found is None or found.made.opcode != "constant":
    return None
  text = found.made.operands[0] if found.made.operands else ""
  number = re.fullmatch(r"-?\d+", text)
  return int(number[0]) if number else None
