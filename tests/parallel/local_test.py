"""Which kernel a device's attention takes, what it says of it, and what is kept."""

import importlib.machinery
import logging
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parallel.kernels import rows
from video_dit.parallel import attention, local
from video_dit.parallel import mesh as mesh_lib
from video_dit.parallel.kernels import chunked

_SEGMENTS = rows.segments((9, 3, 18), (29,), length=32)


def _on(platform: str, kind: str):
  """As if compiled for one device of a kind that is not here."""
  device = jax.sharding.AbstractDevice(
    device_kind=kind, num_cores=None, platform=platform
  )
  mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device)
  return jax.sharding.use_abstract_mesh(mesh)


def test_short_rows_are_dense_everywhere():
  for platform, kind in (("cpu", "cpu"), ("tpu", "TPU v5"), ("gpu", "NVIDIA H100")):
    with _on(platform, kind):
      assert local.choose("auto", (16, 96, 4, 48), 96) == "dense"


def test_long_rows_take_the_kernel_of_the_device(monkeypatch):
  shape = (1, 32_768, 9, 128)
  with _on("cpu", "cpu"):
    assert local.choose("auto", shape, shape[1]) == "chunked"
  for kind in ("TPU v5", "TPU v6e"):
    with _on("tpu", kind):
      assert local.choose("auto", shape, shape[1]) == "splash"
      assert local.choose("auto", shape, 1000) == "splash"
      assert local.choose("chunked", shape, shape[1]) == "chunked"
  with _on("gpu", "NVIDIA H100"):
    monkeypatch.setattr(local, "_has_tokamax", lambda: False)
    assert local.choose("auto", shape, shape[1]) == "triton"
    with monkeypatch.context() as without:
      without.setattr(local, "_has_triton", lambda: False)
      assert local.choose("auto", shape, shape[1]) == "chunked"
    monkeypatch.setattr(local, "_has_tokamax", lambda: True)
    # Tokamax asks the machine's GPU: a plan is made without one.
    assert local.choose("auto", shape, shape[1]) == "triton"
    for library in ("tokamax", "cudnn"):
      with pytest.raises(ValueError, match=r"there is none\. Choose 'triton' or 'auto'"):
        local.choose(library, shape, shape[1])
    monkeypatch.setattr(local, "_gpu_is_here", lambda: True)
    assert local.choose("auto", shape, shape[1]) == "tokamax"
    wide = (1, 32_768, 2, 512)
    assert local.choose("auto", wide, wide[1]) == "chunked"
    with pytest.raises(ValueError, match="heads of 512 are wider than 256"):
      local.choose("triton", wide, wide[1])
  with _on("gpu", "Tesla T4"):
    assert local.choose("auto", shape, shape[1]) == "chunked"


def test_the_choice_is_said_once_for_each_shape(caplog):
  caplog.set_level(logging.INFO, logger="absl")
  logging.getLogger("absl").propagate = True
  for _ in range(2):
    local.choose("auto", (3, 77, 5, 11), 77)
  local.choose("chunked", (3, 77, 5, 11), 77)
  said = [m for m in caplog.messages if "77 queries" in m]
  assert len(said) == 2 and "dense (a short row)" in said[0]
  assert "chunked (chosen by name)" in said[1]


def test_unknown_kernels_and_missing_libraries_are_refused(monkeypatch):
  with pytest.raises(ValueError, match=r"not a kernel\. Choose one of auto, dense"):
    local.choose("flash", (1, 8, 1, 4), 8)
  monkeypatch.setattr(local, "_has_tokamax", lambda: False)
  with pytest.raises(ValueError, match=r"-c constraints.txt -e '\.\[tokamax\]'"):
    local.choose("tokamax", (1, 8, 1, 4), 8)


def test_a_tokamax_of_another_version_is_named_and_not_used(monkeypatch, caplog):
  logging.getLogger("absl").propagate = True
  other = types.ModuleType("tokamax")
  other.__spec__ = importlib.machinery.ModuleSpec("tokamax", None)
  monkeypatch.setitem(sys.modules, "tokamax", other)
  monkeypatch.setattr(local, "_gpu_is_here", lambda: True)
  local._has_tokamax.cache_clear()
  try:
    with _on("gpu", "NVIDIA H100"):
      assert local.choose("auto", (1, 32_768, 9, 128), 32_768) == "triton"
    with pytest.raises(ValueError, match="not in a version that can be used"):
      local.choose("tokamax", (1, 8, 1, 4), 8)
  finally:
    local._has_tokamax.cache_clear()
  assert "this version of Tokamax cannot be used (No module named" in caplog.text


@pytest.mark.parametrize(("kernel", "block"), [("splash", 0), ("splash_1024", 1024)])
def test_a_kernels_name_may_say_its_blocks(kernel, block):
  assert local.choose(kernel, (1, 32_768, 9, 128), 32_768) == kernel
  for part in (local._attention(kernel, ""), local._gradients(kernel, "")):
    assert part.keywords["block"] == block


@pytest.mark.parametrize("kernel", ["chunked", "splash", "triton"])
def test_output_and_log_sum_exp_differentiate_as_in_the_dense_form(kernel, monkeypatch):
  monkeypatch.setattr(chunked, "BLOCK", 8)
  arrays, dlse = rows.arrays(_SEGMENTS, _SEGMENTS, heads=2, size=4)

  def run(kernel, q, k, v, dout, dlse):
    def attend(*qkv):
      return local.local_attention(*qkv, _SEGMENTS, _SEGMENTS, kernel=kernel)

    out, pull = jax.vjp(attend, q, k, v)
    return *out, *pull((dout, dlse))

  found = jax.jit(run, static_argnums=0)(kernel, *arrays, dlse)
  wanted = jax.jit(run, static_argnums=0)("dense", *arrays, dlse)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=4e-6)


@pytest.mark.parametrize("devices", [1, 8])
def test_the_policy_attention_runs_no_forward_kernel_again(devices, monkeypatch):
  monkeypatch.setattr(chunked, "BLOCK", 8)
  segments = np.tile(_SEGMENTS, (2, 1))
  arrays, _ = rows.arrays(segments, segments, heads=2, size=4)

  def loops(policy) -> int:
    def block(q, k, v):
      out = attention.packed_attention(q, k, v, segments, segments, kernel="chunked")
      return jnp.sin(out).sum()

    kept = jax.checkpoint(block, policy=policy)
    return str(jax.make_jaxpr(jax.grad(kept, (0, 1, 2)))(*arrays[:3])).count("while[")

  policies = jax.checkpoint_policies
  mesh = mesh_lib.make(
    jax.devices()[:devices], (devices // 2 or 1, 1, min(devices, 2), 1)
  )
  with jax.set_mesh(mesh):
    assert loops(policies.nothing_saveable) == 3  # forward, again, backward
    assert loops(policies.save_only_these_names(local.SAVED)) == 2
