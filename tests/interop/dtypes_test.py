"""A checkpoint of several dtypes loses nothing, and no cast makes a number infinite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.interop import wan_transformers
from video_dit import interop
from video_dit.convert import run
from video_dit.interop import dtypes
from video_dit.interop.tensors import open_tensors
from video_dit.parallel import mesh as mesh_lib

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


def test_numbers_of_one_byte_are_told_of(caplog, tmp_path):
  _write(tmp_path / "one", lambda n: jnp.float8_e4m3fn if "to_q.weight" in n else "f4")
  interop.load(tmp_path / "one")
  (told,) = caplog.messages
  assert "6 of 96 tensors are float8_e4m3fn, whose numbers have about one digit" in told
  caplog.clear()
  _write(tmp_path / "two", lambda n: jnp.bfloat16)
  interop.load(tmp_path / "two")
  assert not caplog.messages


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
  big[:2] = 1e5, -2e5
  wan_transformers.write(tmp_path / "big", **{name: big})
  told = rf"{name} holds 200000, but the largest float16 is 65504"
  with pytest.raises(ValueError, match=told):
    interop.load(tmp_path / "big", dtype="float16")
  with pytest.raises(ValueError, match=told):
    interop.save(interop.load(tmp_path / "big"), tmp_path / "out", dtype="float16")
  assert not list((tmp_path / "out").iterdir())
  half = interop.load(tmp_path / "big", dtype="bfloat16")
  interop.save(half, tmp_path / "out")
  kept = open_tensors(tmp_path / "out").read(name)[1].astype(np.float32)
  np.testing.assert_allclose(kept, -2e5, rtol=1e-2)


@pytest.mark.parametrize("laid", [False, True])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  "name",
  ["proj_out.bias", "blocks.1.attn1.to_k.weight", "blocks.2.ffn.net.2.weight"],
)
def test_what_is_not_finite_is_refused_by_name(name, number, dtype, laid, tmp_path):
  """One number of one tensor, alone or the second of three in one parameter."""
  wrong = _ARRAYS[name].copy()
  wrong[-1] = number
  wan_transformers.write(tmp_path, shard_bytes=30_000, **{name: wrong})
  mesh = mesh_lib.make(jax.devices(), (2, 4, 1, 1)) if laid else None
  amount = f"{wrong[-1].size:,} of its {wrong.size:,}"
  file = open_tensors(tmp_path).extents[name].path.name
  told = rf"{file}: {name} is not finite: {amount} numbers .*Copy it again"
  with pytest.raises(ValueError, match=told):
    interop.load(tmp_path, dtype=dtype, mesh=mesh)
  assert interop.load(tmp_path, abstract=True).kind == "wan_dit"  # nothing is read


@pytest.mark.parametrize(
  "dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]
)
def test_finite_is_what_numpy_says(dtype):
  kind = jnp.dtype(dtype)
  bits = {1: np.uint8, 2: np.uint16, 4: np.uint32}[kind.itemsize]
  step = max(1, np.iinfo(bits).max // 100_003)
  for value in np.arange(0, np.iinfo(bits).max, step, dtype=bits).view(kind)[::97]:
    with np.errstate(invalid="ignore"):  # of numpy, where a NaN is a signalling one
      assert dtypes.is_finite(np.full(3, value)) == np.isfinite(value), value
  for value in (jnp.inf, -jnp.inf, jnp.nan):
    assert not dtypes.is_finite(np.array([0, value], kind))
  for value in (jnp.finfo(kind).max, jnp.finfo(kind).min, -0.0):
    assert dtypes.is_finite(np.array([[value]], kind))
  assert dtypes.is_finite(np.zeros((3, 0), kind)) and dtypes.is_finite(np.zeros((), kind))
  late = np.zeros((3, 100_000), kind)
  late[2, -1] = jnp.nan
  assert not dtypes.is_finite(late)
