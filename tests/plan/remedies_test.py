"""What would make a plan fit: changes that are accepted, and whether they suffice."""

import dataclasses
import math
import re

import pytest

from tests import tiny
from video_dit import config as config_lib
from video_dit.plan import checks, fill, formula, remedies

_ONE = {"data": 1, "fsdp": 1, "tensor": 1, "context": 1}


def _config(**sections):
  return dataclasses.replace(
    tiny.CONFIG,
    **{
      name: dataclasses.replace(getattr(tiny.CONFIG, name), **changes)
      for name, changes in sections.items()
    },
  )


def _figures(config, axes, room: float, **more):
  memory = formula.memory(config, axes, 200_000) | {"available": room} | more
  return {"fits": False, "parameters": 200_000, "memory": memory}


def _named(text: str, config, axes: dict[str, int]):
  """The config and the mesh that a remedy's flags make of these."""
  devices, tree = math.prod(axes.values()), config_lib.to_dict(config)
  for key, value in re.findall(r"--(config\.\S+?|mesh)=([\w=,.]+)", text):
    if key == "mesh":
      axes = {axis: int(n) for axis, n in re.findall(r"(\w+)=(\d+)", value)}
      axes = {"data": devices // math.prod(axes.values())} | axes
    else:
      _, section, name = key.split(".")
      tree[section][name] = type(tree[section][name])(value)
  return config_lib.parse(tree), axes


@pytest.mark.parametrize(
  ("changes", "axes", "share", "wanted"),
  [
    ({"dit": {"remat": "none"}}, {"data": 8}, 0.5, "--mesh=fsdp=8"),
    (
      {"data": {"balance_rows": 8}},
      {},
      0.5,
      "rows=1 --config.train.accumulate=8|accumulate=8 .*balance_rows=1 .*rows=1",
    ),
    ({"data": {"rows": 1}, "dit": {"remat": "none"}}, {}, 0.8, "remat=attention"),
    ({"data": {"rows": 8}}, {"fsdp": 8}, 0.6, "context=2 .*--config.data.rows=4"),
    (
      {"data": {"rows": 1}, "optimizer": {"beta2": 0.999}},
      {},
      0.95,
      "moments_dtype=bfloat16 --.*beta2=0.95",
    ),
  ],
)
def test_changes_are_named_until_it_fits(changes, axes, share, wanted):
  config, axes = _config(**changes), _ONE | axes
  room = share * formula.memory(config, axes, 200_000)["total"]
  found = remedies.of_training(_figures(config, axes, room), config, axes)
  assert re.search(wanted, " ".join(found)), found
  words = "By estimate it fits with: "
  (line,) = (line for line in found if line.startswith(words))
  config, axes = _named(line, config, axes)
  assert checks.accepts(config, axes)
  assert formula.memory(config, axes, 200_000)["total"] <= room
  assert not remedies.of_training({"fits": True, "memory": {}}, config, axes)


@pytest.mark.parametrize(
  ("data", "share", "wanted"),
  [
    ({"rows": 8}, 0.67, "--mesh=fsdp=8,tensor=1,context=2"),
    ({"rows": 8, "balance_rows": 8}, 0.67, "--mesh=fsdp=8,tensor=1,context=2"),
    (
      {"rows": 8, "balance_rows": 8},
      0.5,
      "--mesh=fsdp=4,tensor=1,context=4 --config.train.accumulate=2"
      " --config.data.balance_rows=1 --config.data.rows=4",
    ),
    ({"rows": 2}, 0.67, "--mesh=fsdp=8,tensor=1,context=2"),
  ],
)
def test_rows_that_a_plan_adds_are_not_taken_for_the_configs(data, share, wanted):
  config, axes = _config(data=data), _ONE | {"fsdp": 16}
  planned = formula.memory(fill.filled(config, axes), axes, 200_000)
  room = share * planned["total"]
  figures = {"fits": False, "parameters": 200_000, "memory": planned}
  figures["memory"] |= {"available": room}
  found = remedies.of_training(figures, config, axes)
  assert found[-1] == f"By estimate it fits with: {wanted}"
  after, axes = _named(wanted, config, axes)
  assert after.data.rows * after.train.accumulate == config.data.rows
  after = fill.filled(after, axes)
  assert checks.accepts(after, axes)
  assert formula.memory(after, axes, 200_000)["total"] <= room


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4])
def test_more_devices_are_named_only_where_the_rows_divide_over_them(share):
  config, axes = _config(data={"rows": 6}), _ONE | {"fsdp": 2}
  room = share * formula.memory(config, axes, 200_000)["total"]
  found = remedies.of_training(_figures(config, axes, room), config, axes)
  devices = int(re.match(r"On (\d+) devices it would fit", found[-1])[1])
  after, axes = _named(found[-1], config, {"fsdp": devices})
  assert after.data.rows * after.train.accumulate == 6
  assert checks.accepts(fill.filled(after, axes), axes)


def test_no_change_is_named_that_would_be_refused():
  # A row of 96 tokens over 3 ways: 6 divide it too, and then no more.
  axes = _ONE | {"data": 4, "context": 3}
  config = _config(data={"rows": 4})
  found = remedies.of_training(_figures(config, axes, 1e3), config, axes)
  for line in found[2:-1]:
    if line.startswith("--"):
      config, axes = _named(line, config, axes)
      assert checks.accepts(config, axes), line


def test_what_no_change_makes_fit_is_said():
  config = _config(data={"rows": 1})
  found = remedies.of_training(_figures(config, _ONE, 1e3), config, _ONE)
  assert found[-1] == "With all of that it still does not fit on these 1 devices."
  room = 0.4 * formula.memory(config, _ONE, 200_000)["total"]
  found = remedies.of_training(_figures(config, _ONE, room), config, _ONE)
  assert re.match(r"On \d+ devices it would fit: --mesh=fsdp=", found[-1]), found


def test_a_sampler_takes_fewer_or_shorter_rows():
  config = _config(sample={"rows": 8}, data={"row_length": 1024})
  memory = {"parameters": 1e9, "batch": 1e9, "temporaries": 8e9, "total": 10e9}
  for room, wanted in ((4e9, "sample.rows=1"), (1.5e9, "sample.row_length=128")):
    figures = {"fits": False, "memory": memory | {"available": room}}
    found = remedies.of_sampling(figures, config, _ONE, 100)
    assert wanted in found[-1] and found[-1].startswith("By estimate it fits")
  figures = {"fits": False, "memory": memory | {"available": 0.5e9}}
  assert "still does not fit" in remedies.of_sampling(figures, config, _ONE, 100)[-1]


def test_encoders_are_split_and_frames_cut():
  config = _config(sample={"height": 512, "width": 512})
  axes = _ONE | {"data": 8}
  words = {"parameters": 16e9, "temporaries": 1e9, "other_encoder": 9e9, "total": 26e9}
  pixels = {"parameters": 1e9, "temporaries": 8e9, "other_encoder": 17e9, "total": 26e9}

  def lines(room: float, hosts: int) -> list[str]:
    parts = {"text": words, "autoencoder": pixels}
    figures = {
      name: {"fits": memory["total"] <= room, "memory": memory | {"available": room}}
      for name, memory in parts.items()
    }
    return remedies.of_encoding(figures, config, axes, hosts)

  assert not lines(30e9, 1)
  assert lines(20e9, 1)[-1].endswith("--mesh=fsdp=8,tensor=1,context=1")
  assert lines(20e9, 2)[-1].endswith("--config.text.dtype=bfloat16")
  assert "tile_pixels=131072" in lines(7.5e9, 1)[-1]
  both = "--config.text.dtype=bfloat16 --config.media.tile_pixels=131072"
  assert lines(18e9, 2)[-1] == f"By estimate it fits with: {both}"
  (once,) = (line for line in lines(20e9, 1) if "needed" in line)
  assert once.startswith("26.0 GB are needed")
  assert "still does not fit" in lines(1e9, 1)[-1]
