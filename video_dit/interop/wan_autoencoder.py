"""Wan's autoencoders, 2.1 and 2.2, under the names of diffusers and of Wan's own files.

A folder of diffusers holds its sizes and statistics in `config.json`. A file of Wan's
own holds tensors alone: the sizes follow from their shapes, and the statistics from the
number of latent channels.

Source: the public checkpoints and code of Wan-AI (Apache-2.0) and diffusers (Apache-2.0).
"""

from collections.abc import Mapping
import dataclasses
import math
import pathlib
import re
from typing import Any

from flax import nnx, traverse_util
import jax
import numpy as np

from video_dit.interop import names, safetensors_file
from video_dit.interop.loaded import Loaded
from video_dit.interop.tensors import Tensors
from video_dit.interop.wan_autoencoder_names import table
from video_dit.models.autoencoder import published
from video_dit.models.autoencoder.wan import Wan, WanConfig

LICENCE = "Apache-2.0"
KINDS = ("wan_autoencoder",)

_CLASS = "AutoencoderKLWan"
CLASSES = (_CLASS,)
# Two tensors by which a naming is recognised.
_PROBES = {
  "diffusers": ("encoder.mid_block.attentions.0.to_qkv.weight", "encoder.conv_in.weight"),
  "native": ("encoder.middle.1.to_qkv.weight", "encoder.conv1.weight"),
}
# Mean and deviation of each channel of Wan 2.2's latents, as published.
_STATISTICS_2_2 = (
  "-0.2289 -0.0052 -0.1323 -0.2339 -0.2799 0.0174 0.1838 0.1557 -0.1382 0.0542 0.2813"
  " 0.0891 0.1570 -0.0098 0.0375 -0.1825 -0.2246 -0.1207 -0.0698 0.5109 0.2665 -0.2108"
  " -0.2158 0.2502 -0.2055 -0.0322 0.1109 0.1567 -0.0729 0.0899 -0.2799 -0.1230"
  " -0.0313 -0.1649 0.0117 0.0723 -0.2839 -0.2083 -0.0520 0.3748 0.0152 0.1957 0.1433"
  " -0.2944 0.3573 -0.0548 -0.1681 -0.0667",
  "0.4765 1.0364 0.4514 1.1677 0.5313 0.4990 0.4818 0.5013 0.8158 1.0344 0.5894 1.0901"
  " 0.6885 0.6165 0.8454 0.4978 0.5759 0.3523 0.7135 0.6804 0.5833 1.4146 0.8986"
  " 0.5659 0.7069 0.5338 0.4889 0.4917 0.4069 0.4999 0.6866 0.4093 0.5709 0.6065"
  " 0.6415 0.4944 0.5726 1.2042 0.5458 1.6887 0.3971 1.0600 0.3943 0.5537 0.5444"
  " 0.4089 0.7468 0.7744",
)


def matches(config: Mapping[str, Any] | None, tensors: Tensors) -> bool:
  """Whether this is an autoencoder of Wan's kind, whatever its sizes."""
  said = config is not None and config.get("_class_name") == _CLASS
  return said or any(_named(tensors, naming) for naming in _PROBES)


def read(
  config: Mapping[str, Any] | None,
  tensors: Tensors,
  *,
  dtype: jax.typing.DTypeLike,
  mesh: jax.sharding.Mesh | None,
) -> Loaded:
  """Reads the autoencoder; see `registry.load`."""
  naming = "native" if _named(tensors, "native") else "diffusers"
  said = dict(config) if config and config.get("_class_name") == _CLASS else {}
  if said:
    arch = published.parse(WanConfig, said, str(tensors.folder / "config.json"))
  elif naming == "native":
    arch = sizes_of_shapes(tensors)
  elif config and "_class_name" in config:
    raise ValueError(
      f"{tensors.folder / 'config.json'}: is of {config['_class_name']!r}, and its"
      f" weights have the names of Wan's autoencoders ({_CLASS}). Others are not"
      " supported; if they are those, put the config.json that belongs to them there."
    )
  else:
    raise ValueError(
      f"{tensors.path}: under diffusers' names, but no config.json with"
      f" _class_name={_CLASS!r} beside it: it holds the sizes and the statistics of the"
      " latents. Copy it there."
    )
  graph, state = nnx.split(published.abstract(lambda rngs: Wan(arch, rngs=rngs)))
  rules = table(arch, naming, _paths(nnx.to_pure_dict(state)))
  params = names.load_into(state, tensors, rules, dtype=dtype, mesh=mesh)
  return Loaded(
    kind=KINDS[0],
    model=nnx.merge(graph, params),
    config=arch,
    naming=naming,
    licence=LICENCE,
    files=tensors.files,
    dtypes=names.held(tensors, rules),
    tensors=len(rules),
    published=said,
  )


def write(
  loaded: Loaded, folder: pathlib.Path, *, dtype: np.dtype, naming: str
) -> list[pathlib.Path]:
  """Writes safetensors, under diffusers' names with a `config.json`.

  Raises:
    ValueError: there is no such naming, or the sizes would not be read back.
  """
  names.check_naming(naming, loaded.kind, _PROBES)
  params = loaded.params
  rules = table(loaded.config, naming, _paths(params))
  outgoing = names.save_from(params, rules, dtype=dtype)
  if naming == "native":
    plain = _plain(loaded.config)
    names.check_carried(plain, sizes_of_shapes, outgoing, "diffusers")
    return safetensors_file.write_safetensors(folder, outgoing, None, stem="Wan_VAE")
  said = describe(loaded.config, loaded.published)
  stem = "diffusion_pytorch_model"
  return safetensors_file.write_safetensors(folder, outgoing, said, stem=stem)


def describe(arch: WanConfig, said: Mapping[str, Any]) -> dict[str, Any]:
  """The content of a `config.json`: what was said before, and all sizes."""
  sizes = dataclasses.asdict(arch)
  folded = 3 * arch.patch_size**2
  sizes |= {"in_channels": folded, "out_channels": folded}
  if arch.patch_size == 1:
    sizes["patch_size"] = None
  time = 2 ** sum(arch.temperal_downsample)
  space = arch.patch_size * 2 ** (len(arch.dim_mult) - 1)
  factors = {"scale_factor_temporal": time, "scale_factor_spatial": space}
  return {"_class_name": _CLASS, "dropout": 0.0, **factors, **sizes, **said}


def _plain(arch: WanConfig) -> WanConfig:
  """The same sizes as `sizes_of_shapes` says them."""
  folded = 3 * arch.patch_size**2
  scales = () if arch.is_residual else arch.attn_scales
  return dataclasses.replace(
    arch,
    decoder_base_dim=arch.decoder_base_dim or arch.base_dim,
    in_channels=folded,
    out_channels=folded,
    attn_scales=tuple(sorted(scales, reverse=True)),
  )


def _paths(params: Mapping[str, Any]) -> list[str]:
  return ["/".join(map(str, path)) for path in traverse_util.flatten_dict(dict(params))]


def _named(tensors: Tensors, naming: str) -> bool:
  return all(name in tensors.extents for name in _PROBES[naming])


def sizes_of_shapes(tensors: Tensors) -> WanConfig:
  """Sizes that the shapes of Wan's own file tell.

  Raises:
    ValueError: they tell none, or there are no statistics for that number of channels.
  """
  shapes = {name: info.shape for name, info in tensors.names.items()}
  absent = [
    name for name in ("conv2.weight", "decoder.head.0.gamma") if name not in shapes
  ]
  levels = _levels(shapes)
  if absent or not all(level["blocks"] for level in levels):
    what = absent or ["residual blocks of a level of the encoder"]
    raise ValueError(
      f"{tensors.path}: {', '.join(what)} missing, so the sizes cannot be determined."
      " Copy the file again."
    )
  base, folded = shapes["encoder.conv1.weight"][:2]
  z_dim = shapes["conv2.weight"][0]
  patch = math.isqrt(folded // 3)
  mult = tuple(level["width"] // base for level in levels)
  if z_dim not in (16, 48):
    raise ValueError(
      f"{tensors.path}: has {z_dim} latent channels and no config.json; the statistics"
      " of the latents are known only for Wan 2.1's 16 and Wan 2.2's 48. Provide a folder"
      " of diffusers, whose config.json has them."
    )
  return WanConfig(
    base_dim=base,
    decoder_base_dim=shapes["decoder.head.0.gamma"][0] // mult[0],
    z_dim=z_dim,
    dim_mult=mult,
    num_res_blocks=levels[0]["blocks"],
    attn_scales=tuple(0.5**i for i, level in enumerate(levels) if level["attends"]),
    temperal_downsample=tuple(level["time"] for level in levels[:-1]),
    in_channels=folded,
    out_channels=folded,
    patch_size=patch,
    is_residual="encoder.downsamples.0.downsamples.0.residual.2.weight" in shapes,
    **statistics_of(z_dim),
  )


def statistics_of(z_dim: int) -> dict[str, tuple[float, ...]]:
  """Published statistics of the latents, where they are not a config's defaults."""
  if z_dim != 48:
    return {}
  mean, std = (tuple(map(float, text.split())) for text in _STATISTICS_2_2)
  return {"latents_mean": mean, "latents_std": std}


_PART = re.compile(
  r"encoder\.downsamples\.([\d.]+?)(?:\.downsamples\.(\d+))?"
  r"\.(residual\.2|to_qkv|resample\.1|time_conv)\.weight"
)


def _levels(shapes: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
  """Width, number of blocks and steps of each level of the encoder, finest first."""
  parts: dict[tuple[int, int], dict[str, int]] = {}
  for name, shape in shapes.items():
    if match := _PART.fullmatch(name):
      place = (int(match[1]), int(match[2] or 0))
      parts.setdefault(place, {})[match[3]] = shape[0]
  levels = [_new_level()]
  for _, part in sorted(parts.items()):
    if "residual.2" in part:
      levels[-1]["blocks"] += 1
      levels[-1]["width"] = part["residual.2"]
    levels[-1]["attends"] |= "to_qkv" in part
    if "resample.1" in part:
      levels[-1]["time"] = "time_conv" in part
      levels.append(_new_level())
  return levels


def _new_level() -> dict[str, Any]:
  return {"width": 0, "blocks": 0, "attends": False, "time": False}
