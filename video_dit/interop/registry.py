"""The supported formats, and detecting one from the contents of a folder."""

import dataclasses
import os
import pathlib
import types
from typing import Any

import jax

from video_dit import files
from video_dit.interop import (
  clip,
  cogvideox_autoencoder,
  dtypes,
  hunyuan_autoencoder,
  lookalikes,
  own_dit,
  stable_autoencoder,
  t5,
  wan_autoencoder,
  wan_dit,
)
from video_dit.interop.loaded import Loaded
from video_dit.interop.tensors import Tensors, check_link, open_tensors

# Asked in order. Each module has
#   matches(config, tensors) -> bool, of config.json's content (or None) and the names,
#   read(config, tensors, dtype=, mesh=) -> Loaded,
#   write(loaded, folder, dtype=, naming=) -> the files written,
#   KINDS, those that it reads, and
#   CLASSES, what the peers call them.
FORMATS: tuple[types.ModuleType, ...] = (
  t5,
  clip,
  wan_autoencoder,
  wan_dit,
  own_dit,
  cogvideox_autoencoder,
  hunyuan_autoencoder,
  stable_autoencoder,
)


def load(
  path: str | os.PathLike[str],
  *,
  dtype: jax.typing.DTypeLike | None = "float32",
  mesh: jax.sharding.Mesh | None = None,
  abstract: bool = False,
) -> Loaded:
  """Reads a published checkpoint, whatever its format.

  Args:
    path: a folder with weights and, mostly, a `config.json`; or a file of weights.
    dtype: of the parameters, one of float32, bfloat16, float16, float8_e4m3fn and
      float8_e5m2; None keeps the tensors', where those of a stack's layers have the
      narrowest that holds them all.
    mesh: that they are laid over; None puts them on the default device.
    abstract: for shapes and layouts of the parameters alone; no tensor is read.

  Raises:
    ValueError: its format is not supported, it is damaged, or its tensors do not
      fit: those that are missing, extra or of the wrong shape are listed. Or `dtype` is
      not one of these, or cannot hold a tensor's values.
  """
  kind = dtypes.check(dtype)
  tensors = dataclasses.replace(open_tensors(path), abstract=abstract)
  config = read_config(tensors)
  for module in FORMATS:
    if module.matches(config, tensors):
      return module.read(config, tensors, dtype=kind, mesh=mesh)
  for name, reader in _OWN.items():
    if (tensors.folder / name).is_file():
      raise ValueError(
        f"{tensors.path}: of this project's own format ({name}), which"
        f" interop.{reader} reads. This reads published formats."
      )
  said = {k: config[k] for k in _NAMES if k in config} if config else "missing"
  kinds = ", ".join(kind for module in FORMATS for kind in module.KINDS)
  classes = ", ".join(name for module in FORMATS for name in module.CLASSES)
  first = ", ".join(list(tensors.names)[:4])
  raise ValueError(
    f"{tensors.path}: not a supported format ({kinds}). Its config.json is"
    f" {said}, its first tensors are {first}. Supported classes are {classes}."
  )


_OWN = {"autoencoder.json": "autoencoder", "encoder.json": "text_encoder"}
_NAMES = ("_class_name", "architectures", "model_type")


def read_config(tensors: Tensors) -> dict[str, Any] | None:
  """The content of the `config.json` beside the weights; None where there is none."""
  path = tensors.folder / "config.json"
  check_link(path)
  if not path.is_file():
    return None
  lookalikes.check_start(path)
  return files.read_json(path, "Copy it again.")


def save(
  loaded: Loaded,
  folder: str | os.PathLike[str],
  *,
  dtype: jax.typing.DTypeLike | None = None,
  naming: str | None = None,
) -> list[pathlib.Path]:
  """Writes a model as safetensors, so that `load` and the peers read it back.

  Args:
    loaded: what `load` returned.
    folder: made where it is missing. What an older checkpoint of the same kind left
      there is replaced.
    dtype: of the tensors; None keeps each parameter's.
    naming: whose names to use; None takes those they came with.

  Returns:
    The files with tensors.

  Raises:
    ValueError: there is no such dtype or naming, or the dtype cannot hold the values.
  """
  module = next(m for m in FORMATS if loaded.kind in m.KINDS)
  kind = dtypes.check(dtype)
  return module.write(
    loaded, pathlib.Path(folder), dtype=kind, naming=naming or loaded.naming
  )
