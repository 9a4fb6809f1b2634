"""The folder of a run: its config, and whether it may go on there.

config.json      the resolved config
checkpoints/     whole states
metrics.jsonl    one line every `log_every` steps, and one at the end
tensorboard/     the same for TensorBoard
samples/         pictures made during training
report.html      all of it at a glance
lock             held while a run is at work there
"""

from collections.abc import Callable, Sequence
import json
import pathlib

import jax

from video_dit import config as config_lib
from video_dit import files

CONFIG = "config.json"


def prepare(
  workdir: pathlib.Path,
  config: config_lib.Config,
  shape_keys: Sequence[str],
  say: Callable[[str], None] = print,
) -> None:
  """Makes the folder, or checks that it holds this run, and writes the config.

  Args:
    workdir: of the run.
    config: of the run.
    shape_keys: dotted keys that must match those of an existing run.
    say: called for every other key that changed.

  Raises:
    ValueError: the folder holds a run whose state has other shapes, or a file that is
      not a config.
  """
  path = workdir / CONFIG
  if path.is_file():
    old, new = dict(config_lib.leaves(_read(path))), dict(config_lib.leaves(config))
    changed = [key for key in new if old[key] != new[key]]
    refused = [key for key in changed if key in shape_keys]
    if refused:
      differences = ", ".join(f"{k}: {old[k]!r} then, {new[k]!r} now" for k in refused)
      raise ValueError(
        f"{workdir}: holds a run of a different model ({differences}). Choose another"
        " --workdir, or the config of that run."
      )
    for key in changed:
      say(f"config.{key} was {old[key]!r} in this workdir and is now {new[key]!r}")
  workdir.mkdir(parents=True, exist_ok=True)
  if jax.process_index() > 0:
    return  # the hosts share the folder, and one of them writes
  files.write(path, json.dumps(config_lib.to_dict(config), indent=2) + "\n")


def begun(workdir: pathlib.Path) -> config_lib.Config | None:
  """The config of the run there, where it has saved a checkpoint to go on from.

  Raises:
    ValueError: the folder holds a file that is not a config.
  """
  path, folder = workdir / CONFIG, workdir / "checkpoints"
  if not path.is_file() or not folder.is_dir():
    return None
  saved = any(entry.name.isdigit() for entry in folder.iterdir())
  return _read(path) if saved else None


def _read(path: pathlib.Path) -> config_lib.Config:
  try:
    return config_lib.parse(json.loads(path.read_text(encoding="utf-8")))
  except ValueError as error:
    raise ValueError(
      f"{path}: is not a config of this version ({error}). Choose another workdir."
    ) from error
