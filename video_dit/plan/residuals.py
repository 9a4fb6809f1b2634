"""Activations: what the forward loop over the layers saves for the backward one."""

from video_dit.plan import loops
from video_dit.plan.hlo import Computation, Instruction, Module

_THROUGH = (
  *("copy", "bitcast", "convert", "copy-done", "copy-start", "reshape"),
  *("custom-call", "opt-barrier"),
)


def saved_bytes(module: Module) -> float:
  """Bytes of main memory that loops fill iteration by iteration and later loops read."""
  return sum(_saved(module, where) for where in module.computations.values())


def _saved(module: Module, where: Computation) -> float:
  whiles = {i.name: i for i in where.values() if i.opcode == "while"}
  if len(whiles) < 2:
    return 0.0
  total, seen = 0.0, set()
  for loop in whiles.values():
    given = where.get(loop.operands[0])
    for name in given.operands if given is not None else ():
      found = _made_by(where, where.get(name), whiles)
      if found is None or found in seen:
        continue
      seen.add(found)
      maker, index = whiles[found[0]], found[1]
      array = maker.arrays[index]
      turns = loops.trips(module, where, maker)
      stacked = len(array.dims) > 1 and turns and array.dims[0] % turns == 0
      if stacked and array.space == 0 and not _is_passed_on(module, maker, index):
        total += array.padded_bytes
  return total


def _made_by(
  where: Computation, instruction: Instruction | None, whiles: dict[str, Instruction]
) -> tuple[str, int] | None:
  """The loop, and the part of its result, that a value comes from."""
  while instruction is not None and instruction.opcode in _THROUGH:
    instruction = where.get(instruction.operands[0]) if instruction.operands else None
  if instruction is None or instruction.opcode != "get-tuple-element":
    return None
  if instruction.operands[0] not in whiles:
    return None
  return instruction.operands[0], int(instruction.attribute("index"))


def _is_passed_on(module: Module, loop: Instruction, index: int) -> bool:
  """Whether a loop passes this part on unchanged."""
  body = module.computations[loop.calls["body"][0]]
  root = next(i for i in body.values() if i.root)
  if root.opcode != "tuple":
    return False
  last = body.get(root.operands[index])
  if last is None or last.opcode != "get-tuple-element":
    return False
  return (
    body[last.operands[0]].opcode == "parameter" and int(last.attribute("index")) == index
  )
