"""The config of an earlier run, as a config file: `saved_config.py:WORKDIR`."""

import json
import pathlib

import ml_collections

from video_dit import config


def get_config(workdir: str) -> ml_collections.ConfigDict:
  """Reads `WORKDIR/config.json`, which training wrote.

  Raises:
    FileNotFoundError: the folder holds no run.
  """
  path = pathlib.Path(workdir) / "config.json"
  if not path.is_file():
    raise FileNotFoundError(
      f"{path} does not exist. Name the --workdir of a run of video_dit.main."
    )
  tree = json.loads(path.read_text(encoding="utf-8"))
  return ml_collections.ConfigDict(config.to_dict(config.parse(tree))).lock()
