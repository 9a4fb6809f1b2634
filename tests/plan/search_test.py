"""A search: what it tries, and how it ranks."""

import dataclasses
import types

import jax
import pytest

from tests import tiny
from video_dit.plan import chips, devices, gpus, run, search, show


@pytest.fixture
def tried(monkeypatch):
  """Plans of 8 devices whose seconds and tokens depend on all that is chosen."""
  asked: list[run.Request] = []

  def plan(request: run.Request):
    asked.append(request)
    dit = request.config.dit
    if request.axes["tensor"] > 1:
      raise ValueError("heads do not divide\nmore")
    seconds = {"splash_256": 1.0, "auto": 2.0, "splash_1024": 3.0}[dit.attention]
    seconds *= {"none": 0.5, "dots": 0.8, "attention": 1.0}.get(dit.remat, 1.5)
    tokens = 10 * request.axes["fsdp"]
    figures = {"step_seconds": seconds * request.axes["fsdp"], "tokens_per_step": tokens}
    figures["step_seconds"] += request.axes["context"]
    return {"fits": dit.remat != "none"} | figures

  monkeypatch.setattr(run, "plan", plan)
  monkeypatch.setattr(devices, "mesh_of", lambda *_: types.SimpleNamespace(size=8))
  return asked


def _request(topology: str, **data) -> run.Request:
  config = dataclasses.replace(
    tiny.CONFIG, data=dataclasses.replace(tiny.CONFIG.data, **data)
  )
  return run.Request(config=config, topology=chips.parse(topology), axes={}, stages=())


def test_a_search_tries_block_sizes_on_tpu_and_ranks_what_fits_first(tried):
  said: list[str] = []
  found = search.search(_request("v5p:2x2x2", row_length=8192), 100, said.append)
  assert len(found) == len(tried) == len(said)
  kernels = {request.config.dit.attention for request in tried}
  assert kernels == {"auto", "splash_256", "splash_1024"}
  policies = {request.config.dit.remat for request in tried}
  assert policies == {"attention", "dots", "block", "none", "offload"}
  assert len({tuple(request.axes.items()) for request in tried}) > 1
  fitting = [plan for plan in found if plan["fits"]]
  assert found[: len(fitting)] == fitting
  assert "attention=splash_256" in found[0]["choice"]
  seconds = [plan["step_seconds"] / plan["tokens_per_step"] for plan in fitting]
  assert seconds == sorted(seconds) and len(set(seconds)) > 5
  of_one_kernel = [x["choice"] for x in fitting if "attention=" not in x["choice"]]
  assert "fsdp=8" in of_one_kernel[0] and "remat=dots" in of_one_kernel[0]
  assert "context=1" in of_one_kernel[0]
  assert any(plan.get("error") == "heads do not divide" for plan in found)


@pytest.mark.parametrize(
  ("topology", "data"), [("cpu:8", {"row_length": 8192}), ("v5p:2x2x2", {})]
)
def test_other_kernels_and_short_rows_have_no_blocks_to_try(topology, data, tried):
  found = search.search(_request(topology, **data), 5, lambda _: None)
  assert len(found) == 5
  assert {request.config.dit.attention for request in tried} == {"auto"}


def test_ways_over_context_that_a_formula_cannot_tell_apart_are_not_tried(
  tried, monkeypatch
):
  monkeypatch.setattr(gpus, "has_compiler", lambda: False)
  found = search.search(_request("gpu:h100x8", rows=64), 100, lambda _: None)
  assert any(request.axes["context"] > 1 for request in tried)
  assert {request.config.dit.context for request in tried} == {"auto"}
  assert len({plan["choice"] for plan in found}) == len(found)


def test_what_nothing_can_be_planned_with_is_refused(tried, monkeypatch):
  with pytest.raises(ValueError, match="does not fit into a row of 96"):
    request = dataclasses.replace(_request("cpu:8"), clips=(97,))
    search.search(request, 5, lambda _: None)
  assert not tried

  def refuse(request):
    raise ValueError("no such kernel\nmore")

  monkeypatch.setattr(run, "plan", refuse)
  with pytest.raises(ValueError, match="no way of 5 can be planned: no such kernel"):
    search.search(_request("cpu:8"), 5, lambda _: None)


def test_what_the_compiler_refuses_does_not_end_a_search(tried, monkeypatch):
  plan = run.plan

  def refuse(request):
    if request.config.dit.remat == "offload":
      raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\nmore")
    return plan(request)

  monkeypatch.setattr(run, "plan", refuse)
  found = search.search(_request("cpu:8"), 5, lambda _: None)
  (error,) = (plan["error"] for plan in found if "error" in plan)
  assert error == "INTERNAL: RET_CHECK failure"
  assert len(found) == 5 and found[-1]["choice"].endswith("remat=offload")


def test_meshes_over_which_the_rows_do_not_divide_are_not_tried(tried):
  found = search.search(_request("cpu:6", rows=8), 100, lambda _: None)
  assert len(found) == len(tried)
  split = {6 // (r.axes["tensor"] * r.axes["context"]) for r in tried}
  assert split == {1, 2}
  # Where rows are fewer than devices, a plan adds some.
  found = search.search(_request("cpu:6", rows=2), 100, lambda _: None)
  assert any("fsdp=1 tensor=1 context=1" in plan["choice"] for plan in found)


def test_axes_that_suit_no_mesh_are_refused(tried):
  request = dataclasses.replace(_request("cpu:8"), axes={"tensor": 4})
  with pytest.raises(ValueError, match=r"with tensor=4 suits .* tensor dit.heads=2"):
    search.search(request, 5, lambda _: None)
  assert not tried


def test_a_ranking_names_mesh_remat_and_rows():
  plan = {"choice": "fsdp=8 remat=block", "rows": 64, "fits": True}
  head, line = show.ranking([plan])
  assert head.endswith("GB a device  mesh, remat, rows")
  assert line.endswith("fsdp=8 remat=block rows=64")
