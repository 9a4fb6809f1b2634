"""What is known about each chip: memory, peak, clock, bandwidths and fractions reached.

Peaks, memories and bandwidths are the vendors'. `clock` turns the compiler's cycles into
seconds. `link` is what two of a TPU's links carry between chips, as collectives were seen
to use. `attention` has the shares of the matrix units' peak that attention kernels reach:
on v5p from published steps, on the others estimates, none above what the compiler's
schedule of these kernels allows (tests/benchmarks/schedule.py). Matrix units of 256 by
256 (v6e, 7x) are half empty where heads have 128.
docs/performance.md says how far each can be trusted.
"""

import dataclasses
import difflib
import re

from video_dit.parallel import peaks
from video_dit.parallel.gpu import SHARE

# How much longer than bfloat16's a GPU's products take, by the peaks in NVIDIA's data
# sheets: a sixteenth in float32 on A100 and 67 of 989 TFLOP/s on H100.
FLOAT32 = 16
TENSOR_FLOAT32 = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One kind of device; several devices may make a chip.

  Attributes:
    name: as topologies name it.
    peak: bfloat16 FLOP/s of a device.
    memory: bytes of a device that programs may use.
    bandwidth: bytes/s of its memory.
    link: bytes/s to its neighbours, by all the links that one collective uses.
    network: bytes/s of a device to those of other hosts; 0 where links reach them.
    clock: cycles/s of the compiler's estimates; 0 where there are none.
    attention: head size, and shares of the peak that attention kernels reach from that
      size on, forward and backward; by size.
    matrix: share of the peak that plain matrix products reach, where no compiler has
      an estimate.
    devices: of a chip.
    per_host: chips of a host.
    host_link: bytes/s between a device and its host.
    options: of the TPU compiler's topology.
  """

  name: str
  peak: float
  memory: float
  bandwidth: float
  link: float
  network: float = 0.0
  clock: float = 1.75e9
  attention: tuple[tuple[int, float, float], ...] = ((128, 0.6, 0.7),)
  matrix: float = 0.7
  devices: int = 1
  per_host: int = 4
  host_link: float = 16e9
  options: tuple[tuple[str, str], ...] = ()

  def attention_share(self, head_size: int, *, backward: bool) -> float:
    """Share of the peak that attention kernels reach with heads of this size."""
    fitting = (row for row in self.attention if row[0] <= head_size)
    _, ahead, back = max(fitting, default=self.attention[0])
    return back if backward else ahead

  def note_on_heads(self, width: int, heads: int) -> str:
    """Says whether heads leave matrix units partly idle in attention; '' if not."""
    size, full = width // heads, max(self.attention)[0]
    if size % full == 0:
      return ""
    wide = -(-width // full) * full
    return (
      f"heads of {size} leave part of {self.name}'s matrix units empty in attention;"
      f" if you can choose the sizes, heads of {full} fill them, as with"
      f" --config.dit.width={wide} --config.dit.heads={wide // full}"
    )


_GIB = 2.0**30
_NETWORK = 50e9  # of a GPU: one card of 400 Gbit/s each
_ON_GPU = ((128, 0.45, 0.42),)
_WIDE = ((128, 0.25, 0.40), (256, 0.41, 0.71))
CHIPS = {
  chip.name: chip
  for chip in (
    Chip(
      name="v4",
      peak=peaks.FLOPS["TPU v4"],
      memory=30.75 * _GIB,
      bandwidth=1.2e12,
      link=90e9,
      clock=1.05e9,
      options=(("chip_config_name", "megacore"),),
    ),
    Chip(
      name="v5e",
      peak=peaks.FLOPS["TPU v5e"],
      memory=15.75 * _GIB,
      bandwidth=0.82e12,
      link=90e9,
      clock=1.5e9,
    ),
    Chip(
      name="v5p",
      peak=peaks.FLOPS["TPU v5p"],
      memory=95.74 * _GIB,
      bandwidth=2.76e12,
      link=180e9,
    ),
    Chip(
      name="v6e",
      peak=peaks.FLOPS["TPU v6e"],
      memory=31.25 * _GIB,
      bandwidth=1.64e12,
      link=180e9,
      attention=_WIDE,
    ),
    Chip(
      name="7x",
      peak=peaks.FLOPS["TPU7x"],
      memory=94.75 * _GIB,
      bandwidth=7.38e12 / 2,
      link=180e9,
      attention=_WIDE,
      devices=2,
    ),
    Chip(
      name="h100",
      peak=peaks.FLOPS["NVIDIA H100 80GB HBM3"],
      memory=SHARE * 79.1 * _GIB,
      bandwidth=3.35e12,
      link=450e9,
      network=_NETWORK,
      clock=0.0,
      attention=_ON_GPU,
      matrix=0.62,
      per_host=8,
      host_link=50e9,
    ),
    Chip(
      name="h200",
      peak=peaks.FLOPS["NVIDIA H200"],
      memory=SHARE * 140.0 * _GIB,
      bandwidth=4.8e12,
      link=450e9,
      network=_NETWORK,
      clock=0.0,
      attention=_ON_GPU,
      matrix=0.62,
      per_host=8,
      host_link=50e9,
    ),
    Chip(
      name="a100",
      peak=peaks.FLOPS["NVIDIA A100-SXM4-80GB"],
      memory=SHARE * 79.1 * _GIB,
      bandwidth=2.0e12,
      link=300e9,
      network=_NETWORK,
      clock=0.0,
      attention=_ON_GPU,
      matrix=0.7,
      per_host=8,
      host_link=25e9,
    ),
  )
}
_GPUS = ("h100", "h200", "a100")
_TPUS = tuple(name for name in CHIPS if name not in _GPUS)
_FLAT = ("v5e", "v6e")  # whose slices have two sides, the others' three
_LONGEST = 16  # chips along a side of these; the compiler would plan for more


@dataclasses.dataclass(frozen=True)
class Topology:
  """What a --topology flag names.

  Attributes:
    text: as given.
    platform: tpu, gpu or cpu.
    chip: its name; `cpu` for simulated devices.
    count: devices of a gpu or cpu topology; 0 for a TPU, whose compiler counts.
    shape: of a TPU slice: chips along each of its sides.
  """

  text: str
  platform: str
  chip: str
  count: int = 0
  shape: str = ""


def parse(text: str) -> Topology:
  """Reads `v5p:4x4x4`, `gpu:h100x64` or `cpu:8`.

  Raises:
    ValueError: an unknown chip or form; names the known ones.
  """
  known = (
    f"{', '.join(f'{t}:{_sides(t)}' for t in _TPUS)}, gpu:{{{','.join(_GPUS)}}}xN, cpu:N"
  )
  head, _, tail = text.partition(":")
  if head == "cpu" and re.fullmatch(r"[1-9]\d*", tail):
    return Topology(text, "cpu", "cpu", count=int(tail))
  gpu = re.fullmatch(r"(\w+?)x([1-9]\d*)", tail)
  if head == "gpu" and gpu and gpu[1] in _GPUS:
    return Topology(text, "gpu", gpu[1], count=int(gpu[2]))
  name = head.removeprefix("tpu")
  rule = ""
  if name in _TPUS and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", tail):
    rule = _broken_rule(name, [int(side) for side in tail.split("x")])
    if not rule:
      return Topology(text, "tpu", name, shape=tail)
  names = [*_TPUS, *(f"gpu:{gpu}" for gpu in _GPUS), "cpu"]
  near = difflib.get_close_matches(text, names, n=1, cutoff=0.4)
  example = {"cpu": "cpu:8", "gpu": "gpu:h100x64"}.get(head) or example_slice(name)
  hint = f" Did you mean {near[0]}?" if near and name not in _TPUS else ""
  if name in (*_TPUS, "cpu", "gpu"):
    hint = f"{rule} Write it like {example}."
  raise ValueError(f"--topology={text} is not a known topology.{hint} Known: {known}.")


def example_slice(name: str) -> str:
  """Slices of a TPU as --topology names them."""
  return f"{name}:4x4" if name in _FLAT else f"{name}:2x2x1 or {name}:4x4x4"


def _sides(name: str) -> str:
  return "AxB" if name in _FLAT else "AxBxC"


def _broken_rule(name: str, sides: list[int]) -> str:
  """The rule that a slice breaks, for which the compiler may end the process, or ''."""
  count = _sides(name).count("x") + 1
  if len(sides) != count:
    return f" Slices of {name} have {count} sides."
  if name in _FLAT and max(sides) > _LONGEST:
    return f" Slices of {name} have at most {_LONGEST}x{_LONGEST} chips."
  return ""
