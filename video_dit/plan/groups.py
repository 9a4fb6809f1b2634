"""Which mesh axes a collective runs over, from the groups of its text."""

from collections.abc import Sequence
import math
import re

import numpy as np

from video_dit.plan.hlo import Instruction


def members(instruction: Instruction, num_devices: int) -> list[int]:
  """Devices of the first group of a collective, by their position in the mesh."""
  text = instruction.text
  named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text)
  if named:
    return _named(named[1], named[2])
  listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
  if listed:
    return [int(n) for n in listed[1].split(",")]
  iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
  if iota:
    sizes = [int(n) for n in iota[2].split(",")]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    if iota[3]:
      ids = ids.transpose([int(n) for n in iota[3].split(",")])
    return ids.reshape([int(n) for n in iota[1].split(",")])[0].ravel().tolist()
  return list(range(num_devices))


def _named(axes: str, chosen: str) -> list[int]:
  """Members of the group of device 0, by the compiler's own names of axes."""
  sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", axes)}
  ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
  order = re.search(r"device_ids=\[?\(?([\d, ]+)", axes)
  if order:
    given = [int(n) for n in re.findall(r"\d+", order[1])]
    if len(given) == ids.size:
      ids = np.array(given).reshape(ids.shape)
  index: list[slice | int] = [0] * len(sizes)
  for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
    index[list(sizes).index(name)] = slice(None)
    if size:
      # A part of an axis: members spaced by the product of the axes inside it.
      within = sizes[name] // (int(before) * int(size))
      index[list(sizes).index(name)] = slice(0, within * int(size), within)
  return np.atleast_1d(ids[tuple(index)]).ravel().tolist()


def pairs(instruction: Instruction) -> list[list[int]]:
  """Sender and receiver of each part of a permutation; empty for other collectives."""
  found = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", instruction.text)
  numbers = re.findall(r"\{(\d+),(\d+)\}", found[1]) if found else []
  return [[int(sender), int(receiver)] for sender, receiver in numbers]


def axes(groups: Sequence[Sequence[int]], mesh: dict[str, int]) -> str:
  """Names of the mesh axes along which members of a group differ, joined by commas."""
  places = np.array(np.unravel_index(np.array(groups), list(mesh.values())))
  differ = (places != places[..., :1]).any(axis=(1, 2))
  names = [name for name, moves in zip(mesh, differ, strict=True) if moves]
  return ",".join(names) or "none"
