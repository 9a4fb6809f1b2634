"""The captioned moving shapes of the demo: scenes, their pixels and their words."""

from video_dit.media.shapes.captioning import caption
from video_dit.media.shapes.demo import held_out_prompts, truth, write_demo
from video_dit.media.shapes.rendering import render
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
  "held_out_prompts",
  "random_scene",
  "render",
  "truth",
  "write_demo",
]
