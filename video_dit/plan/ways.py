"""Changes of a plan that does not fit, one after the other until it does by estimate.

What the program would refuse is not taken, nor what saves nothing.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any

from video_dit import config as config_lib
from video_dit.plan import checks, fill

GB = 1e9
# Estimates are taken to fit up to this share of the memory.
_SAFE = 0.95


@dataclasses.dataclass(frozen=True)
class Way:
  """A config, a mesh, and the flags that make them of those that were asked for.

  The config may have fewer rows than the mesh's devices: it is planned as `filled`.
  """

  config: config_lib.Config
  axes: dict[str, int]
  flags: dict[str, str] = dataclasses.field(default_factory=dict)

  def on(self, **axes: int) -> "Way":
    """On a mesh with these axes; data takes the rest."""
    axes = self.axes | axes
    named = ",".join(f"{name}={size}" for name, size in axes.items() if name != "data")
    return dataclasses.replace(self, axes=axes, flags=self.flags | {"mesh": named})

  def having(self, section: str, **values: Any) -> "Way":
    """With these values of a section of the config."""
    changed = dataclasses.replace(getattr(self.config, section), **values)
    flags = {f"config.{section}.{name}": str(value) for name, value in values.items()}
    config = dataclasses.replace(self.config, **{section: changed})
    return dataclasses.replace(self, config=config, flags=self.flags | flags)

  @property
  def filled(self) -> config_lib.Config:
    """Its config with a row for each device."""
    return fill.filled(self.config, self.axes)

  @property
  def text(self) -> str:
    """Its flags."""
    return " ".join(f"--{key}={value}" for key, value in self.flags.items())


# Ways to go on from one, likely ones first, and what each does.
Move = Callable[[Way], Iterator[tuple[Way, str]]]


def follow(
  start: Way, moves: Sequence[Move], need: Callable[[Way], float], room: float
) -> tuple[Way, list[str]]:
  """Takes moves, each as often as it helps, until the need fits into the room.

  Args:
    start: what was planned.
    moves: in the order in which they are tried.
    need: bytes of a device, by estimate.
    room: bytes of a device.

  Returns:
    Where that ends, and a line for each step.
  """
  way, lines = start, []
  for move in moves:
    while need(way) > _SAFE * room:
      found = next((step for step in move(way) if _helps(step[0], way, need)), None)
      if found is None:
        break
      new = {k: v for k, v in found[0].flags.items() if way.flags.get(k) != v}
      way = found[0]
      flags = dataclasses.replace(way, flags=new).text
      lines.append(f"{flags} {found[1]}: about {need(way) / GB:.1f} GB.")
  return way, lines


def fits(way: Way, need: Callable[[Way], float], room: float) -> bool:
  """Whether the need fits by estimate."""
  return need(way) <= _SAFE * room


def _helps(way: Way, before: Way, need: Callable[[Way], float]) -> bool:
  # In this order: there is no estimate of what does not divide.
  return checks.accepts(way.filled, way.axes) and need(way) < need(before)
