"""Scenes: what one captioned clip of moving shapes shows, and which are held out.

A scene has one object, or two in lanes of their own. An object keeps its size, stays
inside the frame, and moves in a straight line at constant speed.
"""

import dataclasses
from typing import Any

import numpy as np

Colour = tuple[int, int, int]

# Hues are about 60 degrees apart, so that blur and compression never confuse two.
COLOURS: dict[str, Colour] = {
  "red": (224, 36, 36),
  "yellow": (240, 208, 24),
  "green": (16, 150, 40),
  "cyan": (40, 216, 228),
  "blue": (40, 72, 232),
  "purple": (176, 40, 200),
}
BACKGROUNDS: dict[str, Colour] = {
  "black": (14, 14, 14),
  "grey": (128, 128, 128),
  "white": (240, 240, 240),
}
# Half width and half height of a shape of radius 1. Areas: 3.14, 2.69 and 2.69. Shapes
# differ in outline, not in corners, which hardly show in so few tokens of so few pixels.
EXTENTS: dict[str, tuple[float, float]] = {
  "circle": (1.0, 1.0),
  "bar": (1.2, 0.56),
  "pillar": (0.56, 1.2),
}
# Steps of a direction, down and right.
DIRECTIONS: dict[str, tuple[int, int]] = {
  "left": (0, -1),
  "right": (0, 1),
  "up": (-1, 0),
  "down": (1, 0),
}
SHAPES = tuple(EXTENTS)

FRAMES_PER_SECOND = 8.0
# Height and width in pixels, and how often they are drawn.
SIZES: dict[tuple[int, int], float] = {
  (32, 32): 0.7,
  (32, 48): 0.1,
  (48, 32): 0.1,
  (24, 32): 0.05,
  (32, 24): 0.05,
}
LENGTHS: dict[int, float] = {5: 0.3, 9: 0.6, 13: 0.1}
IMAGES = 0.25
PAIRS = 0.1

# Radii, in short sides of the frame. Distance travelled: the least in short sides, the
# greatest in lengths of the side that it moves along.
RADIUS = (0.25, 0.285)
RADIUS_OF_PAIR = (0.17, 0.19)
TRAVEL = (0.27, 0.38)
MARGIN = 0.5


def held_out(colour: str, shape: str, direction: str) -> bool:
  """Whether no training scene shows this combination.

  Two of the twelve combinations of each colour are held out, four of each shape and
  three of each direction; every pair of words still occurs in training.
  """
  index = list(COLOURS).index(colour) + 2 * SHAPES.index(shape)
  return (index + list(DIRECTIONS).index(direction)) % len(COLOURS) == 0


COMBINATIONS = tuple((c, s, d) for c in COLOURS for s in SHAPES for d in DIRECTIONS)
HELD_OUT = frozenset(one for one in COMBINATIONS if held_out(*one))
SEEN = tuple(one for one in COMBINATIONS if one not in HELD_OUT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Object:
  """One shape of a scene.

  Attributes:
    colour, shape: its words.
    direction: of its motion; None in an image.
    radius: in pixels; `EXTENTS` times the radius is half the bounding box.
    start: row and column of the bounding box's centre in the first frame, in pixels.
    travel: pixels from the first frame to the last.
    brightness: factor on the colour.
  """

  colour: str
  shape: str
  direction: str | None
  radius: float
  start: tuple[float, float]
  travel: float
  brightness: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
  """What one clip shows.

  Attributes:
    height, width: in pixels.
    frames: at `FRAMES_PER_SECOND`; 1 is an image.
    background: its word.
    level: added to the background's three colour values.
    objects: one, or two: the upper one first, or the left one first.
    wording: picks the caption's wording.
    stacked: whether two objects are one above the other, or else side by side.
  """

  height: int
  width: int
  frames: int
  background: str
  level: int
  objects: tuple[Object, ...]
  wording: int
  stacked: bool = False


def _choose(rng: np.random.Generator, weights: dict[Any, float]) -> Any:
  """Draws a key of `weights`."""
  values = np.array(list(weights.values()))
  return list(weights)[rng.choice(len(weights), p=values / values.sum())]


def _random_object(
  rng: np.random.Generator,
  words: tuple[str, str, str | None],
  box: tuple[float, float, float, float],
  short: int,
  radii: tuple[float, float],
) -> Object:
  """Places an object in a box: top, left, height and width in pixels."""
  colour, shape, direction = words
  radius = float(rng.uniform(*radii)) * short
  half_width, half_height = EXTENTS[shape]
  half = (half_height * radius, half_width * radius)
  # Room for the centre along rows and columns.
  low = [box[i] + MARGIN + half[i] for i in range(2)]
  room = [max(box[2 + i] - 2 * (half[i] + MARGIN), 0.0) for i in range(2)]
  start = [low[i] + float(rng.uniform()) * room[i] for i in range(2)]
  travel = 0.0
  if direction is not None:
    step = DIRECTIONS[direction]
    axis = 0 if step[0] else 1
    least, most = TRAVEL[0] * short, TRAVEL[1] * box[2 + axis]
    travel = min(float(rng.uniform(least, most)), room[axis])
    slack = float(rng.uniform()) * (room[axis] - travel)
    start[axis] = low[axis] + slack + (travel if step[axis] < 0 else 0.0)
  return Object(
    colour=colour,
    shape=shape,
    direction=direction,
    radius=radius,
    start=(start[0], start[1]),
    travel=travel,
    brightness=float(rng.uniform(0.94, 1.04)),
  )


def _random_pair(
  rng: np.random.Generator, stacked: bool, image: bool
) -> list[tuple[str, str, str | None]]:
  """Draws words of two objects that differ in colour and shape; each keeps its lane."""
  along = ("left", "right") if stacked else ("up", "down")
  words: list[tuple[str, str, str | None]] = []
  while len(words) < 2:
    colour, shape, direction = SEEN[rng.integers(len(SEEN))]
    different = all(colour != one[0] and shape != one[1] for one in words)
    if different and (image or direction in along):
      words.append((colour, shape, None if image else direction))
  return words


def random_scene(
  rng: np.random.Generator,
  *,
  size: tuple[int, int] | None = None,
  frames: int | None = None,
  objects: int | None = None,
  words: tuple[str, str, str] | None = None,
) -> Scene:
  """Draws a scene from the training distribution; arguments given are not drawn.

  Args:
    rng: source of all randomness.
    size: height and width in pixels.
    frames: 1 is an image.
    objects: 1 or 2; two objects in a frame that is not square lie along its long side.
    words: colour, shape and direction of the one object, held out or not.

  Returns:
    A scene without combinations of `HELD_OUT`, unless `words` is one.
  """
  if frames is None:
    frames = 1 if rng.uniform() < IMAGES else _choose(rng, LENGTHS)
  height, width = size or _choose(rng, SIZES)
  if objects is None:
    objects = 2 if words is None and rng.uniform() < PAIRS else 1
  short, image, stacked = min(height, width), frames == 1, False
  if objects == 2:
    stacked = bool(rng.integers(2)) if height == width else height > width
    lane = (height / 2, float(width)) if stacked else (float(height), width / 2)
    corners = ((0.0, 0.0), (lane[0], 0.0) if stacked else (0.0, lane[1]))
    pair = _random_pair(rng, stacked, image)
    things = [
      _random_object(rng, one, (*corner, *lane), short, RADIUS_OF_PAIR)
      for one, corner in zip(pair, corners, strict=True)
    ]
  else:
    colour, shape, direction = words or SEEN[rng.integers(len(SEEN))]
    box = (0.0, 0.0, float(height), float(width))
    one = (colour, shape, None if image else direction)
    things = [_random_object(rng, one, box, short, RADIUS)]
  return Scene(
    height=height,
    width=width,
    frames=frames,
    background=list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))],
    level=int(rng.integers(-8, 9)),
    objects=tuple(things),
    wording=int(rng.integers(1 << 16)),
    stacked=stacked,
  )
