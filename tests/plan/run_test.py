"""Plans on simulated devices: memory, FLOPs, and what follows from them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests import tiny
from tests.plan import planned
from video_dit import config as config_lib
from video_dit.data import batch as batch_lib
from video_dit.models.dit import flops
from video_dit.plan import chips, estimate, gpus, programs, run
from video_dit.plan import mix as mix_lib
from video_dit.trainer import task as task_lib
from video_dit.trainer.step import Trainer


@pytest.fixture(scope="module")
def config():
  """One that recomputes nothing, so that what is counted can be counted by hand."""
  return planned.config(dit={"remat": "none"})


@pytest.fixture(scope="module")
def plan(config):
  return run.plan(planned.request(config, price=2.0))


@pytest.fixture(scope="module")
def trainer(config):
  mesh = tiny.mesh("data=4,fsdp=2")
  task = task_lib.diffusion_task(config, config.autoencoder.channels, config.text.width)
  return Trainer(task, config, mesh)


def test_predicted_memory_is_the_compilers(plan, trainer, config):
  batch = mix_lib.abstract_rows(config, trainer.mesh, config.data.rows)
  with jax.set_mesh(trainer.mesh):
    found = trainer.step.lower(trainer.abstract, batch).compile().memory_analysis()
  memory = plan["memory"]
  assert memory["total"] == (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
    + found.temp_size_in_bytes
    + found.generated_code_size_in_bytes
  )
  classes = set(memory) - {"total", "available", "host"}
  assert sum(memory[name] for name in classes) == pytest.approx(memory["total"])
  assert memory["activations"] > 0
  assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], rel=1e-3)
  assert memory["ema"] == memory["parameters"]


def test_predicted_flops_are_those_of_the_products_that_the_step_asks_for(
  plan, trainer, config
):
  batch = mix_lib.abstract_rows(config, trainer.mesh, config.data.rows)
  with jax.set_mesh(trainer.mesh):
    traced = jax.make_jaxpr(trainer._step)(trainer.abstract, batch)
  # Noise, norms and modulations are no products; small ones are computed twice.
  assert plan["flops"] * 8 == pytest.approx(_count(traced.jaxpr), rel=0.02)


def test_model_flops_are_those_that_a_step_counts(plan, trainer, config):
  data = config.data
  rows = batch_lib.blank(
    data.rows,
    data.row_length,
    data.row_segments,
    data.row_text,
    patch_dim=mix_lib.patch_dim(config),
    text_width=config.text.width,
    dtype=np.float16,
  )
  mix = mix_lib.of(config)
  rows.segments[:] = mix.segments_N
  rows.tokens[:, : len(mix.tokens)] = mix.tokens
  rows.weights[:, : len(mix.tokens)] = 1.0
  rows.text_segments[:, : mix.text[0]] = 1
  with jax.set_mesh(trainer.mesh):
    batch = jax.device_put(rows, trainer.objective.layout(trainer.mesh))
    _, metrics = trainer.step(trainer.init(), batch)
  counts = jax.device_get(metrics.counts)
  assert plan["model_flops"] == pytest.approx(float(counts["model_flops"]), rel=1e-5)
  assert plan["tokens_per_step"] == counts["tokens"]


def _count(jaxpr) -> float:
  """FLOPs of all products of a program, loops as often as they turn."""
  total = 0.0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      taken = np.prod([left[axis] for axis in contracted])
      total += 2 * float(np.prod(equation.outvars[0].aval.shape)) * taken
    times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    for inner in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        # A map over shards is written for one of them.
        ways = 8 if equation.primitive.name == "shard_map" else 1
        total += times * ways * _count(inner)
  return total


def test_rates_days_and_cost_follow_from_the_step(plan, config):
  seconds = plan["step_seconds"]
  assert seconds == pytest.approx(sum(plan["seconds"].values()))
  assert plan["tokens_per_second"] == pytest.approx(plan["tokens_per_step"] / seconds)
  assert plan["mfu"] == pytest.approx(
    plan["model_flops"] / seconds / (8 * plan["peak_flops_per_device"])
  )
  assert plan["days"] == pytest.approx(seconds * config.train.steps / 86_400)
  assert plan["cost"] == pytest.approx(plan["chip_hours"] * 2.0)
  assert plan["checkpoint_bytes"] > 4 * 4 * plan["parameters"]
  assert plan["host_memory"]["total"] > plan["checkpoint_bytes"]
  assert not plan["not_estimated"]
  json.dumps(plan)


def test_a_config_with_few_rows_is_planned_with_one_a_device():
  config = planned.config(data={"rows": 2}, dit={"remat": "none"})
  found = run.plan(planned.request(config))
  assert found["rows"] == 8
  assert "--config.data.rows=8" in found["notes"][0]
  # Its tokens are the config's own, and take a fourth of its steps.
  assert found["tokens"] == 2 * config.data.row_length * config.train.steps


def test_what_would_fit_keeps_the_rows_of_such_a_config(monkeypatch):
  config = planned.config(data={"rows": 4, "balance_rows": 4})
  needed = planned.by_formula(monkeypatch, config)["memory"]["total"]
  small = dataclasses.replace(chips.CHIPS["h100"], memory=0.67 * needed)
  monkeypatch.setitem(chips.CHIPS, "h100", small)
  found = planned.by_formula(monkeypatch, config)
  fitting = "By estimate it fits with: --mesh=fsdp=4,tensor=1,context=2"
  assert found["remedies"][-1] == fitting
  again = planned.by_formula(monkeypatch, config, axes={"fsdp": 4, "context": 2})
  assert again["fits"] and again["rows"] == 4 and again["tokens"] == found["tokens"]


@pytest.mark.parametrize(
  ("message", "total"),
  [
    ("Ran out of memory in memory space hbm. Used 3.00G of 2.00G hbm.", 3.0),
    ("the total memory required for HLO temporaries (2.00G) exceeds available HBM", 3.0),
    ("RESOURCE_EXHAUSTED, and nothing said", 1.0),
  ],
)
def test_a_refusal_of_the_compiler_says_how_much_is_needed(message, total):
  found = programs.needed(message, 1024.0**3)
  assert found["total"] == total * 1024**3
  assert found["temporaries"] == (total - 1) * 1024**3


def test_a_program_that_the_compiler_cannot_make_is_refused(monkeypatch):
  def compile_(self):
    raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\nmore")

  monkeypatch.setattr(jax.stages.Lowered, "compile", compile_)
  message = "refuses this program: INTERNAL: RET_CHECK failure. Try another mesh"
  with pytest.raises(ValueError, match=message):
    run.plan(planned.request())


@pytest.mark.parametrize(
  ("axes", "message"),
  [
    ({"fsdp": 3}, "has 8 devices"),
    ({"fsdp": 16}, "asks for 16 devices"),
    ({"context": 5}, "must equal the devices"),
    ({"tensor": 8}, "heads=2 does not divide"),
  ],
)
def test_a_mesh_that_does_not_divide_is_refused(axes, message):
  with pytest.raises(ValueError, match=message):
    run.plan(planned.request(axes=axes))


def test_a_host_holds_its_part_of_a_checkpoint_and_of_batches():
  ahead = tiny.CONFIG.data.prefetch + tiny.CONFIG.data.threads + 1
  found = estimate.host_figures(8e9, 1e9, tiny.CONFIG, 4, 0.5, 12e9)
  assert (found["checkpoint_copy"], found["batches"]) == (2e9, ahead * 0.5e9)
  assert found["offloaded"] == 3e9
  assert found["total"] == 5e9 + ahead * 0.5e9 + found["process"]


def test_a_host_holds_what_its_devices_offload(monkeypatch):
  config = planned.config(dit={"remat": "offload"})
  found = planned.by_formula(monkeypatch, config)
  rows, dit, host = config.data, config.dit, found["host_memory"]
  kept = 2 * 4 * rows.rows * rows.row_length * dit.width * dit.depth
  assert host["offloaded"] == kept
  parts = ("checkpoint_copy", "batches", "offloaded", "process")
  assert host["total"] == sum(host[part] for part in parts)
  # The compiler's own figure, of each device.
  compiled = programs.Program(
    text="", memory={"total": 1.0, "host": 5.0}, seconds=0.0, too_large="x", shapes=None
  )
  shapes = Trainer(programs.task(config), config, tiny.mesh("fsdp=8")).abstract
  compiled = dataclasses.replace(compiled, shapes=shapes)
  monkeypatch.setattr(programs, "training", lambda *_: compiled)
  found = run.plan(planned.request(axes={"fsdp": 8}))
  assert found["host_memory"]["offloaded"] == 5.0 * 8


def test_a_mesh_of_the_config_that_does_not_divide_is_named(monkeypatch):
  config = dataclasses.replace(tiny.CONFIG, mesh=config_lib.Mesh(fsdp=16))
  with pytest.raises(ValueError, match=r"8 devices\. config\.mesh: .*fsdp=16.*--mesh="):
    run.plan(planned.request(config, axes={}))


def test_hosts_hold_batches_whole_however_they_are_split(monkeypatch):
  by_hand = programs.global_bytes(programs.step_batch(tiny.CONFIG, tiny.mesh()))
  monkeypatch.setattr(gpus, "has_compiler", lambda: False)
  for topology in (planned.CPU, planned.H100S):
    axes = {"fsdp": 4, "context": 2}
    found = run.plan(planned.request(topology=topology, axes=axes))
    ahead = tiny.CONFIG.data.prefetch + tiny.CONFIG.data.threads + 1
    assert found["host_memory"]["batches"] == ahead * by_hand
    assert found["memory"]["batch"] > by_hand / 8  # texts are not split over context


def test_a_sampler_is_planned_for_clips_that_it_would_sample():
  config = planned.config(sample={"row_length": 16})
  with pytest.raises(ValueError, match=r"a sampling row holds 16\..*--stages=train"):
    run.plan(planned.request(config, stages=("train", "sample")))


def test_rows_hold_the_clips_that_are_named():
  config = planned.config(data={"row_length": 100, "row_segments": 9})
  assert mix_lib.of(config).tokens == (100,)
  mix = mix_lib.of(config, (20, 35))
  assert (mix.tokens, mix.fill) == ((20, 35, 20), 0.75)
  assert mix.text == (min(config.text.max_tokens, config.data.row_text // 3),) * 3
  few = planned.config(data={"row_length": 100, "row_segments": 2, "row_text": 18})
  assert mix_lib.of(few, (20, 35)) == mix_lib.Mix((20, 35), (9, 9), 100)
  with pytest.raises(ValueError, match="does not fit into a row of 100"):
    mix_lib.of(config, (101,))
  tokens = np.array(mix_lib.of(config, (20, 35)).tokens, np.float64)
  halves = [tokens, 2 * tokens]
  less, more = (
    flops.forward_flops(
      config.dit, patch_dim=4, text_width=16, tokens_S=t, text_tokens_S=0 * t
    )
    for t in halves
  )
  assert more > 2 * less


def test_skipped_blocks_are_not_counted():
  mix = mix_lib.Mix((128, 128, 256), (10, 10, 10), 512)
  assert mix.visited(128, 128) == (128**2 * 2 + 256**2) / 512**2
  # Whole blocks are visited, whoever else lies in them.
  assert mix.visited(256, 256) == (256**2 * 2) / 512**2
  assert mix_lib.Mix((512,), (10,), 512).visited(128, 128) == 1.0
  # The last blocks end with the row.
  assert mix_lib.Mix((150,), (10,), 150).visited(100, 100) == 1.0
  rest = mix_lib.Mix((100, 20), (10, 10), 150)
  assert rest.visited(100, 50) == (100 * 100 + 50 * 50) / 150**2
