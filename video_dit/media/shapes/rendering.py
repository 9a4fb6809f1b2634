"""Rendering: a scene to pixels, with anti-aliased edges."""

import math

import numpy as np

from video_dit.media.shapes import scene as scenes


def area(shape: str) -> float:
  """Returns the area of a shape of radius 1."""
  half_width, half_height = scenes.EXTENTS[shape]
  return 4 * half_width * half_height * (math.pi / 4 if shape == "circle" else 1.0)


def coverage(shape: str, y: np.ndarray, x: np.ndarray, radius: float) -> np.ndarray:
  """Share of each pixel that a shape covers.

  Args:
    shape: its word.
    y, x: offsets of the pixels' centres from the shape's centre, broadcastable.
    radius: in pixels.
  """
  if shape == "circle":
    return np.clip(radius - np.hypot(y, x) + 0.5, 0, 1)
  half_width, half_height = (radius * extent for extent in scenes.EXTENTS[shape])
  across = np.clip(half_width - np.abs(x) + 0.5, 0, 1)
  return across * np.clip(half_height - np.abs(y) + 0.5, 0, 1)


def render(scene: scenes.Scene) -> np.ndarray:
  """Renders a scene.

  Returns:
    Frames `(F, H, W, 3)` uint8.
  """
  background = np.array(scenes.BACKGROUNDS[scene.background], np.float32) + scene.level
  size = (scene.frames, scene.height, scene.width, 3)
  frames_FHWC = np.broadcast_to(background, size).astype(np.float32)
  progress = np.linspace(0, 1, scene.frames) if scene.frames > 1 else np.zeros(1)
  rows, columns = np.arange(scene.height) + 0.5, np.arange(scene.width) + 0.5
  for thing in scene.objects:
    step = scenes.DIRECTIONS[thing.direction] if thing.direction else (0, 0)
    centre_y, centre_x = (
      thing.start[i] + step[i] * thing.travel * progress[:, None, None] for i in range(2)
    )
    y, x = rows[None, :, None] - centre_y, columns[None, None, :] - centre_x
    alpha = coverage(thing.shape, y, x, thing.radius)[..., None].astype(np.float32)
    colour = np.array(scenes.COLOURS[thing.colour], np.float32) * thing.brightness
    frames_FHWC += alpha * (colour - frames_FHWC)
  return np.clip(np.rint(frames_FHWC), 0, 255).astype(np.uint8)
