"""The captioned moving shapes of the demo: scenes, their pixels and their words."""

from video_dit.media.shapes.caption import caption
from video_dit.media.shapes.render import render
from video_dit.media.shapes.scene import (
  BACKGROUNDS,
  COLOURS,
  DIRECTIONS,
  FRAMES_PER_SECOND,
  HELD_OUT,
  SHAPES,
  Object,
  Scene,
  random_scene,
)

__all__ = [
  "BACKGROUNDS",
  "COLOURS",
  "DIRECTIONS",
  "FRAMES_PER_SECOND",
  "HELD_OUT",
  "SHAPES",
  "Object",
  "Scene",
  "caption",
  "random_scene",
  "render",
]
