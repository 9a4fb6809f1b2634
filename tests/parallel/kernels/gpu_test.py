"""What the GPU kernels are handed, and what comes back, as far as a CPU can tell."""

from absl import flags
import jax
import numpy as np
import pytest

from tests.parallel.kernels import rows
from video_dit.parallel import local
from video_dit.parallel.kernels import dense, gpu, triton

_PACKED = rows.segments((5, 3, 26, 8), (9, 40), length=50)
_TEXT = rows.segments((4, 0, 9, 2), (6, 6), length=19)


@pytest.mark.parametrize("keys", [_PACKED, _TEXT], ids=["self", "text"])
def test_ranges_hold_the_keys_of_the_own_segment_and_no_others(keys):
  first, last = map(np.asarray, gpu.key_ranges(_PACKED, keys))
  places = np.arange(keys.shape[1])
  inside = (places >= first[..., None]) & (places < last[..., None])
  same = (_PACKED[:, :, None] == keys[:, None]) & (_PACKED > 0)[:, :, None]
  np.testing.assert_array_equal(inside, same)


@pytest.mark.parametrize("name", ["cudnn", "tokamax"])
@pytest.mark.parametrize("keys", [_PACKED, _TEXT], ids=["self", "text"])
def test_results_are_those_of_the_dense_form(name, keys):
  if name == "tokamax":
    pytest.importorskip("tokamax")
    flags.FLAGS.mark_as_parsed()  # else it parses pytest's
  arrays, _ = rows.arrays(_PACKED, keys, heads=2, size=4)
  found = jax.jit(getattr(gpu, name))(*arrays[:3], _PACKED, keys)
  wanted = dense.attention(*arrays[:3], _PACKED, keys)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def test_the_gradients_under_a_library_are_those_of_our_kernels_on_a_gpu(monkeypatch):
  monkeypatch.setattr(local, "_gpu", lambda kind: kind)
  for name in ("tokamax", "cudnn"):
    found = local._gradients(name, "NVIDIA H100")
    assert found.func is triton.gradients and found.keywords["device"] == "NVIDIA H100"
