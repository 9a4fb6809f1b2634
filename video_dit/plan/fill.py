"""Rows for all devices, where a config has fewer rows a step than the devices need.

Such a config is planned with one row each. Its tokens stay its own, in fewer steps.
"""

import dataclasses

from video_dit import config as config_lib
from video_dit.parallel import partition


def filled(config: config_lib.Config, axes: dict[str, int]) -> config_lib.Config:
  """The config with at least a row for each device along data and fsdp of a mesh."""
  ways = partition.row_ways(axes)
  if config.data.rows >= ways:
    return config
  data = dataclasses.replace(config.data, rows=ways, balance_rows=1)
  return dataclasses.replace(config, data=data)


def notes(config: config_lib.Config, axes: dict[str, int]) -> list[str]:
  """Says that rows were added, and the flags that add them to a run."""
  ways = partition.row_ways(axes)
  if config.data.rows >= ways:
    return []
  note = (
    f"the config's {config.data.rows} rows a step are fewer than data x fsdp = {ways}:"
    f" planned with one each, as with --config.data.rows={ways}"
  )
  if config.data.balance_rows > 1:
    note += " --config.data.balance_rows=1"
  return [note]


def steps(config: config_lib.Config, axes: dict[str, int]) -> float:
  """Steps that the config's own tokens take with these rows."""
  return config.train.steps * config.data.rows / filled(config, axes).data.rows
