"""How often the loops of a compiled module run.

For some loops the compiler says so itself. For the others a counter is followed: its
start, its increment, and the constant it is compared with.
"""

import re

from video_dit.plan.hlo import Computation, Instruction, Module

_THROUGH = ("copy", "bitcast", "convert", "copy-done", "copy-start", "reshape")


def trips(module: Module, where: Computation, loop: Instruction) -> int | None:
  """How often the body of a `while` runs; None where the text does not say."""
  known = loop.backend.get("known_trip_count", {}).get("n")
  if known is not None:
    return int(known)
  condition = module.computations[loop.calls["condition"][0]]
  compared = _comparison(module, condition)
  if compared is None:
    return None
  index, limit, direction = compared
  body = module.computations[loop.calls["body"][0]]
  start = _start(module, where, loop, index)
  step = _step(module, body, index)
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
  root = next(i for i in condition.values() if i.root)
  scope, operands = condition, root.operands
  if root.opcode == "fusion":
    inner = module.computations[root.calls["calls"][0]]
    root = next(i for i in inner.values() if i.root)
    names = [_parameter(inner, name) for name in root.operands]
    operands = tuple(
      operands[number] if number is not None else name
      for number, name in zip(names, root.operands, strict=True)
    )
    scope = condition | inner
  if root.opcode != "compare":
    return None
  direction = root.attribute("direction")
  left, right = (scope.get(name) for name in operands)
  if left is None or right is None:
    return None
  limit, index = _constant(scope, right), _index(scope, left)
  if limit is None or index is None:
    flipped = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}
    direction = flipped.get(direction, direction)
    limit, index = _constant(scope, left), _index(scope, right)
  return None if limit is None or index is None else (index, limit, direction)


def _start(
  module: Module, where: Computation, loop: Instruction, index: int
) -> int | None:
  """The counter's first value."""
  made = _source(where, where.get(loop.operands[0]))
  if made is None or made.opcode != "tuple":
    return None
  return _constant(where, _source(where, where.get(made.operands[index])), module)


def _step(module: Module, body: Computation, index: int) -> int | None:
  """The counter's increment; 1 where the addition is hidden in a fusion."""
  root = next(i for i in body.values() if i.root)
  if root.opcode != "tuple":
    return 1
  added = _source(body, body.get(root.operands[index]))
  if added is None or added.opcode not in ("add", "subtract"):
    return 1
  parts = [_constant(body, _source(body, body.get(name))) for name in added.operands]
  found = [part for part in parts if part is not None]
  return found[0] if found else 1


def _source(where: Computation, instruction: Instruction | None) -> Instruction | None:
  """The source that an instruction copies."""
  while instruction is not None and instruction.opcode in _THROUGH:
    instruction = where.get(instruction.operands[0])
  return instruction


def _index(where: Computation, instruction: Instruction | None) -> int | None:
  found = _source(where, instruction)
  if found is None or found.opcode != "get-tuple-element":
    return None
  return int(found.attribute("index"))


def _constant(
  where: Computation, instruction: Instruction | None, module: Module | None = None
) -> int | None:
  found = _source(where, instruction)
  if found is not None and found.opcode == "broadcast":
    found = _source(where, where.get(found.operands[0]))
  if found is not None and found.opcode == "fusion" and module is not None:
    inner = module.computations[found.calls["calls"][0]]
    return _constant(inner, next(i for i in inner.values() if i.root))
  if found is None or found.opcode != "constant":
    return None
  number = re.fullmatch(r"-?\d+", found.operands[0] if found.operands else "")
  return int(number[0]) if number else None


def _parameter(inner: Computation, name: str) -> int | None:
  found = inner.get(name)
  if found is None or found.opcode != "parameter":
    return None
  return int(found.operands[0])
