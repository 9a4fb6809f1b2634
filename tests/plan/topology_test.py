"""Topologies: how they are named, and a program compiled for chips that are not there."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from video_dit import config as config_lib
from video_dit import extras
from video_dit.plan import chips, devices, gpus

_TPU = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason=f"libtpu is not installed: {extras.command('plan')}",
)


_GPU = pytest.mark.skipif(
  not gpus.has_compiler(),
  reason=f"JAX's CUDA plugin is not installed: {extras.command('plan')}",
)


@pytest.mark.parametrize(
  ("text", "platform", "chip", "rest"),
  [
    ("v5p:4x4x4", "tpu", "v5p", "4x4x4"),
    ("v6e:16x16", "tpu", "v6e", "16x16"),
    ("7x:2x2x1", "tpu", "7x", "2x2x1"),
    ("tpu7x:2x2x1", "tpu", "7x", "2x2x1"),
    ("gpu:h100x64", "gpu", "h100", 64),
    ("cpu:8", "cpu", "cpu", 8),
  ],
)
def test_topologies_are_read(text, platform, chip, rest):
  found = chips.parse(text)
  assert (found.platform, found.chip) == (platform, chip)
  assert rest in (found.shape, found.count)


@pytest.mark.parametrize(
  ("text", "rule"),
  [
    ("v5e:4x4x4", "v5e have 2 sides. Write it like v5e:4x4."),
    ("v6e:2x2x2", "v6e have 2 sides"),
    ("v5e:32x32", "v5e have at most 16x16 chips"),
    ("v6e:8x32", "v6e have at most 16x16 chips"),
    ("v5p:4x4", "v5p have 3 sides. Write it like v5p:2x2x1 or v5p:4x4x4."),
    ("7x:2x2", "7x have 3 sides"),
  ],
)
def test_slices_that_do_not_exist_name_the_rule(text, rule):
  with pytest.raises(ValueError, match="is not a known topology") as error:
    chips.parse(text)
  assert rule in str(error.value)


@pytest.mark.parametrize(
  "text", ["v5:4x4", "v5p", "v5p:4", "h100x64", "gpu:b7x8", "cpu:0", "cpu", "tpu:4x4"]
)
def test_an_unknown_topology_names_the_known_ones(text):
  with pytest.raises(ValueError, match="is not a known topology") as error:
    chips.parse(text)
  for name in ("v4", "v5e", "v5p", "v6e", "7x", "h100", "cpu:N"):
    assert name in str(error.value)


def test_a_missing_compiler_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, "libtpu", None)
  with pytest.raises(ValueError, match=r"-c constraints.txt -e '\.\[plan\]'"):
    devices.mesh_of(chips.parse("v5p:2x2x2"), {}, config_lib.Mesh())


@_TPU
def test_the_tpu_compiler_knows_each_chip_and_refuses_odd_slices():
  sizes = {"v4:2x2x1": 4, "v5e:2x2": 4, "v5p:2x2x1": 4, "v6e:2x2": 4, "7x:2x2x1": 8}
  sizes |= {"v5e:1x1": 1, "v6e:1x1": 1, "v5p:1x1x1": 1, "7x:1x1x1": 2}
  for text, count in sizes.items():
    assert devices.mesh_of(chips.parse(text), {}, config_lib.Mesh()).size == count
  # 8 is no product of the slice's sides: two axes share one of them.
  axes = {"fsdp": 8, "context": 8}
  found = devices.mesh_of(chips.parse("v5p:4x4x4"), axes, config_lib.Mesh())
  assert found.shape["fsdp"] == found.shape["context"] == 8
  with pytest.raises(ValueError, match="unknown TPU slice"):
    devices.mesh_of(chips.parse("v5p:3x3x7"), {}, config_lib.Mesh())


_PROGRAM = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
jax.config.update("jax_platforms", "cpu")
from video_dit import config
from video_dit.plan import chips, devices, hlo, walk
topology = chips.parse("v5p:2x2x1")
mesh = devices.mesh_of(topology, {"fsdp": 4}, config.Mesh())

def step(x, w):
  def body(x, w):
    return jnp.tanh(x @ w), None
  return jax.lax.scan(body, x, w)[0].astype(jnp.float32).sum()

place = lambda *axes: NamedSharding(mesh, P(*axes))
x = jax.ShapeDtypeStruct((4096, 1024), jnp.bfloat16, sharding=place("fsdp"))
w = jax.ShapeDtypeStruct((6, 1024, 1024), jnp.bfloat16, sharding=place(None, "fsdp"))
text = jax.jit(jax.grad(step, argnums=1)).lower(x, w).compile().as_text()
cost = walk.Walker(hlo.parse(text), chips.CHIPS["v5p"], dict(mesh.shape), lambda *_: None)
cost = cost.entry()
assert not cost.unknown, cost.unknown
products = 3 * 6 * 2 * 4096 * 1024 * 1024 / 4
# The last input's gradient is needed by no one.
assert 0.88 * products <= cost.flops <= products, (cost.flops, products)
fastest = cost.flops / chips.CHIPS["v5p"].peak
assert fastest < cost.seconds["matrix"] < 6 * fastest, (cost.seconds, fastest)
assert {axes for axes, _ in cost.collectives} == {"fsdp"}
sent = sum(part.bytes for part in cost.collectives.values())
assert sent >= 6 * 1024 * 1024 * 2 * 3 / 4, cost.collectives
"""


@_TPU
def test_a_scanned_program_for_v5p_is_walked_with_its_turns():
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  run = subprocess.run(
    [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, env=environment
  )
  assert run.returncode == 0, run.stderr[-3000:]


_GATHER = """
import dataclasses, types
import jax
jax.config.update("jax_platforms", "cpu")
from video_dit import config
from video_dit.plan import chips, devices, encoders, hlo, programs, walk
mesh = devices.mesh_of(chips.parse("v5p:2x2x1"), {}, config.Mesh())
text = config.Text(vocabulary=32_000, width=2048, depth=1, heads=2, mlp_width=256)
made = encoders.text_encoder(types.SimpleNamespace(text=text, dit=config.DiT()), mesh)
program = programs.captioning(made.model, made.params, made.mesh, (8, 226), "float32")
print("has sparse work" if "sparsecore" in program.text else "has none")
module = hlo.parse(program.text)
axes = dict(made.mesh.shape)
cost = walk.Walker(module, chips.CHIPS["v5p"], axes, lambda *_: None).entry()
assert not cost.unknown, cost.unknown
assert cost.flops > 2 * 8 * 226 * 2048 * (4 * 128 + 3 * 256), cost.flops
"""


@_TPU
def test_a_program_with_work_for_sparse_cores_is_read_too():
  run = subprocess.run(
    [sys.executable, "-c", _GATHER],
    capture_output=True,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )
  assert run.returncode == 0, run.stderr[-3000:]
  if "has none" in run.stdout:  # as of 0.0.42
    pytest.skip("this libtpu uses no sparse cores for gathers")
  assert "has sparse work" in run.stdout


def test_each_gpu_is_described_to_the_compiler():
  for name, gpu in gpus.GPUS.items():
    chip = chips.CHIPS[name]
    assert gpu.memory > chip.memory and gpu.bandwidth == pytest.approx(
      chip.bandwidth, 0.02
    )
    assert f'name: "{gpu.kind}"' in gpu.target and name.upper() in gpu.kind
    assert gpu.target.count("{") == gpu.target.count("}") == 3
    assert chip.network and not chip.clock


@_GPU
def test_a_run_is_compiled_for_gpus_that_are_not_here(tmp_path):
  path = tmp_path / "plan.json"
  command = [sys.executable, "-m", "video_dit.plan", "--config=tests/plan/tiny_config.py"]
  command += ["--topology=gpu:h100x16", "--mesh=fsdp=2", f"--json={path}"]
  run = subprocess.run(command, capture_output=True, text=True)
  assert run.returncode == 0, run.stderr[-3000:]
  found = json.loads(path.read_text())
  assert (found["estimated_by"], found["hosts"], found["devices"]) == ("compiler", 2, 16)
  assert found["fits"] and 0 < found["mfu"] < 1
  assert found["memory"]["total"] > found["memory"]["parameters"] > 0
  assert found["flops"] * 16 > found["model_flops"]
  assert found["sampler"]["clips_per_second"] and found["encoder"]["clips_per_second"]


@_GPU
def test_a_description_that_the_compiler_refuses_is_named():
  broken = dataclasses.replace(gpus.GPUS["h100"], kind='"')
  with pytest.raises(ValueError, match=r"cannot compile for .* constraints\.txt"):
    gpus.devices(broken, 1, 1)
