"""What is said of a run that goes on with other data, or another rate or schedule."""

import dataclasses

import numpy as np
import pytest

from tests.train import line
from video_dit import config as config_lib
from video_dit.checkpoints.store import Position
from video_dit.data import pieces as pieces_lib
from video_dit.data import steps as steps_lib
from video_dit.train import resume

_DATA = config_lib.Data(rows=4, row_length=8, row_segments=4, row_text=8)


def _objective(config: config_lib.Config, **changes):
  one = np.ones(40, np.int64)
  pieces = pieces_lib.cut(one, one, one, one, data=config.data, patch=(1, 1, 1))
  steps = steps_lib.Steps(pieces, config.data, config.seed)
  return line.objective(**{"steps": steps, "data": "extents-keys"} | changes)


def _said(new: config_lib.Config, now: str = "extents-keys", **position) -> list[str]:
  """Of a run of 3 steps with `_DATA` that goes on with other settings or data."""
  old = dataclasses.replace(line.config(), data=_DATA)
  known = _objective(old).steps.known(3)
  fields = {"step": 3, "seed": 0, "data": "extents-keys", "rows": 4, "epochs": known}
  objective = _objective(new, data=now)
  return list(resume.changes(Position(**fields | position), objective, new, old))


def _config(seed: int = 0, **data) -> config_lib.Config:
  data = dataclasses.replace(_DATA, **data)
  return dataclasses.replace(line.config(), seed=seed, data=data)


def test_what_leaves_the_clips_where_they_are_is_not_mentioned():
  assert _said(_config()) == []
  assert _said(_config(caption_dropout=0.5, threads=1, path="elsewhere")) == []
  # As older versions wrote.
  assert _said(_config(row_length=4), rows=0, epochs={}, data="extents") == []


@pytest.mark.parametrize(
  "change", [{"row_length": 4}, {"row_segments": 2}, {"row_text": 5}, {"seed": 1}]
)
def test_another_order_of_the_clips_is_said(change):
  (said,) = _said(_config(**change))
  assert "the order of the clips has changed" in said and "at row 12" in said
  assert "Keep config.seed and data.row_length, row_segments, row_text" in said


def test_another_seed_is_said_where_clips_are_not_packed():
  new = _config(seed=1)
  position = Position(step=3, seed=0, data="points", rows=4)
  (said,) = resume.changes(position, line.objective(), new, None)
  assert "the order of the clips has changed" in said and "Keep config.seed to" in said


@pytest.mark.parametrize("now", ["extents-others", "others-keys"])
def test_another_data_set_is_said_once(now):
  (said,) = _said(_config(seed=1), now)
  assert (
    f"the data set has changed since this run last saved (extents-keys then, {now}"
    in said
  )
  assert "clips of this epoch may come again" in said


def _autoencoder(steps: int, noise: float = 0.5, **optimizer) -> config_lib.Config:
  return config_lib.Config(
    name="ae",
    objective="reconstruction",
    reconstruction=config_lib.Reconstruction(noise=noise, noise_from=0.5),
    optimizer=config_lib.Optimizer(warmup_steps=0, **optimizer),
    train=config_lib.Train(steps=steps),
  )


def _said_at(step: int, new: config_lib.Config, old: config_lib.Config) -> list[str]:
  position = Position(step=step, seed=0, data="points")
  return list(resume.changes(position, line.objective(), new, old))


def test_an_encoder_that_trains_again_is_said_with_what_keeps_it_frozen():
  old, new = _autoencoder(300), _autoencoder(900)
  (said,) = _said_at(300, new, old)
  assert "frozen from step 150 on and trains again until step 450" in said
  assert "reconstruction.noise=0.5 with noise_from=0.166666 keeps it frozen" in said
  (said,) = _said_at(300, _autoencoder(900, noise=0.0), old)
  assert "trains again to the end" in said
  assert _said_at(100, new, old) == [] == _said_at(500, new, old)


def test_a_rate_that_jumps_is_said():
  old, new = (
    _autoencoder(steps, schedule="cosine", learning_rate=1e-3, noise=0.0)
    for steps in (300, 600)
  )
  (said,) = _said_at(300, new, old)
  assert said == "the learning rate goes on at 0.000497, where it would have been 0"
