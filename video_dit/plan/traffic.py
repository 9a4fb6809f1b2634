"""Bytes of memory that a fusion reads and writes, and that an early transfer moves.

An operand that is only sliced counts its slices, and a result that is an operand with a
part replaced counts that part: a loop over blocks holds stacks of all of them.
"""

from video_dit.plan.hlo import Computation, Instruction, Module


def sent(module: Module, where: Computation, start: Instruction) -> float:
  """Bytes that a transfer moves that is started early.

  Args:
    module: of the instruction.
    where: the computation that it is in, for its operands.
    start: `fusion-start`, or the start of a copy or of a slice, under its own name or
      as `async-start` of a computation whose result it is.
  """
  kind = start.opcode.removesuffix("-start")
  names = start.calls.get("calls") or start.calls.get("called_computations")
  if kind == "fusion":
    return touched(module.computations[start.calls["calls"][0]], where, start)
  if not names:
    if kind == "dynamic-update-slice":
      return where[start.operands[1]].bytes
    # The shape has the operands, the result, and the transfer's own state.
    sliced = kind in ("dynamic-slice", "slice")
    return start.arrays[-2 if sliced else 0].bytes
  inner = module.computations[names[0]]
  root = next(i for i in inner.values() if i.root)
  if root.opcode == "fusion":
    return touched(module.computations[root.calls["calls"][0]], inner, root)
  return _written(root, inner)


def touched(inner: Computation, where: Computation, fusion: Instruction) -> float:
  """Bytes of the device's main memory.

  Args:
    inner: the fusion's computation.
    where: the computation that it is in, for its operands.
    fusion: an instruction.
  """
  users: dict[str, list[Instruction]] = {}
  parameters, root = {}, None
  for instruction in inner.values():
    for name in instruction.operands:
      users.setdefault(name, []).append(instruction)
    if instruction.opcode == "parameter":
      parameters[int(instruction.operands[0])] = instruction
    root = instruction if instruction.root else root
  total = 0.0
  for number, name in enumerate(fusion.operands):
    if name in where and _in_main(where[name]):
      total += _read(parameters[number], users) if number in parameters else 0.0
  assert root is not None, fusion.name
  return total + (_written(root, inner) if _in_main(fusion) else 0.0)


def _in_main(instruction: Instruction) -> bool:
  return all(array.space == 0 for array in instruction.arrays)


def _read(source: Instruction, users: dict[str, list[Instruction]]) -> float:
  total = 0.0
  for user in users.get(source.name, ()):
    first = user.operands[0] == source.name
    if user.opcode in ("dynamic-slice", "slice", "gather") and first:
      total += user.bytes
    elif user.opcode == "bitcast":
      total += _read(user, users)
    elif user.opcode == "dynamic-update-slice" and first:
      continue  # it is written in place
    else:
      return source.bytes
  return min(total, source.bytes)


def _written(result: Instruction, inner: Computation) -> float:
  if result.opcode == "dynamic-update-slice":
    return inner[result.operands[1]].bytes
  if result.opcode == "bitcast":
    return _written(inner[result.operands[0]], inner)
  if result.opcode == "tuple":
    return sum(_written(inner[name], inner) for name in result.operands)
  return result.bytes
