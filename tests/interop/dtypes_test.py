"""A checkpoint of several dtypes loses nothing, and no cast makes a number infinite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.interop import wan_transformers
from video_dit import interop
from video_dit.convert import run
from video_dit.interop.tensors import open_tensors

_ARRAYS = wan_transformers.arrays(wan_transformers.CONFIG)


def _write(folder, dtype_of):
  """Each tensor in the dtype that is told for its name, rounded to what fp8 holds."""
  coarse = {n: a.astype(jnp.float8_e4m3fn) for n, a in _ARRAYS.items()}
  changes = {n: a.astype(dtype_of(n)) for n, a in coarse.items()}
  return wan_transformers.write(folder, **changes)


def _first(name):
  return name.startswith("blocks.0.")


@pytest.mark.parametrize(
  ("dtype_of", "stack"),
  [
    (lambda n: jnp.bfloat16 if _first(n) else np.float32, "float32"),
    (lambda n: np.float32 if _first(n) else jnp.bfloat16, "float32"),
    (lambda n: jnp.float8_e4m3fn if _first(n) else jnp.bfloat16, "bfloat16"),
    (lambda n: np.float16 if "to_q" in n else jnp.bfloat16, "float32"),
    (lambda n: jnp.float8_e4m3fn if "to_q" in n else jnp.bfloat16, "bfloat16"),
    (lambda n: jnp.float8_e4m3fn if "to_q" in n else jnp.float8_e5m2, "bfloat16"),
  ],
)
def test_what_lies_in_one_parameter_has_a_dtype_that_holds_it(dtype_of, stack, tmp_path):
  written = _write(tmp_path / "mixed", dtype_of)
  loaded = interop.load(tmp_path / "mixed", dtype=None)
  assert loaded.params["blocks"]["qkv"]["kernel"].dtype == stack
  assert set(loaded.dtypes) == {a.dtype for a in written.values()}
  interop.save(loaded, tmp_path / "out")
  out = open_tensors(tmp_path / "out")
  for name, array in written.items():
    np.testing.assert_array_equal(
      out.read(name).astype(np.float32), array.astype(np.float32), err_msg=name
    )
  whole = interop.load(tmp_path / "mixed", dtype="float32")
  assert {x.dtype.name for x in jax.tree.leaves(whole.params)} == {"float32"}


def test_float64_is_not_narrowed_unasked(tmp_path):
  _write(tmp_path / "wide", lambda name: np.float64)
  with pytest.raises(ValueError, match=r"holds float64, .*--dtype=float32"):
    interop.load(tmp_path / "wide", dtype=None)
  told = list(run.convert(tmp_path / "wide", tmp_path / "out", dtype="float32"))
  assert "  dtype       float64" in told
  assert interop.load(tmp_path / "out", dtype=None).dtypes == (np.float32,)


@pytest.mark.parametrize(
  "dtype", ["int32", "bf16", bool, np.complex64, np.float64, "float8_e3m4", 3]
)
def test_parameters_are_kept_in_some_dtypes_alone(dtype, tmp_path):
  wan_transformers.write(tmp_path)
  told = r"dtype=.* must be one of float32, bfloat16, float16, float8_e4m3fn, float8"
  with pytest.raises(ValueError, match=told):
    interop.load(tmp_path, dtype=dtype)
  with pytest.raises(ValueError, match=told):
    interop.save(interop.load(tmp_path), tmp_path / "out", dtype=dtype)


@pytest.mark.parametrize("name", ["proj_out.bias", "blocks.1.attn1.to_k.bias"])
def test_a_number_does_not_become_infinite(name, tmp_path):
  big = _ARRAYS[name].copy()
  big[:3] = 1e5, -2e5, np.inf  # what is infinite may stay so
  wan_transformers.write(tmp_path / "big", **{name: big})
  told = rf"{name} holds 200000, but the largest float16 is 65504"
  with pytest.raises(ValueError, match=told):
    interop.load(tmp_path / "big", dtype="float16")
  with pytest.raises(ValueError, match=told):
    interop.save(interop.load(tmp_path / "big"), tmp_path / "out", dtype="float16")
  assert not list((tmp_path / "out").iterdir())
  half = interop.load(tmp_path / "big", dtype="bfloat16")
  interop.save(half, tmp_path / "out")
  assert np.isinf(open_tensors(tmp_path / "out").read(name)[2].astype(np.float32))
