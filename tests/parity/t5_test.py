"""Our T5 encoder and tokenizer give what transformers and sentencepiece give."""

import json

from flax import nnx
import jax
import numpy as np
import pytest
import safetensors.numpy

from video_dit import config
from video_dit.models.text import t5
from video_dit.models.text import tokenizer as tokenizers

# Ours to theirs, inside a block.
BLOCK = {
  ("attention_norm", "scale"): "layer.0.layer_norm",
  ("q", "kernel"): "layer.0.SelfAttention.q",
  ("k", "kernel"): "layer.0.SelfAttention.k",
  ("v", "kernel"): "layer.0.SelfAttention.v",
  ("out", "kernel"): "layer.0.SelfAttention.o",
  ("mlp_norm", "scale"): "layer.1.layer_norm",
  ("gate", "kernel"): "layer.1.DenseReluDense.wi_0",
  ("up", "kernel"): "layer.1.DenseReluDense.wi_1",
  ("down", "kernel"): "layer.1.DenseReluDense.wo",
}
BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.fixture(scope="module")
def folder(shared):
  return shared / "parity" / "t5_v1_1"


@pytest.fixture(scope="module")
def model(folder):
  theirs = json.loads((folder / "config.json").read_text())
  stored = safetensors.numpy.load_file(folder / "model.safetensors")
  text = config.Text(
    width=theirs["d_model"],
    depth=theirs["num_layers"],
    heads=theirs["num_heads"],
    head_size=theirs["d_kv"],
    mlp_width=theirs["d_ff"],
    buckets=theirs["relative_attention_num_buckets"],
    max_distance=theirs["relative_attention_max_distance"],
  )
  params = {
    "embedding": stored.pop("shared.weight"),
    "position_bias": stored.pop(BIAS),
    "norm": {"scale": stored.pop("encoder.final_layer_norm.weight")},
    "blocks": {},
  }
  for (module, leaf), name in BLOCK.items():
    layers = [stored.pop(f"encoder.block.{i}.{name}.weight").T for i in range(text.depth)]
    params["blocks"].setdefault(module, {})[leaf] = np.stack(layers)
  assert not stored, f"weights that we have no place for: {sorted(stored)}"
  shadow = nnx.eval_shape(
    lambda: t5.T5Encoder(text, theirs["vocab_size"], rngs=nnx.Rngs(0))
  )
  graphdef, shapes = nnx.split(shadow)
  jax.tree.map(
    lambda a, b: np.testing.assert_equal(a.shape, b.shape),
    params,
    nnx.to_pure_dict(shapes),
  )
  return nnx.merge(graphdef, params)


@pytest.mark.parametrize("suffix", ["", "_long"])
def test_hidden_states(folder, model, suffix):
  inputs = np.load(folder / "inputs.npz")
  ids, mask = inputs["ids" + suffix], inputs["mask" + suffix]
  with jax.default_matmul_precision("highest"):
    got = np.asarray(jax.jit(lambda m, *x: m(*x))(model, ids, mask))
  name = "last_hidden_state" + suffix
  for outputs, tolerance in (("outputs.npz", 2e-5), ("outputs_ref64.npz", 1e-5)):
    expected = np.load(folder / outputs)[name]
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def test_the_table_of_buckets(folder):
  expected = np.load(folder / "outputs.npz")["bucket_of_relpos_-320..320"]
  np.testing.assert_array_equal(t5.bucket(np.arange(-320, 321), 32, 128), expected)


def test_ids(shared):
  folder = shared / "parity" / "tokenizer_t5"
  tokenizer = tokenizers.Tokenizer(folder / "spiece.model")
  cases = json.loads((folder / "expected.json").read_text())["cases"]
  assert len(cases) > 20
  for case in cases:
    assert tokenizer.encode(case["text"]) == case["spm_ids_plus_eos"], case["text"]
