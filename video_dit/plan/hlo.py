"""Reads the text of a compiled XLA module: computations, instructions, loops.

Only what an estimate needs is kept: shapes with their memory space, operands, called
computations, and attributes as text.
"""

import dataclasses
import functools
import json
import math
import re
from typing import Any

_BITS = {
  "pred": 8,
  "token": 0,
  "opaque": 0,
  **{f"{kind}{bits}": bits for kind in "su" for bits in (1, 2, 4, 8, 16, 32, 64)},
  **{"bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128},
}
_ARRAY = re.compile(r"(\w+)\[([\d,<= ]*)\](\{[^{}]*\})?")
_TILE = re.compile(r"T\((\d+(?:,\d+)*)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLS = ("calls", "to_apply", "body", "condition", "called_computations")
_CALL = re.compile(rf"\b({'|'.join(_CALLS)})=(\{{[^}}]*\}}|%[\w.\-]+)")
_BRANCH = re.compile(
  r"\b(branch_computations|true_computation|false_computation)=(\{[^}]*\}|%[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of a shape.

  Attributes:
    dtype: as XLA names it.
    dims: extents.
    space: memory space: 0 is the device's main memory, 1 on chip, 5 the host's.
    minor: dimensions from minor to major; empty where the text gives none.
    tile: of the layout's first tiling; empty where there is none.
  """

  dtype: str
  dims: tuple[int, ...]
  space: int = 0
  minor: tuple[int, ...] = ()
  tile: tuple[int, ...] = ()

  @property
  def bytes(self) -> float:
    """Bytes of the elements, without padding."""
    # All 8-bit floats begin with f8.
    bits = _BITS.get(self.dtype, 4 if self.dtype.startswith("f4") else 8)
    return math.prod(self.dims) * bits / 8

  @property
  def padded_bytes(self) -> float:
    """Bytes in memory: the minor dimensions are padded to the tile."""
    dims = list(self.dims)
    for axis, tile in zip(self.minor, reversed(self.tile), strict=False):
      dims[axis] = -(-dims[axis] // tile) * tile
    return dataclasses.replace(self, dims=tuple(dims)).bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: unique in its computation.
    opcode: of XLA, like `fusion`.
    arrays: of its result; several for a tuple.
    operands: names of instructions of the same computation, or a literal's text.
    text: attributes and metadata, unparsed.
    root: whether it is its computation's result.
  """

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  text: str
  root: bool = False

  @functools.cached_property
  def calls(self) -> dict[str, list[str]]:
    """Computations that it calls, by attribute."""
    found = [*_CALL.findall(self.text), *_BRANCH.findall(self.text)]
    return {key: _NAME.findall(value) for key, value in found}

  @functools.cached_property
  def backend(self) -> dict[str, Any]:
    """The backend's configuration; empty where it is missing or not JSON."""
    at = self.text.find("backend_config={")
    if at < 0:
      return {}
    try:
      start = at + len("backend_config=")
      return json.JSONDecoder().raw_decode(self.text, start)[0]
    except json.JSONDecodeError:
      return {}

  @property
  def op_name(self) -> str:
    """Where in the Python program it comes from."""
    found = re.search(r'op_name="([^"]*)"', self.text)
    return found[1] if found else ""

  def attribute(self, name: str) -> str:
    """The text of one attribute up to the next comma outside braces, or empty."""
    found = re.search(rf"\b{name}=(\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}}|[^, ]+)", self.text)
    return found[1] if found else ""

  @property
  def bytes(self) -> float:
    """Bytes of the result."""
    return sum(array.bytes for array in self.arrays)


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled module.

  Attributes:
    computations: by name, each its instructions by name in the order of the schedule.
    entry: name of the computation that runs first.
  """

  computations: dict[str, Computation]
  entry: str


def parse(text: str) -> Module:
  """Reads what `compiled.as_text()` returns.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations: dict[str, Computation] = {}
  entry, current = "", None
  for line in text.splitlines():
    if current is None:
      found = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
      if found and not line.startswith("HloModule"):
        current = computations.setdefault(found[2], {})
        entry = found[2] if found[1] else entry
    elif line.startswith("}"):
      current = None
    else:
      instruction = _instruction(line)
      if instruction:
        current[instruction.name] = instruction
  if not entry:
    raise ValueError("this is not the text of a compiled XLA module: it has no ENTRY.")
  return Module(computations, entry)


_HEAD = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")


def _instruction(line: str) -> Instruction | None:
  head = _HEAD.match(line)
  if not head:
    return None
  at = head.end()
  end = _closing(line, at) + 1 if line[at] == "(" else line.index(" ", at)
  arrays = tuple(
    _array(*found) for found in _ARRAY.findall(line[at:end]) if found[0] in _BITS or found
  )
  opcode_end = line.index("(", end)
  operands_end = _closing(line, opcode_end)
  inside = line[opcode_end + 1 : operands_end]
  operands = tuple(_NAME.findall(inside)) or ((inside.strip(),) if inside else ())
  return Instruction(
    name=head[2],
    opcode=line[end:opcode_end].strip(),
    arrays=arrays,
    operands=operands,
    text=line[operands_end + 1 :],
    root=bool(head[1]),
  )


def _array(dtype: str, dims: str, layout: str) -> Array:
  order, _, rest = layout.strip("{}").partition(":")
  tile = _TILE.search(rest)
  space = re.search(r"S\((\d+)\)", rest)
  return Array(
    dtype=dtype,
    dims=tuple(int(d.strip("<= ")) for d in dims.split(",") if d.strip()),
    space=int(space[1]) if space else 0,
    minor=tuple(int(i) for i in order.split(",") if i.isdigit()),
    tile=tuple(int(i) for i in tile[1].split(",")) if tile else (),
  )


def _closing(line: str, start: int) -> int:
  """Position of the parenthesis that closes the one at `start`."""
  depth = 0
  for found in re.compile(r"[()]").finditer(line, start):
    depth += 1 if found[0] == "(" else -1
    if depth == 0:
      return found.start()
  raise ValueError(f"unbalanced parentheses in {line[:80]!r}")
