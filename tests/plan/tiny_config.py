"""A tiny config, as a file that --config can name."""

import ml_collections

from tests import tiny
from video_dit import config


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The tests' own sizes."""
  del preset
  return ml_collections.ConfigDict(config.to_dict(tiny.CONFIG)).lock()
