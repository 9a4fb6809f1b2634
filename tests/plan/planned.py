"""Requests for plans of the tests' config."""

import dataclasses

from tests import tiny
from video_dit import config as config_lib
from video_dit.plan import chips, gpus, run

CPU = chips.parse("cpu:8")
AXES = {"data": 4, "fsdp": 2}
H100S = chips.parse("gpu:h100x8")


def config(**sections) -> config_lib.Config:
  """The tests' config with other values in some sections."""
  return dataclasses.replace(
    tiny.CONFIG,
    **{
      name: dataclasses.replace(getattr(tiny.CONFIG, name), **changes)
      for name, changes in sections.items()
    },
  )


def request(config=tiny.CONFIG, **changes) -> run.Request:
  """For a plan of training alone on eight simulated devices."""
  defaults = {"config": config, "topology": CPU, "axes": AXES, "stages": ("train",)}
  return run.Request(**defaults | changes)


def by_formula(monkeypatch, config=tiny.CONFIG, **changes) -> dict:
  """A plan of eight H100s as where their compiler is not installed."""
  monkeypatch.setattr(gpus, "has_compiler", lambda: False)
  axes = {"data": 2, "fsdp": 4}
  return run.plan(request(config, topology=H100S, **{"axes": axes} | changes))
