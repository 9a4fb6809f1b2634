"""This project's own transformer, `dit.architecture=adaln`, as safetensors.

The `config.json` holds what the function is made of: sizes and positions of the config's
section `dit`, and the process and prediction of its section `diffusion`. Tensors have the
names of the parameters, those of a stack one for each layer: `blocks.{i}.qkv.kernel`.
"""

from collections.abc import Mapping
import dataclasses
import math
import pathlib
import typing
from typing import Any

from flax import nnx
import jax
import numpy as np

from video_dit import config as config_lib
from video_dit.interop import names, safetensors_file
from video_dit.interop.loaded import Loaded
from video_dit.interop.tensors import Tensors
from video_dit.models.dit.model import DiT

KINDS = ("adaln_dit",)
CLASSES = ("VideoDiT",)
NAMING = "native"
_STEM = "model"
_DIT = (
  *("width", "depth", "heads", "mlp_ratio", "patch", "rope_fractions", "rope_theta"),
  *("rope_side", "rope_seconds", "frequencies", "norm_epsilon"),
)
_DIFFUSION = ("process", "schedule", "prediction")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnConfig:
  """What a transformer of this project is.

  Attributes:
    dit: sizes and positions, as in the config's section.
    diffusion: `process`, `schedule` and `prediction` that it was trained with.
    channels: of the latents.
    text_width: of the captions' encodings.
  """

  dit: Mapping[str, Any]
  diffusion: Mapping[str, Any]
  channels: int
  text_width: int

  def section(self, base: config_lib.DiT) -> config_lib.DiT:
    """The config's section of this function; how it is computed is `base`'s."""
    return dataclasses.replace(base, architecture="adaln", **self.dit)

  def described(self) -> dict[str, Any]:
    """The content of `config.json`."""
    return {
      "_class_name": CLASSES[0],
      "channels": self.channels,
      "text_width": self.text_width,
      "dit": dict(self.dit),
      "diffusion": dict(self.diffusion),
    }


def of_config(config: config_lib.Config, patch_dim: int, text_width: int) -> OwnConfig:
  """What a run trains."""
  return OwnConfig(
    dit={key: getattr(config.dit, key) for key in _DIT},
    diffusion={key: getattr(config.diffusion, key) for key in _DIFFUSION},
    channels=patch_dim // math.prod(config.dit.patch),
    text_width=text_width,
  )


def matches(config: Mapping[str, Any] | None, tensors: Tensors) -> bool:
  """Whether `config.json` says that it is one."""
  del tensors
  return config is not None and config.get("_class_name") in CLASSES


def read(
  config: Mapping[str, Any] | None,
  tensors: Tensors,
  *,
  dtype: jax.typing.DTypeLike | None,
  mesh: jax.sharding.Mesh | None,
) -> Loaded:
  """Reads the transformer; see `registry.load`."""
  sizes = sizes_of(config, tensors)
  graph, state = nnx.split(abstract(sizes))
  rules = _table(state, sizes.dit["depth"])
  params = names.load_into(state, tensors, rules, dtype=dtype, mesh=mesh)
  return Loaded(
    kind=KINDS[0],
    model=nnx.merge(graph, params),
    config=sizes,
    naming=NAMING,
    licence=None,
    files=tensors.files,
    dtypes=names.held(tensors, rules),
    tensors=len(tensors.names),
    published=dict(config or {}),
  )


def write(
  loaded: Loaded, folder: pathlib.Path, *, dtype: np.dtype | None, naming: str
) -> list[pathlib.Path]:
  """Writes safetensors and a `config.json`.

  Raises:
    ValueError: there is no such naming.
  """
  names.check_naming(naming, loaded.kind, (NAMING,))
  sizes: OwnConfig = loaded.config
  _, state = nnx.split(abstract(sizes))
  outgoing = names.save_from(
    loaded.params, _table(state, sizes.dit["depth"]), dtype=dtype
  )
  return safetensors_file.write_safetensors(
    folder, outgoing, sizes.described(), stem=_STEM
  )


def abstract(sizes: OwnConfig) -> DiT:
  """The model without its weights."""
  dit = sizes.section(config_lib.DiT())
  patch_dim = sizes.channels * math.prod(dit.patch)
  return nnx.eval_shape(lambda: DiT(dit, patch_dim, sizes.text_width, rngs=nnx.Rngs(0)))


def num_tensors(params: Mapping[str, Any], sizes: OwnConfig) -> int:
  """Number of the tensors that parameters are in files."""
  _, state = nnx.split(abstract(sizes))
  return len(names.save_from(params, _table(state, sizes.dit["depth"])))


def sizes_of(config: Mapping[str, Any] | None, tensors: Tensors) -> OwnConfig:
  """What `config.json` says; no tensor is read.

  Raises:
    ValueError: a key is missing or unknown, or a value breaks a rule of the config.
  """
  path, said = tensors.folder / "config.json", config or {}
  remedy = "Write the folder again with video_dit.convert."
  sections = {
    "dit": (config_lib.DiT, _DIT),
    "diffusion": (config_lib.Diffusion, _DIFFUSION),
  }
  found: dict[str, Any] = {}
  for section, (kind, keys) in sections.items():
    values = said.get(section)
    if not isinstance(values, dict) or set(values) != set(keys):
      raise ValueError(f"{path}: {section!r} must hold {', '.join(keys)}. {remedy}")
    try:
      found[section] = config_lib.parse_section(kind, values, section)
    except ValueError as error:
      raise ValueError(f"{path}: {error} {remedy}") from error
  dit = found["dit"]
  whole = {key: getattr(dit, key) for key in ("width", "depth", "heads")}
  whole |= {key: said.get(key) for key in ("channels", "text_width")}
  whole |= {f"patch[{i}]": side for i, side in enumerate(dit.patch)}
  for key, value in whole.items():
    if type(value) is not int or value < 1:
      raise ValueError(
        f"{path}: {key}={value!r} must be a whole number above 0. {remedy}"
      )
  if dit.width % (2 * dit.heads):
    raise ValueError(
      f"{path}: {dit.heads} heads do not divide a width of {dit.width} into even parts."
      f" {remedy}"
    )
  return OwnConfig(
    dit={key: getattr(dit, key) for key in _DIT},
    diffusion={key: getattr(found["diffusion"], key) for key in _DIFFUSION},
    channels=said["channels"],
    text_width=said["text_width"],
  )


def _table(state: Any, depth: int) -> tuple[names.Rule, ...]:
  """A rule for each parameter; of a stack one for all layers."""
  rules = []
  for path, _ in nnx.to_flat_state(typing.cast(nnx.State, state)):
    ours = "/".join(map(str, path))
    theirs = ours.replace("/", ".")
    if path[0] == "blocks":
      theirs = theirs.replace("blocks.", "blocks.{i}.", 1)
      rules.append(names.Rule(ours, theirs, layers=depth))
    else:
      rules.append(names.Rule(ours, theirs))
  return tuple(rules)
