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
from safetensors import numpy as safetensors

from video_dit import config as config_lib
from video_dit.models.autoencoder.frozen import Frozen, hash_files
from video_dit.models.autoencoder.model import Autoencoder

DESCRIPTION = "autoencoder.json"
WEIGHTS = "weights.safetensors"
_SHAPE_KEYS = ("channels", "space", "time", "patch", "widths", "blocks", "factorized")


def export(
  folder: str | os.PathLike,
  arch: config_lib.Autoencoder,
  params: dict,
  mean: np.ndarray,
  std: np.ndarray,
) -> None:
  """Writes the frozen autoencoder; a reader sees the old folder or the new one.

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
  # The description comes last: a folder without one is no autoencoder yet.
  (folder / DESCRIPTION).unlink(missing_ok=True)
  safetensors.save_file(flat, folder / f"{WEIGHTS}.new")
  (folder / f"{WEIGHTS}.new").replace(folder / WEIGHTS)
  new = folder / f"{DESCRIPTION}.new"
  new.write_text(json.dumps(description, indent=1), encoding="utf-8")
  new.replace(folder / DESCRIPTION)


def fingerprint(folder: str | os.PathLike) -> str:
  """Hash of an exported autoencoder, 32 hexadecimal digits.

  Raises:
    ValueError: there is no autoencoder in the folder.
  """
  paths = [pathlib.Path(folder) / name for name in (DESCRIPTION, WEIGHTS)]
  for path in paths:
    if not path.is_file():
      raise ValueError(
        f"config.autoencoder.checkpoint={str(folder)!r}: {path.name} is not there. Name"
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
    folder: that `export` wrote.
    mesh: clips are split over all its devices; None uses the default device.
    dtype: of the arithmetic.

  Raises:
    ValueError: no autoencoder there, or weights that do not fit its description.
  """
  mark = fingerprint(folder)
  path = pathlib.Path(folder)
  description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
  values: dict[str, Any] = {key: description[key] for key in _SHAPE_KEYS}
  arch = config_lib.Autoencoder(**values | {"widths": tuple(values["widths"])})
  shadow = nnx.eval_shape(lambda: Autoencoder(arch, rngs=nnx.Rngs(0)))
  _, state = nnx.split(shadow)
  wanted = {
    "/".join(map(str, key)): (key, value)
    for key, value in traverse_util.flatten_dict(nnx.to_pure_dict(state)).items()
  }
  weights = safetensors.load_file(path / WEIGHTS)
  for name in sorted(wanted.keys() | weights.keys()):
    found = weights[name].shape if name in weights else None
    expected = wanted[name][1].shape if name in wanted else None
    if found != expected:
      raise ValueError(
        f"{path / WEIGHTS}: {name} has shape {found}, {expected} is expected by"
        f" {DESCRIPTION}. The folder is damaged: export it again."
      )
  params = traverse_util.unflatten_dict({wanted[n][0]: weights[n] for n in wanted})
  mean, std = (
    np.asarray(description[f"latent_{k}"], np.float32) for k in ("mean", "std")
  )
  return Frozen(shadow, params, (mean, std), mark, mesh=mesh, dtype=dtype)
