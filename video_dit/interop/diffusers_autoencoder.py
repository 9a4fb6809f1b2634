"""Autoencoders of diffusers whose blocks are latent diffusion's, read and written.

Their names differ little, so a `Format` says what differs: each parameter of the
model is respelled by a short list of patterns. The sizes are those of `config.json`.

Source: the public code of diffusers (Apache-2.0).
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import pathlib
import re
from typing import Any

from flax import nnx
import jax
import numpy as np

from video_dit.interop import names, safetensors_file
from video_dit.interop.loaded import Loaded
from video_dit.interop.names import Rule
from video_dit.interop.tensors import Tensors
from video_dit.models.autoencoder import published

NAMING = "diffusers"
Spelling = tuple[tuple[str, str], ...]  # pattern of ours, and what stands for it

# Of all of them, asked before a format's own.
_SHARED: Spelling = (
  (r"^encoder/levels/", "encoder/down_blocks/"),
  (r"^decoder/levels/", "decoder/up_blocks/"),
  (r"/middle/", "/mid_block/"),
  (r"/blocks/", "/resnets/"),
  (r"/shortcut$", "/conv_shortcut"),
  (r"/attention/norm$", "/attentions/0/group_norm"),
  (r"/attention/out$", "/attentions/0/to_out/0"),
  (r"/attention/", "/attentions/0/to_"),
  (r"^(post_)?quant$", r"\1quant_conv"),
)
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
# From theirs to ours, by the axes that a kernel has with each.
_PATTERNS = {
  (5, 5): "o i d h w -> d h w i o",
  (4, 5): "o i h w -> 1 h w i o",
  (5, 2): "o i 1 1 1 -> i o",
  (4, 2): "o i 1 1 -> i o",
  (2, 2): "o i -> i o",
}


@dataclasses.dataclass(frozen=True)
class Format:
  """What differs between these formats.

  Attributes:
    kind: of what is loaded.
    peer: `_class_name` in `config.json`.
    licence: of the published weights.
    config: class of the sizes.
    model: makes the model of sizes.
    levels: kind of the levels, by its key in `config.json`.
    spellings: patterns, by naming; the first naming is the peer's own today.
    axes: of a kernel of theirs: pattern of its name and number of axes, the first that
      fits counts.
    probe: name of a tensor that only this format has, where there is one.
  """

  kind: str
  peer: str
  licence: str
  config: type
  model: Callable[..., nnx.Module]
  levels: Mapping[str, str]
  spellings: Mapping[str, Spelling]
  axes: tuple[tuple[str, int], ...]
  probe: str | None = None


def matches(form: Format, config: Mapping[str, Any] | None, tensors: Tensors) -> bool:
  """Whether `config.json`, or a tensor of its own, says that it is of the format."""
  if config is not None and "_class_name" in config:
    return config["_class_name"] == form.peer
  return form.probe in tensors.extents


def read(
  form: Format,
  config: Mapping[str, Any] | None,
  tensors: Tensors,
  *,
  dtype: jax.typing.DTypeLike,
  mesh: jax.sharding.Mesh | None,
) -> Loaded:
  """Reads the autoencoder; see `registry.load`."""
  where = tensors.folder / "config.json"
  if config is None or config.get("_class_name") != form.peer:
    raise ValueError(
      f"{tensors.path}: the tensors are those of {form.peer}, but {where} does not say"
      " so, and it holds the sizes. Copy the matching config.json there."
    )
  sizes: Any = published.parse(form.config, config, str(where))
  model = published.abstract(lambda rngs: form.model(sizes, rngs=rngs))
  graph, state = nnx.split(model)
  naming = _naming(form, state, tensors)
  rules = table(form, state, naming)
  params = names.load_into(state, tensors, rules, dtype=dtype, mesh=mesh)
  return Loaded(
    kind=form.kind,
    model=nnx.merge(graph, params),
    config=sizes,
    naming=naming,
    licence=form.licence,
    files=tensors.files,
    dtypes=names.held(tensors, rules),
    tensors=len(rules),
    published=dict(config),
  )


def write(
  form: Format, loaded: Loaded, folder: pathlib.Path, *, dtype: np.dtype, naming: str
) -> list[pathlib.Path]:
  """Writes safetensors and the `config.json`."""
  if naming not in form.spellings:
    raise ValueError(
      f"{form.kind} can be written with the naming {', '.join(form.spellings)};"
      f" {naming!r} is not one of them."
    )
  rules = table(form, nnx.state(loaded.model), naming)
  outgoing = names.save_from(loaded.params, rules, dtype=dtype)
  said = describe(form, loaded.config, loaded.published)
  stem = "diffusion_pytorch_model"
  return safetensors_file.write_safetensors(folder, outgoing, said, stem=stem)


def describe(form: Format, sizes: Any, said: Mapping[str, Any]) -> dict[str, Any]:
  """The content of a `config.json`: what was said before, and all sizes."""
  described = dict(said) | {"_class_name": form.peer} | dataclasses.asdict(sizes)
  for key, level in form.levels.items():
    described[key] = [level] * len(sizes.block_out_channels)
  return described


def table(form: Format, state: nnx.State, naming: str) -> tuple[Rule, ...]:
  """Ours to theirs, for all parameters of a model of this format."""
  rules = []
  for path, variable in nnx.to_flat_state(state):
    *module, leaf = map(str, path)
    stem = _respell("/".join(module), (*_SHARED, *form.spellings[naming]))
    theirs = f"{stem.replace('/', '.')}.{_LEAVES[leaf]}"
    pattern = ""
    if leaf == "kernel":
      axes = next(count for name, count in form.axes if re.search(name, theirs))
      pattern = _PATTERNS[axes, len(variable.shape)]
    rules.append(Rule("/".join((*module, leaf)), theirs, pattern))
  return tuple(rules)


def _respell(name: str, spelling: Iterable[tuple[str, str]]) -> str:
  for pattern, new in spelling:
    name = re.sub(pattern, new, name)
  return name


def _naming(form: Format, state: nnx.State, tensors: Tensors) -> str:
  """The naming under which most of the model's tensors are there."""
  found = {
    naming: sum(
      str(rule.theirs) in tensors.extents for rule in table(form, state, naming)
    )
    for naming in form.spellings
  }
  return max(found, key=lambda naming: found[naming])
