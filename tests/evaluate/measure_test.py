"""The rule applied to samples: rendered truth is right, noise is at chance."""

import dataclasses

import numpy as np

from tests import tiny
from video_dit.evaluate import measure
from video_dit.media.shapes import demo, rendering


def judged(frames_FHWC, truth):
  sample = tiny.sample(prompt="x", truth=truth)
  return measure.judge(sample, frames_FHWC)


def test_what_is_kept_of_a_sample_does_not_grow_with_its_frames_or_pixels():
  truth = demo.truth(demo.held_out_prompts(1)[0][1])

  def size(frames, height, width) -> int:
    found = judged(np.zeros((frames, height, width, 3), np.uint8), truth)
    kept = [getattr(found, field.name) for field in dataclasses.fields(found)]
    arrays = [x for x in kept if isinstance(x, np.ndarray)]
    assert all(array.base is None for array in arrays)  # a view would keep the clip
    return sum(array.nbytes for array in arrays)

  assert size(9, 96, 128) == size(40, 96, 128) == size(40, 192, 256) < 2e5


def test_rendered_truth_is_counted_right():
  scenes = [scene for _, scene in demo.held_out_prompts(12)]
  found = [judged(rendering.render(scene), demo.truth(scene)) for scene in scenes]
  shares = measure.count(found)
  assert {name: s.fraction for name, s in shares.items()} == {
    "colour": 1.0,
    "direction": 1.0,
    "shape": 1.0,
    "wholeness": 1.0,
  }
  assert found[0].verdict() == "✓ colour ✓ direction ✓ shape ✓ wholeness".replace(
    "✓ ", "✓\N{NO-BREAK SPACE}"
  )


def test_noise_is_right_no_more_often_than_a_guess():
  rng = np.random.default_rng(0)
  found = [
    judged(rng.integers(0, 256, (9, 32, 32, 3), np.uint8), demo.truth(scene))
    for _, scene in demo.held_out_prompts(12)
  ]
  shares = measure.count(found)
  for name in ("colour", "direction", "shape"):
    assert shares[name].interval[0] <= shares[name].chance
  assert shares["wholeness"].right == 0


def test_an_image_counts_for_no_direction():
  frames = rendering.render(demo.held_out_prompts(1)[0][1])[:1]
  truth = {"colour": "red", "shape": "circle"}
  shares = measure.count([judged(frames, truth), judged(frames, {})])
  assert shares["direction"].n == 0 and shares["colour"].n == 1
