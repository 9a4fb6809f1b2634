"""The config of an earlier run, as a config file: `saved_config.py:WORKDIR`."""

import json
import pathlib

import ml_collections

from video_dit import config


def read(workdir: str) -> config.Config:
  """Reads `WORKDIR/config.json`, which training wrote.

  Raises:
    FileNotFoundError: the folder holds no run.
    ValueError: the file is no config of this version.
  """
  path = pathlib.Path(workdir) / "config.json"
  if not path.is_file():
    raise FileNotFoundError(
      f"{path} does not exist. Name the --workdir of a run of video_dit.main."
    )
  try:
    return config.parse(json.loads(path.read_text(encoding="utf-8")))
  except ValueError as error:
    raise ValueError(
      f"{path} is not a config of this version ({error}) Name the --workdir of another"
      " run, or give its --config as well."
    ) from error


def get_config(workdir: str) -> ml_collections.ConfigDict:
  """The config of the run, to be overridden by flags."""
  return ml_collections.ConfigDict(config.to_dict(read(workdir))).lock()
