"""Plans of GPUs without their compiler: figures that can be counted by hand."""

import dataclasses

import pytest

from tests import tiny
from tests.plan import planned
from video_dit.plan import chips, formula, gpus, run
from video_dit.plan import mix as mix_lib


def test_without_their_compiler_gpus_are_planned_by_formula(monkeypatch):
  monkeypatch.setattr(gpus, "has_compiler", lambda: False)
  request = planned.request(
    topology=chips.parse("gpu:h100x64"), axes={"fsdp": 8}, price=2.5
  )
  found = run.plan(request)
  assert found["estimated_by"] == "formula"
  assert any("-e '.[plan]'" in note for note in found["notes"])
  assert (found["chips"], found["hosts"]) == (64, 8)
  assert 0 < found["mfu"] < 1
  assert found["memory"]["parameters"] == pytest.approx(4 * found["parameters"] / 8)
  assert {"fsdp", "data"} == {part["axes"] for part in found["collectives"]}


def test_a_formula_counts_what_can_be_counted_by_hand(monkeypatch):
  monkeypatch.setattr(gpus, "has_compiler", lambda: False)
  axes = {"fsdp": 2, "tensor": 2, "context": 2}
  config = planned.config(
    dit={"remat": "attention"}, data={"row_text": 24, "row_segments": 1}
  )
  found = run.plan(planned.request(config, topology=planned.H100S, axes=axes))
  params, chip = found["parameters"], chips.CHIPS["h100"]
  peak = chip.peak / 16  # of float32
  # Four rows of a clip of 96 tokens and a caption of 24, over tensor and context.
  attention = 4 * 64 * 2 * 96 * (96 + 24) * 4 / 4
  assert found["kernel_flops"] == pytest.approx(4.5 * attention)
  in_thirds = chip.peak / 6  # three products of TensorFloat-32
  seconds = attention / (0.45 * in_thirds) + 3.5 * attention / (0.42 * in_thirds)
  assert found["seconds"]["kernel"] == pytest.approx(seconds)
  # All but attention's products come twice more backward, and once again.
  linear = found["model_flops"] / 3 / 8 - attention
  assert found["flops"] == pytest.approx(4 * linear + 4.5 * attention)
  assert found["seconds"]["matrix"] == pytest.approx(4 * linear / (0.62 * peak))
  memory, tokens = found["memory"], 4 * 96 / 2
  assert memory["parameters"] == memory["ema"] == memory["optimizer"] / 2 == params / 2
  assert memory["activations"] == tokens * 64 * 4 * 2 * 2 / 2  # twice its width
  width = tokens * 64 * 4 * 2  # bytes of the stream, of both blocks
  wanted = {
    ("fsdp,context", "all-gather"): (2 * params / 2 * 4, 3 / 4, 0.5),
    ("fsdp,context", "reduce-scatter"): (params / 2 * 4, 3 / 4, 0.5),
    ("tensor", "all-gather"): (9 * width, 1 / 2, 1),
    ("tensor", "reduce-scatter"): (8 * width, 1 / 2, 1),
    ("context", "all-gather"): (6 * width, 1 / 2, 0.5),
  }
  assert len(found["collectives"]) == len(wanted)
  for part in found["collectives"]:
    size, share, exposed = wanted[part["axes"], part["kind"]]
    assert part["bytes"] == pytest.approx(size * share)
    assert part["seconds"] == pytest.approx(size * share / chip.link)
    assert part["exposed"] == pytest.approx(part["seconds"] * exposed)


def test_a_formula_knows_micro_batches_hosts_and_small_moments(monkeypatch):
  monkeypatch.setattr(gpus, "has_compiler", lambda: False)

  def plan(count: int = 8, **sections):
    config = planned.config(**{"dit": {"remat": "attention"}} | sections)
    topology = chips.parse(f"gpu:h100x{count}")
    return run.plan(planned.request(config, topology=topology, axes={"fsdp": count}))

  one, two = (
    plan(),
    plan(train={"accumulate": 2}, optimizer={"moments_dtype": "bfloat16"}),
  )
  for name in ("flops", "kernel_flops", "model_flops", "tokens_per_step"):
    assert two[name] == pytest.approx(2 * one[name])
  assert two["memory"]["activations"] == one["memory"]["activations"]
  assert two["memory"]["optimizer"] == one["memory"]["optimizer"] / 2
  for once, twice in zip(one["collectives"], two["collectives"], strict=True):
    assert twice["bytes"] == 2 * once["bytes"]
  remats = {remat: plan(dit={"remat": remat}) for remat in ("block", "none")}
  kernels = {remat: found["kernel_flops"] for remat, found in remats.items()}
  # Attention's forward pass is done again, where a block keeps nothing of it.
  assert (
    kernels["none"] == one["kernel_flops"] == pytest.approx(4.5 / 5.5 * kernels["block"])
  )
  linear = one["flops"] - one["kernel_flops"]
  assert remats["none"]["flops"] - kernels["none"] == pytest.approx(linear * 3 / 4)
  far = plan(16, data={"rows": 16})["collectives"]  # of two hosts
  network = chips.CHIPS["h100"].network
  for part in far:
    assert part["seconds"] == pytest.approx(part["bytes"] / network)


def test_what_no_device_holds_does_not_fit_by_formula():
  chip = dataclasses.replace(chips.CHIPS["h100"], memory=1e6)
  mix, axes = mix_lib.of(tiny.CONFIG), {"data": 8, "fsdp": 1, "tensor": 1, "context": 1}
  assert not formula.figures(tiny.CONFIG, chip, axes, mix, 10**6)["fits"]
  assert formula.figures(tiny.CONFIG, chips.CHIPS["h100"], axes, mix, 10**6)["fits"]


@pytest.mark.parametrize(
  ("axes", "dit", "message"),
  [
    ({"tensor": 8}, {}, "heads=2 does not divide over tensor=8"),
    ({"context": 8}, {"context": "all_to_all"}, "do not divide over context=8"),
    ({"context": 2}, {"context": "both"}, "leave no group of devices"),
    ({"fsdp": 8}, {"width": 36}, "of size 36 does not divide over fsdp=8"),
  ],
)
def test_a_formula_refuses_what_training_refuses(axes, dit, message, monkeypatch):
  monkeypatch.setattr(gpus, "has_compiler", lambda: False)
  request = planned.request(planned.config(dit=dit), topology=planned.H100S, axes=axes)
  with pytest.raises(ValueError, match=message):
    run.plan(request)


def test_a_formula_hides_what_goes_to_the_host_behind_work_alone(monkeypatch):
  config = planned.config(dit={"remat": "offload"})
  chip = chips.CHIPS["h100"]

  def copied(rate: float) -> tuple[float, float]:
    changed = dataclasses.replace(chip, host_link=rate)
    monkeypatch.setitem(chips.CHIPS, "h100", changed)
    found = planned.by_formula(monkeypatch, config)
    work = sum(found["seconds"][kind] for kind in ("matrix", "kernel", "vector"))
    return found["seconds"]["copy"], 2 * found["memory"]["host"] / rate - work

  seconds, left = copied(1e6)
  assert seconds == pytest.approx(left) and left > 0
  assert copied(1e15)[0] == 0


def test_a_formula_counts_padding_as_work_and_not_as_tokens(monkeypatch):
  full = planned.by_formula(monkeypatch, clips=(32,))
  half = planned.by_formula(monkeypatch, clips=(32, 90))
  assert half["fill"] == full["fill"] / 3
  assert half["seconds"]["matrix"] == pytest.approx(full["seconds"]["matrix"])
  assert half["model_flops"] == pytest.approx(full["model_flops"] / 3, rel=0.1)


def test_a_formula_knows_that_float32_is_slow(monkeypatch):
  fast = planned.config(train={"compute_dtype": "bfloat16"})
  slow, fast = planned.by_formula(monkeypatch), planned.by_formula(monkeypatch, fast)
  for kind, times in (("matrix", 16), ("kernel", 6)):
    assert slow["seconds"][kind] == pytest.approx(times * fast["seconds"][kind])


def test_a_formula_counts_the_bytes_that_leave_a_device(monkeypatch):
  found = planned.by_formula(monkeypatch)
  parts = {(part["axes"], part["kind"]): part for part in found["collectives"]}
  depth, weights = tiny.CONFIG.dit.depth, 4 * found["parameters"]
  gathers = parts["fsdp", "all-gather"]
  assert gathers["bytes"] == pytest.approx(2 * weights * 3 / 4)
  assert gathers["count"] == 2 * depth
  sums = parts["data", "all-reduce"]
  assert (sums["count"], sums["bytes"]) == (1, pytest.approx(2 * weights / 4 / 2))


def test_a_kernel_that_a_gpu_would_interpret_is_refused(monkeypatch):
  with pytest.raises(ValueError, match="'splash_256' is a kernel for TPU"):
    planned.by_formula(monkeypatch, planned.config(dit={"attention": "splash_256"}))
  found = planned.by_formula(monkeypatch, planned.config(dit={"attention": "chunked"}))
  assert any("dit.attention=chunked takes longer" in note for note in found["notes"])


def test_a_formula_says_that_it_plans_training_alone(monkeypatch):
  monkeypatch.setattr(gpus, "has_compiler", lambda: False)
  request = planned.request(topology=planned.H100S, axes={"fsdp": 8}, stages=run.STAGES)
  assert "not planned by formula: sample and encode" in run.plan(request)["notes"]
  with pytest.raises(ValueError, match="--stages=sample: only the training step"):
    run.plan(dataclasses.replace(request, stages=("sample",)))


def test_what_leaves_planned_rows_empty_is_noted(monkeypatch):
  few = planned.by_formula(monkeypatch, clips=(8,))
  assert any("--config.data.row_segments=12" in note for note in few["notes"])
  config = planned.config(data={"row_segments": 12})
  (note,) = (
    n for n in planned.by_formula(monkeypatch, config, clips=(8,))["notes"] if "text" in n
  )
  assert "captions of 6 tokens" in note and "--config.data.row_text=288" in note
