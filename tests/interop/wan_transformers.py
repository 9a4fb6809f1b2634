"""Small transformers of Wan's with random weights, written as the peers write them."""

import pathlib
from typing import Any

import numpy as np

from video_dit.interop import safetensors_file
from video_dit.interop.safetensors_file import Outgoing

# Sizes that go into one another nowhere; a head of 14 has pairs to spare for time.
CONFIG = {
  "_class_name": "WanTransformer3DModel",
  "added_kv_proj_dim": None,
  "attention_head_dim": 14,
  "cross_attn_norm": True,
  "eps": 1e-6,
  "ffn_dim": 50,
  "freq_dim": 36,
  "image_dim": None,
  "in_channels": 5,
  "num_attention_heads": 3,
  "num_layers": 3,
  "out_channels": 5,
  "patch_size": [1, 2, 3],
  "qk_norm": "rms_norm_across_heads",
  "rope_max_seq_len": 1024,
  "text_dim": 11,
}
NATIVE = {
  "_class_name": "WanModel",
  **{"dim": 42, "eps": 1e-6, "ffn_dim": 50, "freq_dim": 36, "in_dim": 5},
  **{"model_type": "t2v", "num_heads": 3, "num_layers": 3, "out_dim": 5, "text_len": 9},
}


def arrays(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
  """Random weights under the names of diffusers, that keep activations near one."""
  width = config["attention_head_dim"] * config["num_attention_heads"]
  hidden, text = config["ffn_dim"], config["text_dim"]
  patch = config["patch_size"]
  condition = "condition_embedder"
  linear = {
    f"{condition}.time_embedder.linear_1": (width, config["freq_dim"]),
    f"{condition}.time_embedder.linear_2": (width, width),
    f"{condition}.time_proj": (6 * width, width),
    f"{condition}.text_embedder.linear_1": (width, text),
    f"{condition}.text_embedder.linear_2": (width, width),
    "patch_embedding": (width, config["in_channels"], *patch),
    "proj_out": (config["out_channels"] * int(np.prod(patch)), width),
  }
  other = {"scale_shift_table": (1, 2, width)}
  for i in range(config["num_layers"]):
    block = f"blocks.{i}"
    other[f"{block}.scale_shift_table"] = (1, 6, width)
    other |= {f"{block}.norm2.{end}": (width,) for end in ("weight", "bias")}
    for part in ("attn1", "attn2"):
      other |= {f"{block}.{part}.norm_{x}.weight": (width,) for x in "qk"}
      for name in ("to_q", "to_k", "to_v", "to_out.0"):
        linear[f"{block}.{part}.{name}"] = (width, width)
    linear[f"{block}.ffn.net.0.proj"] = (hidden, width)
    linear[f"{block}.ffn.net.2"] = (width, hidden)
  for name, shape in linear.items():
    other |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
  rng = np.random.default_rng(seed)

  def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.normal(size=shape)
    if name.endswith("weight") and len(shape) > 1:
      values /= np.sqrt(np.prod(shape[1:]))
    else:
      values = 0.2 * values + ("norm" in name and name.endswith("weight"))
    return values.astype(np.float32)

  return {name: draw(name, shape) for name, shape in other.items()}


def write(
  folder: pathlib.Path,
  config: dict[str, Any] | None = None,
  said: dict[str, Any] | None = None,
  *,
  shard_bytes: int = 10**9,
  seed: int = 0,
  **changes: np.ndarray | None,
) -> dict[str, np.ndarray]:
  """Writes a folder of a transformer and returns its tensors.

  Args:
    folder: made where it is missing.
    config: sizes; `CONFIG` where not given.
    said: content of `config.json` where it is not the sizes.
    shard_bytes: most bytes in a file.
    seed: of the weights.
    **changes: replace tensors; None leaves one out.
  """
  tensors = arrays(config or CONFIG, seed) | changes
  kept = {name: array for name, array in tensors.items() if array is not None}
  outgoing = {n: Outgoing(a.shape, a.dtype, lambda a=a: a) for n, a in kept.items()}
  safetensors_file.write_safetensors(
    folder,
    outgoing,
    said or config or CONFIG,
    stem="diffusion_pytorch_model",
    shard_bytes=shard_bytes,
  )
  return kept
