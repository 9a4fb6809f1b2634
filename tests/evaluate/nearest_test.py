"""The copy check finds copies, and measures how far anything else is."""

import numpy as np
import pytest

from video_dit.evaluate import nearest
from video_dit.media import shapes


def clips(count: int, seed: int) -> list[np.ndarray]:
  rng = np.random.default_rng(seed)
  return [shapes.render(shapes.random_scene(rng)) for _ in range(count)]


def find(generated, training):
  return nearest.nearest([nearest.on_grid(clip) for clip in generated], training)


def test_a_copy_is_at_no_distance():
  training = clips(40, 0)
  indices, distances = find([training[7], training[31]], iter(training))
  assert indices.tolist() == [7, 31]
  assert distances.tolist() == [0, 0]


def test_a_scaled_copy_is_the_nearest():
  training = clips(40, 1)
  large = training[5].repeat(2, axis=1).repeat(2, axis=2)
  indices, distances = find([large], training)
  assert indices.tolist() == [5]
  assert distances[0] < 4


def test_new_clips_are_apart():
  _, distances = find(clips(20, 2), clips(40, 3))
  assert np.all(distances > 5)


def test_distances_are_in_pixel_values():
  black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((5, 24, 16, 3), 255, np.uint8)
  _, distances = find([black], [white])
  assert distances[0] == pytest.approx(255)


def test_no_generated_clip_has_no_neighbour():
  indices, distances = find([], clips(2, 0))
  assert indices.shape == distances.shape == (0,)


def test_no_training_clip_is_refused():
  with pytest.raises(ValueError, match="no clips to compare"):
    find(clips(1, 0), [])
