"""T5 v1.1 and UMT5 encoders, under the names of transformers and of Wan's own files.

Sizes come from `config.json` where it is of such an encoder, else from the tensors'
shapes. Whole encoder-decoder checkpoints, as google publishes them, yield their encoder;
the decoder's tensors are ignored.

Source: the public checkpoints and code of transformers, google/t5-v1_1-* and Wan-AI (all
Apache-2.0).
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
from video_dit.models.text.t5 import T5Config, T5Encoder

LICENCE = "Apache-2.0"
KINDS = ("t5", "umt5")
CLASSES = ("T5EncoderModel", "UMT5EncoderModel")

_PROBES = {
  "transformers": re.compile(
    r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.q\.weight"
  ),
  "native": re.compile(r"blocks\.(\d+)\.pos_embedding\.embedding\.weight"),
}
# Ours to theirs, inside a block.
_MATRICES = {
  "transformers": {
    "q": "layer.0.SelfAttention.q",
    "k": "layer.0.SelfAttention.k",
    "v": "layer.0.SelfAttention.v",
    "out": "layer.0.SelfAttention.o",
    "gate": "layer.1.DenseReluDense.wi_0",
    "up": "layer.1.DenseReluDense.wi_1",
    "down": "layer.1.DenseReluDense.wo",
  },
  "native": {
    "q": "attn.q",
    "k": "attn.k",
    "v": "attn.v",
    "out": "attn.o",
    "gate": "ffn.gate.0",
    "up": "ffn.fc1",
    "down": "ffn.fc2",
  },
}
_NORMS = {
  "transformers": {
    "attention_norm": "layer.0.layer_norm",
    "mlp_norm": "layer.1.layer_norm",
  },
  "native": {"attention_norm": "norm1", "mlp_norm": "norm2"},
}
_BLOCK = {"transformers": "encoder.block.{i}.", "native": "blocks.{i}."}
_BIAS = {
  "transformers": "layer.0.SelfAttention.relative_attention_bias.weight",
  "native": "pos_embedding.embedding.weight",
}
_ENDS = {
  "transformers": ("shared.weight", "encoder.final_layer_norm.weight"),
  "native": ("token_embedding.weight", "norm.weight"),
}
_TIED = "encoder.embed_tokens.weight"  # the same table under its other name
# What a whole checkpoint has beside the encoder.
IGNORED = (r"decoder\..*", r"lm_head\..*", re.escape(_TIED), r"shared\.weight")


def matches(config: Mapping[str, Any] | None, tensors: Tensors) -> bool:
  """Whether the tensors are an encoder's of this family, whatever its sizes."""
  return any(_depth(tensors, naming) for naming in _PROBES)


def kind(config: Mapping[str, Any] | None, tensors: Tensors) -> str:
  """`t5` or `umt5`, by the config, or by whether there is one position table or many."""
  said = (config or {}).get("model_type")
  if said in KINDS:
    return said
  naming = _naming(tensors)
  second = _BLOCK[naming].replace("{i}", "1") + _BIAS[naming]
  return "umt5" if second in tensors.extents or naming == "native" else "t5"


def own_config(config: Mapping[str, Any] | None) -> dict[str, Any]:
  """What a `config.json` says of an encoder of this family, whatever it calls it.

  Nothing where it is of something else: in Wan's own folders it is the transformer's.
  """
  config = config or {}
  whole = all(key in config for key in ("d_model", "d_kv", "d_ff"))
  return dict(config) if whole or config.get("model_type") in KINDS else {}


def own(tensors: Tensors) -> list[str]:
  """Names of the encoder's own tensors, sorted."""
  embedding = _ENDS[_naming(tensors)][0]
  table = {embedding if embedding in tensors.extents else _TIED}
  left = re.compile("|".join(IGNORED))
  return sorted(table | {name for name in tensors.extents if not left.fullmatch(name)})


def sizes(config: Mapping[str, Any] | None, tensors: Tensors) -> T5Config:
  """Sizes of the encoder, by the headers of its files.

  Raises:
    ValueError: they are not known, or tensors do not fit them.
  """
  found = _sizes(kind(config, tensors), own_config(config), tensors, _naming(tensors))
  names.compare(_shadow(found), tensors, _rules(found, tensors), ignored=IGNORED)
  return found


def _shadow(sizes: T5Config) -> T5Encoder:
  return nnx.eval_shape(lambda: T5Encoder(sizes, rngs=nnx.Rngs(0)))


def _rules(sizes: T5Config, tensors: Tensors) -> tuple[Rule, ...]:
  """As `table`, by the name that the embedding has in these files."""
  naming = _naming(tensors)
  rules = table(sizes, naming)
  if naming == "transformers" and "shared.weight" not in tensors.names:
    rules = (Rule("embedding", _TIED), *rules[1:])
  return rules


def read(
  config: Mapping[str, Any] | None,
  tensors: Tensors,
  *,
  dtype: jax.typing.DTypeLike | None,
  mesh: jax.sharding.Mesh | None,
) -> Loaded:
  """Reads the encoder; see `registry.load`."""
  naming = _naming(tensors)
  published = own_config(config)
  its_kind = kind(config, tensors)
  sizes = _sizes(its_kind, published, tensors, naming)
  rules = _rules(sizes, tensors)
  graphdef, state = nnx.split(_shadow(sizes))
  params = names.load_into(state, tensors, rules, dtype=dtype, mesh=mesh, ignored=IGNORED)
  used = sum(rule.layers or 1 for rule in rules)
  return Loaded(
    kind=its_kind,
    model=nnx.merge(graphdef, params),
    config=sizes,
    naming=naming,
    licence=LICENCE,
    files=tensors.files,
    dtypes=names.held(tensors, rules),
    tensors=used,
    ignored=len(tensors.names) - used,
    published=published,
  )


def write(
  loaded: Loaded, folder: pathlib.Path, *, dtype: np.dtype | None, naming: str
) -> list[pathlib.Path]:
  """Writes the encoder as safetensors, with a `config.json` under transformers' names.

  Raises:
    ValueError: there is no such naming, or the sizes would not be read back.
  """
  names.check_naming(naming, loaded.kind, _BLOCK)
  outgoing = names.save_from(loaded.params, table(loaded.config, naming), dtype=dtype)
  config = None
  if naming == "native":
    names.check_carried(loaded.config, _told, outgoing, "transformers")
  else:
    stored = outgoing["shared.weight"].dtype
    config = _describe(loaded.kind, loaded.config, loaded.published, stored)
  return safetensors_file.write_safetensors(folder, outgoing, config)


def table(config: T5Config, naming: str) -> tuple[Rule, ...]:
  """Ours to theirs; the embedding first."""
  block, bias = _BLOCK[naming], _BIAS[naming]
  embedding, norm = _ENDS[naming]
  depth = config.depth
  rules = [Rule("embedding", embedding), Rule("norm/scale", norm)]
  if config.shared_bias:
    rules.append(Rule("position_bias", block.replace("{i}", "0") + bias))
  else:
    rules.append(Rule("blocks/position_bias", block + bias, layers=depth))
  for ours, theirs in _NORMS[naming].items():
    rules.append(Rule(f"blocks/{ours}/scale", f"{block}{theirs}.weight", layers=depth))
  for ours, theirs in _MATRICES[naming].items():
    name = f"{block}{theirs}.weight"
    rules.append(Rule(f"blocks/{ours}/kernel", name, "o i -> i o", layers=depth))
  return tuple(rules)


def _depth(tensors: Tensors, naming: str) -> int:
  """Number of blocks that there are under a naming."""
  found = (_PROBES[naming].fullmatch(name) for name in tensors.extents)
  return 1 + max((int(m[1]) for m in found if m), default=-1)


def _naming(tensors: Tensors) -> str:
  return "transformers" if _depth(tensors, "transformers") else "native"


def _told(tensors: Tensors) -> T5Config:
  """Sizes of a file of Wan's own, which has no config."""
  return _sizes(kind(None, tensors), {}, tensors, "native")


def _sizes(
  kind: str, published: Mapping[str, Any], tensors: Tensors, naming: str
) -> T5Config:
  """Sizes by the config, what it leaves out by the shapes."""
  where = tensors.folder / "config.json"
  for key, allowed in (
    ("feed_forward_proj", ("gated-gelu",)),
    ("dense_act_fn", ("gelu_new",)),
  ):
    if published.get(key) not in (None, *allowed):
      raise ValueError(
        f"{where}: {key}={published[key]!r}, but T5 v1.1 and UMT5 have {allowed[0]!r}."
        " Other encoders, like the original T5, are not supported."
      )
  found = _sizes_of_shapes(tensors, naming)
  sizes: dict[str, Any] = {}
  for ours, theirs in _KEYS.items():
    value = published.get(theirs)
    value = found.get(ours) if value is None else value
    if value is None:
      raise ValueError(
        f"{tensors.path}: neither config.json nor the tensors determine {theirs}. Provide"
        " the whole checkpoint."
      )
    check = settings.positive if ours == "epsilon" else settings.whole
    sizes[ours] = check(where, theirs, value)
  return T5Config(**sizes, shared_bias=kind == "t5")


_KEYS = {
  "vocabulary": "vocab_size",
  "width": "d_model",
  "depth": "num_layers",
  "heads": "num_heads",
  "head_size": "d_kv",
  "mlp_width": "d_ff",
  "buckets": "relative_attention_num_buckets",
  "max_distance": "relative_attention_max_distance",
  "epsilon": "layer_norm_epsilon",
}


def _sizes_of_shapes(tensors: Tensors, naming: str) -> dict[str, Any]:
  """Sizes that shapes tell, of those tensors that are there."""
  block = _BLOCK[naming].replace("{i}", "0")
  matrices = _MATRICES[naming]
  present = {n: i.shape for n, i in tensors.names.items() if len(i.shape) == 2}
  sizes: dict[str, Any] = {"max_distance": 128, "epsilon": 1e-6}
  sizes["depth"] = _depth(tensors, naming)
  for name in (_TIED, _ENDS[naming][0]):
    if name in present:
      sizes["vocabulary"], sizes["width"] = present[name]
  if block + _BIAS[naming] in present:
    sizes["buckets"], sizes["heads"] = present[block + _BIAS[naming]]
  query = f"{block}{matrices['q']}.weight"
  if "heads" in sizes and query in present:
    sizes["head_size"] = present[query][0] // sizes["heads"]
  if f"{block}{matrices['gate']}.weight" in present:
    sizes["mlp_width"] = present[f"{block}{matrices['gate']}.weight"][0]
  return sizes


def _describe(
  kind: str, sizes: T5Config, published: Mapping[str, Any], dtype: np.dtype
) -> dict[str, Any]:
  """A `config.json` of the encoder alone."""
  encoder = "T5EncoderModel" if kind == "t5" else "UMT5EncoderModel"
  defaults = {
    "feed_forward_proj": "gated-gelu",
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
    "is_encoder_decoder": False,
    "use_cache": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
  }
  made = {theirs: getattr(sizes, ours) for ours, theirs in _KEYS.items()}
  return {
    **defaults,
    **published,
    **made,
    "architectures": [encoder],
    "model_type": kind,
    "tie_word_embeddings": True,  # one table, `shared.weight`, is what is written
    "dtype": str(dtype),
  }
