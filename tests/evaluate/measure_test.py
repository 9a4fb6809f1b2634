"""The rule applied to samples: rendered truth is right, noise is at chance."""

import pathlib

import numpy as np

from video_dit.evaluate import measure, samples
from video_dit.media.shapes import demo, rendering


def judged(frames_FHWC, truth):
  sample = samples.Sample(
    path=pathlib.Path("x.mp4"), prompt="x", truth=truth, settings={}
  )
  return measure.judge(sample, frames_FHWC)


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
