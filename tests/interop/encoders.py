"""Small T5 and UMT5 encoders with random weights, written as transformers writes them."""

import json
import pathlib

import jax
import numpy as np

from video_dit import interop
from video_dit.interop import safetensors_file
from video_dit.interop.safetensors_file import Outgoing

# Widths, heads and sizes of heads that go into one another nowhere.
CONFIG = {
  "model_type": "umt5",
  "architectures": ["UMT5EncoderModel"],
  "feed_forward_proj": "gated-gelu",
  "vocab_size": 37,
  "d_model": 20,
  "num_layers": 2,
  "num_heads": 3,
  "d_kv": 5,
  "d_ff": 28,
  "relative_attention_num_buckets": 8,
}


def arrays(config: dict, kind: str) -> dict[str, np.ndarray]:
  """Random weights of an encoder."""
  width, inner = config["d_model"], config["num_heads"] * config["d_kv"]
  shapes = {"shared.weight": (config["vocab_size"], width)}
  shapes["encoder.final_layer_norm.weight"] = (width,)
  for i in range(config["num_layers"]):
    attention = f"encoder.block.{i}.layer.0"
    mlp = f"encoder.block.{i}.layer.1"
    for name in "qkv":
      shapes[f"{attention}.SelfAttention.{name}.weight"] = (inner, width)
    shapes[f"{attention}.SelfAttention.o.weight"] = (width, inner)
    shapes[f"{attention}.layer_norm.weight"] = shapes[f"{mlp}.layer_norm.weight"] = (
      width,
    )
    for name in ("wi_0", "wi_1"):
      shapes[f"{mlp}.DenseReluDense.{name}.weight"] = (config["d_ff"], width)
    shapes[f"{mlp}.DenseReluDense.wo.weight"] = (width, config["d_ff"])
    if kind == "umt5" or not i:
      bias = f"{attention}.SelfAttention.relative_attention_bias.weight"
      shapes[bias] = (config["relative_attention_num_buckets"], config["num_heads"])
  rng = np.random.default_rng(0)
  return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def write_tokenizer(folder: pathlib.Path) -> None:
  """Writes a tokenizer of one word, `clip`, beside an encoder."""
  pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0], ["▁clip", -1.0]]
  spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
  model = {"type": "Unigram", "unk_id": 2, "vocab": pieces}
  tokenizer = {"pre_tokenizer": spaces, "model": model}
  (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def write(folder: pathlib.Path, config: dict | None, kind: str, **changes) -> None:
  """Writes a folder of an encoder; `changes` replace tensors, None leaves one out."""
  tensors = {**arrays(config or CONFIG, kind), **changes}
  outgoing = {
    n: Outgoing(a.shape, a.dtype, lambda a=a: a)
    for n, a in tensors.items()
    if a is not None
  }
  safetensors_file.write_safetensors(folder, outgoing, config)


def leaves(loaded: interop.Loaded) -> list[np.ndarray]:
  """The parameters of an encoder, float32."""
  return [np.asarray(x, np.float32) for x in jax.tree.leaves(loaded.params)]
