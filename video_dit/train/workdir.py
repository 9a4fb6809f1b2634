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
from typing import Any

import jax

from video_dit import config as config_lib
from video_dit import files

CONFIG = "config.json"


def check(
  workdir: pathlib.Path, config: config_lib.Config, model_keys: Sequence[str]
) -> config_lib.Config | None:
  """Refuses a folder of another model's run, and writes nothing.

  Args:
    workdir: of the run.
    config: of the run.
    model_keys: dotted keys in which a run cannot change once it has saved.

  Returns:
    The config of the run to go on with, as it was; None where there is none.

  Raises:
    ValueError: the folder holds a run of another model, or a file that is not a config.
  """
  if (workdir / CONFIG).is_file():
    _read(workdir / CONFIG)  # It may be another program's, and is to be overwritten.
  old = begun(workdir)
  refused = [found for found in _changed(old, config) if found[0] in model_keys]
  if refused:
    differences = ", ".join(f"{key}: {a!r} then, {b!r} now" for key, a, b in refused)
    raise ValueError(
      f"{workdir}: holds a run of a different model ({differences}). Choose another"
      " --workdir, or the config of that run."
    )
  return old


def write(
  workdir: pathlib.Path,
  config: config_lib.Config,
  old: config_lib.Config | None,
  say: Callable[[str], None] = print,
) -> None:
  """Writes the config of a run that is about to take steps.

  Args:
    workdir: of the run.
    config: of the run.
    old: that it goes on from.
    say: called for every key that has changed since.
  """
  for key, then, now in _changed(old, config):
    say(f"config.{key} was {then!r} in this workdir and is now {now!r}")
  if jax.process_index() == 0:  # the hosts share the folder, and one of them writes
    path = workdir / CONFIG
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


def _changed(
  old: config_lib.Config | None, new: config_lib.Config
) -> list[tuple[str, Any, Any]]:
  """Keys whose values differ, with both; none without an old config."""
  before = {} if old is None else dict(config_lib.leaves(old))
  pairs = ((key, before.get(key, value), value) for key, value in config_lib.leaves(new))
  return [found for found in pairs if found[1] != found[2]]


def _read(path: pathlib.Path) -> config_lib.Config:
  try:
    return config_lib.parse(json.loads(path.read_text(encoding="utf-8")))
  except ValueError as error:
    raise ValueError(
      f"{path}: is not a config of this version ({error}). Choose another workdir."
    ) from error
