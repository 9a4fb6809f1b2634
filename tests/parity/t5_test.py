"""T5 and UMT5 encoders read from the peers' files give what the peers give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit import interop
from video_dit.models.text import t5

CASES = {
  "t5_v1_1": ("t5", "float32", 0),
  "t5_v1_1_bf16": ("t5", "bfloat16", 0),
  "t5_v1_1_full_bin": ("t5", "float32", 33),
  "umt5": ("umt5", "float32", 0),
  "umt5_native": ("umt5", "bfloat16", 0),
}


@pytest.fixture(scope="module")
def run():
  with jax.default_matmul_precision("highest"):
    yield jax.jit(lambda model, *batch: model(*batch))


@pytest.mark.parametrize("case", CASES)
def test_hidden_states(shared, run, case):
  folder = shared / "parity" / case
  kind, dtype, ignored = CASES[case]
  loaded = interop.load(folder)
  assert (loaded.kind, loaded.ignored) == (kind, ignored)
  assert loaded.dtypes == (jnp.dtype(dtype),)
  assert loaded.licence == "Apache-2.0"
  given = folder if (folder / "inputs.npz").is_file() else folder.parent / "umt5"
  inputs = np.load(given / "inputs.npz")
  with jax.default_matmul_precision("highest"):
    for suffix in ("", "_long"):
      ids, mask = inputs["ids" + suffix], inputs["mask" + suffix]
      got = np.asarray(run(loaded.model, ids, mask))
      for outputs, tolerance in (("outputs.npz", 2e-5), ("outputs_ref64.npz", 1e-5)):
        expected = np.load(folder / outputs)["last_hidden_state" + suffix]
        error = np.abs(got - expected).max()
        print(f"{case}{suffix} {outputs}: {error:.2e}")
        assert error <= tolerance


@pytest.mark.parametrize("case", ["t5_v1_1", "umt5"])
def test_the_batch_does_not_matter(shared, run, case):
  folder = shared / "parity" / case
  loaded = interop.load(folder)
  inputs = np.load(folder / "inputs.npz")
  ids, mask = inputs["ids"], inputs["mask"].astype(bool)
  wider = [np.pad(x, ((0, 0), (0, 31)), constant_values=v) for x, v in ((ids, 7),)]
  with jax.default_matmul_precision("highest"):
    whole = np.asarray(run(loaded.model, ids, mask))
    padded = run(loaded.model, wider[0], np.pad(mask, ((0, 0), (0, 31))))
    np.testing.assert_allclose(np.asarray(padded)[:, :33][mask], whole[mask], atol=2e-6)
    shortest = int(mask.sum(1).min())
    row = int(mask.sum(1).argmin())
    alone = run(loaded.model, ids[row : row + 1, :shortest], np.ones((1, shortest)))
    np.testing.assert_allclose(np.asarray(alone)[0], whole[row, :shortest], atol=2e-6)


@pytest.mark.parametrize("case", ["t5_v1_1", "umt5"])
def test_the_table_of_buckets(shared, case):
  folder = shared / "parity" / case
  expected = np.load(folder / "outputs.npz")["bucket_of_relpos_-320..320"]
  np.testing.assert_array_equal(t5.bucket(np.arange(-320, 321), 32, 128), expected)
