"""The frozen autoencoder on disk, in this project's own format.

A folder holds `autoencoder.json` (architecture, latent statistics) and
`weights.safetensors`; its fingerprint is the hash of both.
"""

import json
import os
import pathlib
from typing import Any

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from video_dit import config as config_lib
from video_dit import files
from video_dit.config import rules
from video_dit.models.autoencoder.frozen import Frozen, hash_files
from video_dit.models.autoencoder.model import Autoencoder

DESCRIPTION = "autoencoder.json"
WEIGHTS = "weights.safetensors"
_DAMAGED = "The folder is damaged: export it again."
_SHAPE_KEYS = ("channels", "space", "time", "patch", "widths", "blocks", "factorized")


def export(
  folder: str | os.PathLike,
  arch: config_lib.Autoencoder,
  params: dict,
  mean: np.ndarray,
  std: np.ndarray,
) -> None:
  """Writes the frozen autoencoder.

  A folder that is written to again has no description meanwhile: who opens it then is
  told that there is no autoencoder.

  Args:
    folder: written to.
    arch: its architecture.
    params: pure dictionary of parameters.
    mean, std: `(c,)`, statistics of the latents of its training data.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  flat = {
    "/".join(map(str, path)): np.ascontiguousarray(jax.device_get(value))
    for path, value in traverse_util.flatten_dict(params).items()
  }
  description = {key: getattr(arch, key) for key in _SHAPE_KEYS}
  description["latent_mean"] = [float(x) for x in mean]
  description["latent_std"] = [float(x) for x in std]
  # The description comes last: a folder without one is not an autoencoder yet.
  (folder / DESCRIPTION).unlink(missing_ok=True)
  with files.replacing(folder / WEIGHTS) as unfinished:
    safetensors.save_file(flat, unfinished)
  files.write(folder / DESCRIPTION, json.dumps(description, indent=1))


def fingerprint(folder: str | os.PathLike) -> str:
  """Hash of an exported autoencoder, 32 hexadecimal digits.

  Raises:
    ValueError: there is no autoencoder in the folder.
  """
  paths = [pathlib.Path(folder) / name for name in (DESCRIPTION, WEIGHTS)]
  for path in paths:
    if not path.is_file():
      raise ValueError(
        f"config.autoencoder.checkpoint={str(folder)!r}: {path.name} is missing. Name"
        " the `autoencoder` folder that a run of configs/autoencoder.py exported."
      )
  return hash_files(paths)


def load(
  folder: str | os.PathLike,
  *,
  mesh: jax.sharding.Mesh | None = None,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> Frozen:
  """Reads a frozen autoencoder.

  Args:
    folder: written by `export`.
    mesh: clips are split over all its devices; None uses the default device.
    dtype: of the arithmetic.

  Raises:
    ValueError: no autoencoder there, a damaged file, or weights that do not fit their
      description.
  """
  mark = fingerprint(folder)
  path = pathlib.Path(folder)
  _, statistics = _describe(path / DESCRIPTION)
  shadow = abstract(folder)
  _, state = nnx.split(shadow)
  wanted = {
    "/".join(map(str, key)): (key, value)
    for key, value in traverse_util.flatten_dict(nnx.to_pure_dict(state)).items()
  }
  try:
    weights = safetensors.load_file(path / WEIGHTS)
  except (OSError, ValueError, KeyError, SafetensorError) as e:
    raise ValueError(
      f"{path / WEIGHTS}: is truncated or not a safetensors file ({e}). {_DAMAGED}"
    ) from e
  for name in sorted(wanted.keys() | weights.keys()):
    found = weights[name].shape if name in weights else None
    expected = wanted[name][1].shape if name in wanted else None
    if found != expected:
      raise ValueError(
        f"{path / WEIGHTS}: {name} has shape {found}, but {expected} is expected by"
        f" {DESCRIPTION}. {_DAMAGED}"
      )
  params = traverse_util.unflatten_dict({wanted[n][0]: weights[n] for n in wanted})
  return Frozen(shadow, params, statistics, mark, mesh=mesh, dtype=dtype)


def abstract(folder: str | os.PathLike) -> Autoencoder:
  """The model of an exported autoencoder, its parameters as shapes.

  Raises:
    ValueError: a damaged description.
  """
  arch, _ = _describe(pathlib.Path(folder) / DESCRIPTION)
  return nnx.eval_shape(lambda: Autoencoder(arch, rngs=nnx.Rngs(0)))


def _describe(
  path: pathlib.Path,
) -> tuple[config_lib.Autoencoder, tuple[np.ndarray, np.ndarray]]:
  """Reads a description: the architecture, mean and deviation of the latents.

  Raises:
    ValueError: it is not JSON, a key is missing, or a value has another type.
  """

  def refuse(what: str) -> ValueError:
    return ValueError(f"{path}: {what}. {_DAMAGED}")

  found = files.read_json(path, _DAMAGED)
  missing = [k for k in (*_SHAPE_KEYS, "latent_mean", "latent_std") if k not in found]
  if missing:
    raise refuse(f"{missing[0]} is missing")
  values: dict[str, Any] = {key: found[key] for key in _SHAPE_KEYS}
  widths = values["widths"]
  sizes = {k: v for k, v in values.items() if k not in ("widths", "factorized")}
  sizes |= {f"widths[{i}]": w for i, w in enumerate(widths if _is_list(widths) else [0])}
  for key, value in sizes.items():
    if type(value) is not int or value < 1:
      raise refuse(f"{key}={value!r} must be a whole number above 0")
  if type(values["factorized"]) is not bool:
    raise refuse(f"factorized={values['factorized']!r} must be true or false")
  arch = config_lib.Autoencoder(**values | {"widths": tuple(widths)})
  try:
    rules.check_autoencoder(arch)
  except ValueError as e:
    raise refuse(f"has inconsistent sizes ({e})") from e
  mean, std = (found[f"latent_{k}"] for k in ("mean", "std"))
  for key, value in (("latent_mean", mean), ("latent_std", std)):
    whole = _is_list(value) and len(value) == arch.channels
    if not whole or not all(isinstance(x, int | float) for x in value):
      raise refuse(f"{key} must be {arch.channels} numbers, one for each channel")
  if not (np.isfinite(mean).all() and np.isfinite(std).all() and np.min(std) > 0):
    raise refuse("latent_mean and latent_std must be finite, latent_std above 0")
  return arch, (np.asarray(mean, np.float32), np.asarray(std, np.float32))


def _is_list(value: Any) -> bool:
  return isinstance(value, list) and len(value) > 0
