"""Against the installed peer, with other seeds and sizes than the fixtures."""

import jax
import numpy as np
import pytest

from video_dit import interop

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

_CLASSES = {"t5": "T5", "umt5": "UMT5"}


def _peer(kind, whole, sizes, seed):
  """Their model with random weights under which activations are of order 1."""
  torch.manual_seed(seed)
  name = _CLASSES[kind]
  config = getattr(transformers, f"{name}Config")(
    feed_forward_proj="gated-gelu", num_decoder_layers=1, **sizes
  )
  ending = "ForConditionalGeneration" if whole else "EncoderModel"
  model = getattr(transformers, f"{name}{ending}")(config).eval()
  with torch.no_grad():
    for key, parameter in model.named_parameters():
      scale = 0.3 if parameter.ndim == 1 or "bias" in key else parameter.shape[-1] ** -0.5
      scale *= sizes["d_kv"] ** -0.5 if key.endswith("Attention.q.weight") else 1.0
      parameter.copy_(scale * torch.randn_like(parameter) + (parameter.ndim == 1))
  return model


def _theirs(model, ids, mask, dtype=torch.float64):
  encoder = model.get_encoder() if hasattr(model, "lm_head") else model
  with torch.no_grad():
    out = encoder.to(dtype)(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
  return out.last_hidden_state.numpy()


@pytest.mark.parametrize("kind", ["t5", "umt5"])
@pytest.mark.parametrize(("whole", "seed"), [(False, 1), (True, 2)])
def test_hidden_states_and_export(kind, whole, seed, tmp_path):
  sizes = {"vocab_size": 99, "d_model": 36, "num_heads": 5, "d_kv": 7, "d_ff": 52}
  sizes |= {"num_layers": 3, "relative_attention_num_buckets": 16}
  sizes["relative_attention_max_distance"] = 40
  model = _peer(kind, whole, sizes, seed)
  model.save_pretrained(str(tmp_path / "theirs"), max_shard_size="40KB")
  loaded = interop.load(tmp_path / "theirs")
  assert loaded.kind == kind and len(loaded.files) > 1
  assert (loaded.ignored > 0) == whole
  rng = np.random.default_rng(seed)
  ids = rng.integers(3, 99, (3, 61))
  mask = (np.arange(61) < np.array([[61], [17], [1]])).astype(np.int64)
  noise = _theirs(model, ids, mask, torch.float32)
  expected = _theirs(model, ids, mask)
  noise = np.abs(noise - expected).max()
  with jax.default_matmul_precision("highest"):
    got = np.asarray(jax.jit(lambda m, *x: m(*x))(loaded.model, ids, mask))
  error = np.abs(got - expected).max()
  print(f"{kind} {whole}: {error:.1e}, theirs in float32 {noise:.1e}")
  assert error < 1e-5

  interop.save(loaded, tmp_path / "ours")
  encoder = getattr(transformers, f"{_CLASSES[kind]}EncoderModel")
  again = encoder.from_pretrained(str(tmp_path / "ours")).eval()
  np.testing.assert_allclose(_theirs(again, ids, mask), expected, atol=1e-12)
