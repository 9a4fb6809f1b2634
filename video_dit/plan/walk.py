"""Walks a compiled module as a chip would run it, and adds up times, FLOPs and bytes.

A computation's instructions run one after the other, in the order of the schedule:

    fusion      the compiler's own `estimated_cycles` over the clock; where it has none,
                the larger of matrix FLOPs over the share of the peak that products reach
                and bytes over bandwidth
    kernel      its matrix FLOPs over the share of the peak that such kernels reach
    collective  bytes that leave the device over the links' bandwidth; one that is started
                early costs only what is left when it is waited for
    copy        likewise, over the bandwidth of memory or of the host; of a stack of which
                a part is taken or put, that part
    while       its body, as often as it runs; conditional: the longest branch

The compiler's own `optimal_seconds` counts a loop's body once, and kernels not at all.
"""

import collections
from collections.abc import Callable
import dataclasses
import functools

from video_dit.plan import groups, loops, traffic, work
from video_dit.plan.chips import FLOAT32, TENSOR_FLOAT32, Chip
from video_dit.plan.hlo import Computation, Instruction, Module

COLLECTIVES = {
  "all-gather": "all-gather",
  "all-reduce": "all-reduce",
  "reduce-scatter": "reduce-scatter",
  "all-to-all": "all-to-all",
  "ragged-all-to-all": "all-to-all",
  "collective-permute": "permute",
  "collective-broadcast": "permute",
}
_FREE = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
  *("partition-id", "replica-id", "opt-barrier", "domain", "add-dependency", "iota"),
}
_NO_ESTIMATE = 1e15  # the compiler writes 2^63 - 1 where it has none


@dataclasses.dataclass(frozen=True)
class Kernel:
  """What an attention kernel does.

  Attributes:
    flops: of its matrix products.
    backward: whether of a backward pass.
    head_size: of its heads.
    pace: FLOP/s relative to the usual blocks.
  """

  flops: float
  backward: bool
  head_size: int = 128
  pace: float = 1.0


@dataclasses.dataclass
class Collected:
  """One kind of collective over some mesh axes.

  Attributes:
    count: how often it runs in a step.
    bytes: that leave each device.
    seconds: on the links.
    exposed: of these, seconds that are not hidden.
  """

  count: float = 0.0
  bytes: float = 0.0
  seconds: float = 0.0
  exposed: float = 0.0


@dataclasses.dataclass
class Cost:
  """What one device does.

  Attributes:
    seconds: by kind: matrix, vector, kernel, collective (exposed), copy (exposed).
    flops: of matrix products and convolutions, kernels included.
    kernel_flops: of kernels alone.
    bytes: read and written in the device's memory, by fusions and single operations.
    collectives: by (mesh axes, kind).
    unknown: loops whose trip count is not in the text; counted once.
    kernels: FLOPs of each kernel by name.
  """

  seconds: dict[str, float] = dataclasses.field(
    default_factory=lambda: collections.defaultdict(float)
  )
  flops: float = 0.0
  kernel_flops: float = 0.0
  bytes: float = 0.0
  collectives: dict[tuple[str, str], Collected] = dataclasses.field(default_factory=dict)
  unknown: list[str] = dataclasses.field(default_factory=list)
  kernels: dict[str, float] = dataclasses.field(
    default_factory=lambda: collections.defaultdict(float)
  )

  @property
  def total(self) -> float:
    """Total seconds."""
    return sum(self.seconds.values())

  def add(self, other: "Cost", times: float = 1.0) -> None:
    """Adds another's cost, `times` over."""
    for kind, value in other.seconds.items():
      self.seconds[kind] += times * value
    for name, value in other.kernels.items():
      self.kernels[name] += times * value
    self.flops += times * other.flops
    self.kernel_flops += times * other.kernel_flops
    self.bytes += times * other.bytes
    self.unknown.extend(u for u in other.unknown if u not in self.unknown)
    for key, part in other.collectives.items():
      mine = self.collectives.setdefault(key, Collected())
      for field in dataclasses.fields(Collected):
        grown = getattr(mine, field.name) + times * getattr(part, field.name)
        setattr(mine, field.name, grown)


class Walker:
  """Costs of a module's computations.

  Args:
    module: compiled for one device of the mesh.
    chip: that runs it.
    mesh: sizes of its axes, in order.
    kernel: custom call and its computation -> what it does; None where unknown.
  """

  def __init__(
    self,
    module: Module,
    chip: Chip,
    mesh: dict[str, int],
    kernel: Callable[[Computation, Instruction], Kernel | None],
  ):
    self._module, self._chip, self._mesh, self._kernel = module, chip, mesh, kernel
    self._num_devices = 1
    for size in mesh.values():
      self._num_devices *= size
    self.computation = functools.cache(self._computation)
    self.matrix_flops = functools.cache(self._matrix_flops)

  def entry(self) -> Cost:
    """Cost of the whole module."""
    return self.computation(self._module.entry)

  def _computation(self, name: str) -> Cost:
    where = self._module.computations[name]
    cost, started = Cost(), {}
    for instruction in where.values():
      opcode = instruction.opcode
      if opcode in _FREE:
        continue
      if opcode.endswith("-start"):
        started[instruction.name] = (cost.total, *self._transfer(where, instruction))
      elif opcode.endswith("-done"):
        self._finish(cost, started.pop(instruction.operands[0], None))
      elif not opcode.endswith("-update"):
        self._run(cost, where, instruction)
    # Transfers still in flight at the end are awaited by another computation.
    for entry in started.values():
      self._finish(cost, entry)
    return cost

  def _run(self, cost: Cost, where: Computation, instruction: Instruction) -> None:
    opcode, calls = instruction.opcode, instruction.calls
    if opcode == "while":
      turns = loops.trips(self._module, where, instruction)
      if turns is None:
        cost.unknown.append(instruction.name)
      cost.add(self.computation(calls["body"][0]), 1 if turns is None else turns)
    elif opcode == "conditional":
      names = [name for part in calls.values() for name in part]
      cost.add(max((self.computation(n) for n in names), key=lambda c: c.total))
    elif opcode == "call":
      cost.add(self.computation(next(iter(calls.values()))[0]))
    elif opcode in COLLECTIVES:
      key, part = self._collective(where, instruction, opcode)
      part.exposed = part.seconds
      cost.seconds["collective"] += part.seconds
      cost.add(Cost(collectives={key: part}))
    elif opcode == "custom-call" and self._is_kernel(instruction):
      self._run_kernel(cost, where, instruction)
    else:
      self._run_operation(cost, where, instruction)

  def _run_operation(self, cost, where, instruction) -> None:
    """A fusion or a single operation."""
    flops = work.flops(where, instruction)
    if instruction.opcode == "custom-call" and not flops:
      return
    for name in instruction.calls.get("calls", ()):
      flops += self.matrix_flops(name)
    moved = self._bytes(where, instruction)
    window = instruction.backend.get("window_config", {})
    cycles = float(window.get("estimated_cycles") or 0.0)
    if 0 < cycles < _NO_ESTIMATE and self._chip.clock:
      seconds = cycles / self._chip.clock
    else:
      reached = self._chip.peak * (1.0 if self._chip.clock else self._chip.matrix)
      if self._chip.network:
        reached /= self._slowdown(where, instruction)
      seconds = max(flops / reached, moved / self._chip.bandwidth)
    cost.seconds["matrix" if flops else "vector"] += seconds
    cost.flops += flops
    cost.bytes += moved

  def _slowdown(self, where, instruction) -> int:
    """A GPU's time for a product, or for those of a fusion, over that in bfloat16."""
    if work.flops(where, instruction):
      given = (where[name] for name in instruction.operands[:2] if name in where)
      if all(operand.arrays[0].dtype != "f32" for operand in given):
        return 1
      whole = "highest" in instruction.text.lower()
      return FLOAT32 if whole else TENSOR_FLOAT32
    names = instruction.calls.get("calls", ())
    inner = (self._module.computations[name] for name in names)
    found = (self._slowdown(i, product) for i in inner for product in i.values())
    return max(found, default=1)

  def _run_kernel(self, cost, where, instruction) -> None:
    chip, found = self._chip, self._kernel(where, instruction)
    if found is None:
      cost.unknown.append(instruction.name)
      return
    share = chip.attention_share(found.head_size, backward=found.backward) * found.pace
    moved = self._bytes(where, instruction)
    cost.seconds["kernel"] += max(
      found.flops / (chip.peak * share), moved / chip.bandwidth
    )
    cost.flops += found.flops
    cost.kernel_flops += found.flops
    cost.kernels[instruction.name.split(".")[0]] += found.flops
    cost.bytes += moved

  def _is_kernel(self, instruction: Instruction) -> bool:
    target = instruction.attribute("custom_call_target").strip('"')
    return "tpu_custom_call" in target or "triton" in target or "mosaic" in target

  def _transfer(self, where, start):
    """Key, cost on the links or None, and seconds of an operation started early."""
    kind = start.opcode.removesuffix("-start")
    if kind in COLLECTIVES:
      return (*self._collective(where, start, kind), "collective")
    for name in start.calls.get("calls", start.calls.get("called_computations", ())):
      inner = self._module.computations[name]
      for instruction in inner.values():
        if instruction.opcode in COLLECTIVES:
          found = self._collective(inner, instruction, instruction.opcode)
          return (*found, "collective")
    moved = traffic.sent(self._module, where, start)
    host = kind != "fusion" and 5 in (array.space for array in start.arrays)
    rate = self._chip.host_link if host else self._chip.bandwidth
    return None, Collected(seconds=moved / rate), "host" if host else "copy"

  def _finish(self, cost: Cost, entry) -> None:
    """Waits for what was started; only what the work since has not hidden is charged."""
    if entry is None:
      return
    since, key, part, kind = entry
    part.exposed = max(0.0, since + part.seconds - cost.total)
    cost.seconds[kind] += part.exposed
    if key:
      cost.add(Cost(collectives={key: part}))

  def _collective(self, where, instruction, opcode):
    """Mesh axes and kind of a collective, and its cost on the links."""
    kind = COLLECTIVES[opcode]
    moves = groups.pairs(instruction)
    found = moves or [groups.members(instruction, self._num_devices)]
    ways = len(found[0])
    named = [where[name] for name in instruction.operands if name in where]
    given = sum(operand.bytes for operand in named)
    sent = {
      # A device passes on all parts but its own.
      "all-gather": given * (ways - 1),
      "reduce-scatter": given * (ways - 1) / ways,
      "all-reduce": 2 * given * (ways - 1) / ways,
      # On a ring a part travels a quarter of the way round on average.
      "all-to-all": given * max(1.0, ways / 4) * (ways - 1) / ways,
      "permute": given,
    }[kind]
    # A permutation moves one way, over half of the links.
    rate = self._rate(found) / (2 if kind == "permute" else 1)
    part = Collected(count=1.0, bytes=sent, seconds=sent / rate)
    return (groups.axes(found, self._mesh), kind), part

  def _rate(self, found) -> float:
    """Bytes/s between members of a group, which may be on several hosts."""
    hosts = ({member // self._chip.per_host for member in group} for group in found)
    far = self._chip.network and any(len(host) > 1 for host in hosts)
    return self._chip.network if far else self._chip.link

  def _bytes(self, where: Computation, instruction: Instruction) -> float:
    """Bytes of the device's memory that an operation touches."""
    if instruction.opcode in ("dynamic-update-slice", "dynamic-slice", "slice"):
      index = 1 if instruction.opcode == "dynamic-update-slice" else None
      touched = where[instruction.operands[index]] if index else instruction
      return 2 * _main(touched)
    if instruction.opcode == "fusion":
      inner = self._module.computations[instruction.calls["calls"][0]]
      return traffic.touched(inner, where, instruction)
    operands = (where[name] for name in instruction.operands if name in where)
    return _main(instruction) + sum(map(_main, operands))

  def _matrix_flops(self, name: str) -> float:
    """FLOPs of products inside a fusion, fusions in it included."""
    where = self._module.computations[name]
    total = 0.0
    for instruction in where.values():
      total += work.flops(where, instruction)
      for inner in instruction.calls.get("calls", ()):
        total += self.matrix_flops(inner)
    return total


def _main(instruction: Instruction) -> float:
  """Bytes of a result in the device's main memory."""
  return sum(array.bytes for array in instruction.arrays if array.space == 0)
