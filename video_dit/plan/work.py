"""FLOPs of matrix products and convolutions in a compiled module, libraries included.

Two per multiply-add, as models count them; padding and dilation that only meet zeros
count nothing, so that a product that the compiler writes as a convolution costs no more.
"""

import math
import re

from video_dit.plan.hlo import Computation, Instruction


def flops(where: Computation, instruction: Instruction) -> float:
  """FLOPs of one `dot` or `convolution`, or a library's; 0 for anything else."""
  if instruction.opcode == "dot":
    return _dot(
      where, instruction, _numbers(instruction.attribute("lhs_contracting_dims"))
    )
  if instruction.opcode == "convolution" or "$conv" in _target(instruction):
    return _convolution(where, instruction)
  if _target(instruction).startswith("__cublas"):
    gemm = instruction.backend.get("gemm_backend_config", {})
    numbers = gemm.get("dot_dimension_numbers", {})
    axes = [int(n) for n in numbers.get("lhs_contracting_dimensions", ())]
    return _dot(where, instruction, axes)
  return 0.0


def _target(instruction: Instruction) -> str:
  """The library function that is called; empty if it is not such a call."""
  if instruction.opcode != "custom-call":
    return ""
  return instruction.attribute("custom_call_target").strip('"')


def _dot(where: Computation, dot: Instruction, axes: list[int]) -> float:
  left = where[dot.operands[0]].arrays[0].dims
  contracted = math.prod(left[axis] for axis in axes)
  return 2.0 * math.prod(dot.arrays[0].dims) * contracted


def _convolution(where: Computation, convolution: Instruction) -> float:
  labels = convolution.attribute("dim_labels")
  found = re.fullmatch(r"(\w+)_(\w+)->(\w+)", labels)
  assert found, f"a convolution's labels: {labels!r}"
  source, taps, out = found.groups()
  inputs, kernel = (where[name].arrays[0].dims for name in convolution.operands[:2])
  output = convolution.arrays[0].dims
  # For a library's gradients, labels and window are those of the forward pass.
  if "BackwardInput" in _target(convolution):
    inputs, output = output, inputs
  elif "BackwardFilter" in _target(convolution):
    kernel, output = output, kernel
  window = _window(convolution)
  pairs = 1.0
  for number in range(len(out) - 2):
    label = str(number)
    pairs *= _pairs(
      inputs[source.index(label)],
      kernel[taps.index(label)],
      output[out.index(label)],
      *(window[key][number] if window.get(key) else default for key, default in _KEYS),
    )
  others = output[out.index("b")] * output[out.index("f")] * kernel[taps.index("i")]
  return 2.0 * others * pairs


_KEYS = (("stride", 1), ("pad", 0), ("lhs_dilate", 1), ("rhs_dilate", 1))


def _window(convolution: Instruction) -> dict[str, list[int]]:
  """Settings of each spatial axis; for the padding, that in front."""
  text = convolution.attribute("window").strip("{}")
  found: dict[str, list[int]] = {}
  for item in text.split():
    key, _, value = item.partition("=")
    found[key] = [int(part.split("_")[0]) for part in value.split("x")]
  return found


def _pairs(
  size: int, taps: int, out: int, stride: int, pad: int, dilate: int, spread: int
) -> int:
  """Pairs of output and tap that meet an input, along one axis."""
  total = 0
  # Both are symmetric in output and tap; the loop is over the shorter.
  short, long = (taps, out) if taps <= out else (out, taps)
  by_short, by_long = (spread, stride) if taps <= out else (stride, spread)
  last = (size - 1) * dilate
  for i in range(short):
    # 0 <= i by_short + j by_long - pad <= last, and a multiple of dilate.
    offset = i * by_short - pad
    low = max(0, -(offset // by_long))
    high = min(long - 1, (last - offset) // by_long)
    if high < low:
      continue
    common = math.gcd(by_long, dilate)
    if offset % common:
      continue
    period = dilate // common
    first = next(
      (j for j in range(low, low + period) if (offset + j * by_long) % dilate == 0), None
    )
    if first is not None and first <= high:
      total += (high - first) // period + 1
  return total


def _numbers(text: str) -> list[int]:
  return [int(n) for n in re.findall(r"\d+", text)]
