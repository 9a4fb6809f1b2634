"""Wan 2.1's transformers, under the names of diffusers and of Wan's own files.

Sizes come from the tensors' shapes. How many heads there are, and the norms' epsilon,
only a `config.json` can tell, whether or not it names its class; without one heads are
128 wide, as in all that Wan-AI published, and a width that is no multiple of it is
refused. Only text-to-video models are read; those that take an image beside the text, or
other latents beside the noise, and those of another class, are refused by name.

Source: the public checkpoints and code of Wan-AI (Apache-2.0) and diffusers (Apache-2.0).
"""

from collections.abc import Mapping
import math
import pathlib
import re
from typing import Any

from absl import logging
from flax import nnx
import jax
import numpy as np

from video_dit import config as config_lib
from video_dit.interop import names, safetensors_file
from video_dit.interop.loaded import Loaded
from video_dit.interop.settings import positive, whole
from video_dit.interop.tensors import Tensors
from video_dit.interop.wan_dit_names import PROBES, table
from video_dit.models.dit.wan import Wan
from video_dit.models.dit.wan_config import TEXT_LENGTH, WanConfig

LICENCE = "Apache-2.0"
KINDS = ("wan_dit",)

_CLASSES = {"diffusers": "WanTransformer3DModel", "native": "WanModel"}
CLASSES = tuple(_CLASSES.values())
_HEAD = 128
_HEADS = ("num_heads", "num_attention_heads")  # of Wan's config.json, and of diffusers'
_STEM = "diffusion_pytorch_model"


def matches(config: Mapping[str, Any] | None, tensors: Tensors) -> bool:
  """Whether this is a transformer of Wan's kind, whatever its sizes."""
  said = config is not None and config.get("_class_name") in _CLASSES.values()
  return said or any(_named(tensors, naming) for naming in PROBES)


def read(
  config: Mapping[str, Any] | None,
  tensors: Tensors,
  *,
  dtype: jax.typing.DTypeLike | None,
  mesh: jax.sharding.Mesh | None,
) -> Loaded:
  """Reads the transformer; see `registry.load`."""
  naming, said, sizes = sizes_of(config, tensors)
  if not tensors.abstract and not any(key in said for key in _HEADS):
    logging.warning(
      "%s: no config.json says how many heads there are: %d are assumed, each %d wide as"
      " in all that Wan-AI published.",
      *(tensors.path, sizes.heads, _HEAD),
    )
  graph, state = nnx.split(abstract(sizes))
  rules = table(sizes.depth, sizes.heads, sizes.patch, naming)
  params = names.load_into(
    state, tensors, rules, dtype=dtype, mesh=mesh, ignored=(r"rope\..*", "freqs")
  )
  used = num_tensors(params, sizes, naming)
  return Loaded(
    kind=KINDS[0],
    model=nnx.merge(graph, params),
    config=sizes,
    naming=naming,
    licence=LICENCE,
    files=tensors.files,
    dtypes=names.held(tensors, rules),
    tensors=used,
    ignored=len(tensors.names) - used,
    published=said,
  )


def abstract(sizes: WanConfig) -> Wan:
  """The model without its weights."""
  section = sizes.section(config_lib.DiT())
  return nnx.eval_shape(
    lambda: Wan(section, sizes.patch_dim, sizes.text_width, rngs=nnx.Rngs(0))
  )


def num_tensors(params: Mapping[str, Any], sizes: WanConfig, naming: str) -> int:
  """Number of the tensors that parameters are under a naming."""
  rules = table(sizes.depth, sizes.heads, sizes.patch, naming)
  return len(names.save_from(params, rules))


def write(
  loaded: Loaded, folder: pathlib.Path, *, dtype: np.dtype | None, naming: str
) -> list[pathlib.Path]:
  """Writes safetensors and a `config.json`, under the names of diffusers or of Wan.

  Raises:
    ValueError: there is no such naming, or its `config.json` cannot say `text_length`.
  """
  names.check_naming(naming, loaded.kind, _CLASSES)
  sizes: WanConfig = loaded.config
  if naming == "diffusers" and sizes.text_length != TEXT_LENGTH:
    raise ValueError(
      f"text_length={sizes.text_length}: diffusers' config.json has no key for it, and"
      f" {TEXT_LENGTH} would be read back. Choose --naming=native."
    )
  rules = table(sizes.depth, sizes.heads, sizes.patch, naming)
  outgoing = names.save_from(loaded.params, rules, dtype=dtype)
  said = loaded.published if naming == loaded.naming else {}
  described = {**said, **_describe(sizes, naming)}
  return safetensors_file.write_safetensors(folder, outgoing, described, stem=_STEM)


def sizes_of(
  config: Mapping[str, Any] | None, tensors: Tensors
) -> tuple[str, dict[str, Any], WanConfig]:
  """Whose names the tensors have, what its config says, and the sizes; none is read.

  Raises:
    ValueError: the sizes cannot be determined, contradict the config, or are of a
      transformer that is not supported.
  """
  found = [naming for naming in PROBES if _named(tensors, naming)]
  if not found and "patch_embedding.weight" in tensors.extents:
    raise ValueError(
      f"{tensors.path}: has no blocks, of which a transformer needs one or more. Copy the"
      " whole checkpoint."
    )
  if not found:
    raise ValueError(
      f"{tensors.path}: config.json says {_CLASSES['diffusers']} or {_CLASSES['native']},"
      f" but the tensors have the names of neither (the first are"
      f" {', '.join(list(tensors.extents)[:3])}). Copy the folder again."
    )
  naming = found[0]
  said = dict(config or {})
  _refuse_others(said, tensors)
  sizes = _sizes_of_shapes(naming, said, tensors)
  _compare(said, sizes, naming, tensors)
  return naming, said, sizes


def _named(tensors: Tensors, naming: str) -> bool:
  return any(PROBES[naming].fullmatch(name) for name in tensors.extents)


_IMAGE = re.compile(
  r"img_emb\..*|.*\.(k_img|add_k_proj|norm_added_k)\..*|.*image_embedder.*"
)


def _refuse_others(said: Mapping[str, Any], tensors: Tensors) -> None:
  where = tensors.folder / "config.json"
  if said.get("_class_name", CLASSES[0]) not in CLASSES:
    raise ValueError(
      f"{where}: is of {said['_class_name']!r}, and its weights have the names of Wan's"
      f" text-to-video transformers ({', '.join(CLASSES)}). Others are not supported; if"
      " they are those, put the config.json that belongs to them there."
    )
  rules = {
    "qk_norm": (True, "rms_norm_across_heads"),
    "cross_attn_norm": (True,),
    "image_dim": (None,),
    "added_kv_proj_dim": (None,),
    "pos_embed_seq_len": (None,),
    "model_type": (None, "t2v", "ti2v"),
    "window_size": (None, [-1, -1], (-1, -1)),
  }
  for key, allowed in rules.items():
    if key in said and said[key] not in allowed:
      raise ValueError(
        f"{where}: {key}={said[key]!r}, but Wan's text-to-video transformers have"
        f" {allowed[-1]!r}. Others are not supported."
      )
  image = [name for name in tensors.extents if _IMAGE.fullmatch(name)]
  if image:
    raise ValueError(
      f"{tensors.path}: takes an image beside the text ({image[0]}). Wan's text-to-video"
      " transformers are supported, no others."
    )


def _sizes_of_shapes(naming: str, said: Mapping[str, Any], tensors: Tensors) -> WanConfig:
  shapes = {name: info.shape for name, info in tensors.names.items()}
  theirs = {rule.ours: str(rule.theirs) for rule in table(1, 1, (1, 1, 1), naming)}

  def shape(ours: str, rank: int) -> tuple[int, ...]:
    name = theirs[ours].replace("{i}", "0")
    if len(shapes.get(name, ())) != rank or 0 in shapes[name]:
      raise ValueError(
        f"{tensors.path}: {name} is missing, empty or does not have {rank} axes, so sizes"
        " cannot be determined. Copy the whole checkpoint."
      )
    return shapes[name]

  where = tensors.folder / "config.json"
  width, channels, *extent = shape("embed/kernel", 5)
  given = shape("head/kernel", 2)[0] / math.prod(extent)
  if given > channels:
    raise ValueError(
      f"{tensors.path}: takes {channels} channels and gives {given:g}: it predicts more"
      " than a velocity, which is not supported. Name a text-to-video transformer, which"
      " takes as many as it gives."
    )
  if given < channels:
    raise ValueError(
      f"{tensors.path}: takes {channels} channels and gives {given:g}: an image or a"
      " control lies beside the noise, which is not supported. Name a pure text-to-video"
      " transformer, which takes as many as it gives."
    )
  frequencies = shape("time1/kernel", 2)[1]
  if frequencies % 2:
    raise ValueError(
      f"{where}: freq_dim={frequencies}, by the tensor {theirs['time1/kernel']}, must be"
      " even: half are sines, half cosines. Other transformers are not supported."
    )
  matched = (PROBES[naming].fullmatch(name) for name in shapes)
  return WanConfig(
    width=width,
    depth=1 + max(int(match[1]) for match in matched if match),
    heads=_heads(where, said, width),
    mlp_width=shape("blocks/up/kernel", 2)[0],
    channels=channels,
    patch=(extent[0], extent[1], extent[2]),
    text_width=shape("text1/kernel", 2)[1],
    text_length=whole(where, "text_len", said.get("text_len", TEXT_LENGTH), least=0),
    frequencies=frequencies,
    epsilon=float(positive(where, "eps", said.get("eps", 1e-6))),
  )


def _heads(where: pathlib.Path, said: Mapping[str, Any], width: int) -> int:
  """How many heads there are: what the config says, else as many as are 128 wide."""
  key = next((key for key in _HEADS if key in said), None)
  if key is None:
    if width % _HEAD:
      raise ValueError(
        f"{where}: {f'has no {_HEADS[1]}' if said else 'is missing'}, and the number of"
        f" heads cannot be told from the tensors, which are {width} wide. Put the"
        " config.json that belongs to these weights there."
      )
    return width // _HEAD
  heads = whole(where, key, said[key])
  if width % heads or width // heads % 2:
    raise ValueError(
      f"{where}: {key}={heads}, but {heads} heads do not divide a width of {width} into"
      " even parts. Put the config.json that belongs to these weights there."
    )
  return heads


def _compare(
  said: Mapping[str, Any], sizes: WanConfig, naming: str, tensors: Tensors
) -> None:
  """Checks a config against the shapes beside it."""
  for key, value in _describe(sizes, naming).items():
    given = said.get(key, value)
    given = list(given) if isinstance(given, tuple) else given
    if given != value:
      raise ValueError(
        f"{tensors.folder / 'config.json'}: {key}={given!r}, but the tensors have"
        f" {value!r}. Put the config.json that belongs to these weights beside them."
      )


def _describe(sizes: WanConfig, naming: str) -> dict[str, Any]:
  """The content of a `config.json`, as the peers write it."""
  if naming == "native":
    return {
      "_class_name": _CLASSES[naming],
      "dim": sizes.width,
      "eps": sizes.epsilon,
      "ffn_dim": sizes.mlp_width,
      "freq_dim": sizes.frequencies,
      "in_dim": sizes.channels,
      "num_heads": sizes.heads,
      "num_layers": sizes.depth,
      "out_dim": sizes.channels,
      "patch_size": list(sizes.patch),
      "text_dim": sizes.text_width,
      "text_len": sizes.text_length,
    }
  return {
    "_class_name": _CLASSES[naming],
    "attention_head_dim": sizes.width // sizes.heads,
    "cross_attn_norm": True,
    "eps": sizes.epsilon,
    "ffn_dim": sizes.mlp_width,
    "freq_dim": sizes.frequencies,
    "in_channels": sizes.channels,
    "num_attention_heads": sizes.heads,
    "num_layers": sizes.depth,
    "out_channels": sizes.channels,
    "patch_size": list(sizes.patch),
    "qk_norm": "rms_norm_across_heads",
    "text_dim": sizes.text_width,
  }
