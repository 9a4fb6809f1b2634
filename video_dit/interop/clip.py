"""CLIP's text encoder, under the names of transformers.

A whole CLIP, as openai published it, yields its text encoder; the image encoder's
tensors and the projections are ignored.

Source: the public checkpoints and code of transformers (Apache-2.0); the weights of
openai/clip-vit-* are under the MIT licence of openai/CLIP.
"""

from collections.abc import Mapping
import pathlib
import re
from typing import Any

from flax import nnx
import jax
import numpy as np

from video_dit.interop import names, safetensors_file, settings
from video_dit.interop.loaded import Loaded
from video_dit.interop.names import Rule
from video_dit.interop.tensors import Tensors
from video_dit.models.text.clip import ClipConfig, ClipEncoder

LICENCE = "MIT"
KINDS = ("clip_text",)
CLASSES = ("CLIPTextModel",)

_PROBE = "encoder.layers.0.self_attn.q_proj.weight"
_PREFIXES = ("text_model.", "")
# What a whole CLIP, or one with a projection, has beside the text encoder.
IGNORED = (
  *(r"vision_model\..*", r"visual_projection\..*", r"text_projection\..*"),
  *("logit_scale", r"(text_model\.)?embeddings\.position_ids"),
)
_KEYS = {
  "vocabulary": "vocab_size",
  "positions": "max_position_embeddings",
  "width": "hidden_size",
  "depth": "num_hidden_layers",
  "heads": "num_attention_heads",
  "mlp_width": "intermediate_size",
  "activation": "hidden_act",
  "epsilon": "layer_norm_eps",
}
# What transformers takes where a config.json does not say.
_DEFAULTS = {"width": 512, "heads": 8, "mlp_width": 2048}
_LINEARS = {
  "q": "self_attn.q_proj",
  "k": "self_attn.k_proj",
  "v": "self_attn.v_proj",
  "out": "self_attn.out_proj",
  "up": "mlp.fc1",
  "down": "mlp.fc2",
}
_NORMS = {"attention_norm": "layer_norm1", "mlp_norm": "layer_norm2"}


def matches(config: Mapping[str, Any] | None, tensors: Tensors) -> bool:
  """Whether there is a text encoder of CLIP's, alone or beside the image encoder."""
  said = (config or {}).get("model_type", "clip_text_model")
  return said in ("clip", "clip_text_model") and _prefix(tensors) is not None


def kind(config: Mapping[str, Any] | None, tensors: Tensors) -> str:
  """`clip_text`, whatever the sizes."""
  return KINDS[0]


def own_config(config: Mapping[str, Any] | None) -> dict[str, Any]:
  """What a `config.json` says of the text encoder, in a whole CLIP or alone."""
  config = config or {}
  inner = config.get("text_config")
  return {**config, **(inner if isinstance(inner, Mapping) else {})}


def own(tensors: Tensors) -> list[str]:
  """Names of the text encoder's own tensors, sorted."""
  left = re.compile("|".join(IGNORED))
  return sorted(name for name in tensors.extents if not left.fullmatch(name))


def sizes(config: Mapping[str, Any] | None, tensors: Tensors) -> ClipConfig:
  """Sizes of the encoder, by the headers of its files.

  Raises:
    ValueError: they are not known, or tensors do not fit them.
  """
  prefix = _prefix(tensors) or ""
  found = _sizes(own_config(config), tensors, prefix)
  names.compare(_shadow(found), tensors, table(found, prefix), ignored=IGNORED)
  return found


def _shadow(sizes: ClipConfig) -> ClipEncoder:
  return nnx.eval_shape(lambda: ClipEncoder(sizes, rngs=nnx.Rngs(0)))


def read(
  config: Mapping[str, Any] | None,
  tensors: Tensors,
  *,
  dtype: jax.typing.DTypeLike | None,
  mesh: jax.sharding.Mesh | None,
) -> Loaded:
  """Reads the encoder; see `registry.load`."""
  prefix = _prefix(tensors) or ""
  published = own_config(config)
  sizes = _sizes(published, tensors, prefix)
  rules = table(sizes, prefix)
  graphdef, state = nnx.split(_shadow(sizes))
  params = names.load_into(state, tensors, rules, dtype=dtype, mesh=mesh, ignored=IGNORED)
  used = sum(rule.layers or 1 for rule in rules)
  return Loaded(
    kind="clip_text",
    model=nnx.merge(graphdef, params),
    config=sizes,
    naming="transformers",
    licence=LICENCE,
    files=tensors.files,
    dtypes=names.held(tensors, rules),
    tensors=used,
    ignored=len(tensors.names) - used,
    published={k: v for k, v in published.items() if not _nested(v)},
  )


def write(
  loaded: Loaded, folder: pathlib.Path, *, dtype: np.dtype | None, naming: str
) -> list[pathlib.Path]:
  """Writes the encoder as safetensors with its `config.json`.

  Raises:
    ValueError: there is no such naming.
  """
  names.check_naming(naming, loaded.kind, ["transformers"])
  outgoing = names.save_from(
    loaded.params, table(loaded.config, _PREFIXES[0]), dtype=dtype
  )
  made = {theirs: getattr(loaded.config, ours) for ours, theirs in _KEYS.items()}
  stored = str(next(iter(outgoing.values())).dtype)
  said = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
  config = {**loaded.published, **made, **said, "dtype": stored}
  return safetensors_file.write_safetensors(folder, outgoing, config)


def table(config: ClipConfig, prefix: str) -> tuple[Rule, ...]:
  """Ours to theirs; the embedding first."""
  block, depth = prefix + "encoder.layers.{i}.", config.depth
  rules = [
    Rule("embedding", f"{prefix}embeddings.token_embedding.weight"),
    Rule("positions", f"{prefix}embeddings.position_embedding.weight"),
    Rule("norm/scale", f"{prefix}final_layer_norm.weight"),
    Rule("norm/bias", f"{prefix}final_layer_norm.bias"),
  ]
  for ours, theirs in _NORMS.items():
    for leaf, name in (("scale", "weight"), ("bias", "bias")):
      rules.append(Rule(f"blocks/{ours}/{leaf}", f"{block}{theirs}.{name}", layers=depth))
  for ours, theirs in _LINEARS.items():
    kernel, bias = (f"blocks/{ours}/{leaf}" for leaf in ("kernel", "bias"))
    rules.append(Rule(kernel, f"{block}{theirs}.weight", "o i -> i o", layers=depth))
    rules.append(Rule(bias, f"{block}{theirs}.bias", layers=depth))
  return tuple(rules)


def _prefix(tensors: Tensors) -> str | None:
  """What stands before the names of the text encoder's tensors; None without one."""
  embedding = "embeddings.token_embedding.weight"
  found = (p for p in _PREFIXES if {p + embedding, p + _PROBE} <= tensors.extents.keys())
  return next(found, None)


def _nested(value: Any) -> bool:
  return isinstance(value, Mapping)


def _sizes(said: Mapping[str, Any], tensors: Tensors, prefix: str) -> ClipConfig:
  """Sizes by the config, or all by the shapes where there is none."""
  where = tensors.folder / "config.json"
  shapes = {n: i.shape for n, i in tensors.names.items()}
  if said:
    found = {ours: said[theirs] for ours, theirs in _KEYS.items() if theirs in said}
    sizes = {**_DEFAULTS, **found}
  else:
    layer = re.compile(re.escape(prefix) + r"encoder\.layers\.(\d+)\..*")
    layers = (layer.fullmatch(name) for name in shapes)
    vocabulary, width = shapes[f"{prefix}embeddings.token_embedding.weight"]
    positions = shapes.get(f"{prefix}embeddings.position_embedding.weight", (77,))
    mlp = shapes.get(f"{prefix}encoder.layers.0.mlp.fc1.weight", (4 * width,))
    sizes = {"vocabulary": vocabulary, "width": width, "positions": positions[0]}
    sizes["depth"] = 1 + max(int(m[1]) for m in layers if m)
    sizes["mlp_width"] = mlp[0]
    sizes["heads"] = max(1, width // 64)  # as all that are published have it
  for name, value in sizes.items():
    if name != "activation":
      check = settings.positive if name == "epsilon" else settings.whole
      check(where, _KEYS[name], value)
  config = ClipConfig(**sizes)
  if config.activation not in ("quick_gelu", "gelu"):
    raise ValueError(
      f"{where}: hidden_act={config.activation!r}; only 'quick_gelu' and 'gelu'"
      " are supported."
    )
  if config.width % config.heads:
    raise ValueError(
      f"{where}: num_attention_heads={config.heads} does not divide"
      f" hidden_size={config.width}. Provide the config.json that belongs to the weights."
    )
  return config
