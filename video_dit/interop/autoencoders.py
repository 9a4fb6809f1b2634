"""The autoencoder that `config.autoencoder.checkpoint` names, ready for use.

It is this project's own, as its training exported it, or a published one of any format
that `registry.load` knows: callers that encode and decode need not know which.
"""

import os
import pathlib
from typing import Any

from absl import logging
import jax

from video_dit.interop import registry
from video_dit.interop.loaded import Loaded
from video_dit.interop.tensors import Tensors, open_tensors
from video_dit.models.autoencoder import store
from video_dit.models.autoencoder.frozen import Frozen, hash_files


def autoencoder(
  path: str | os.PathLike[str],
  *,
  mesh: jax.sharding.Mesh | None = None,
  dtype: jax.typing.DTypeLike = "float32",
) -> Frozen:
  """Reads a frozen autoencoder.

  Args:
    path: the folder that a training run exported, or a published checkpoint's folder or
      file.
    mesh: clips are split over all its devices; None uses the default device.
    dtype: of the arithmetic, and of a published one's parameters.

  Raises:
    ValueError: no autoencoder there, weights that do not fit its description, or one
      that does not have three colour channels.
  """
  if _is_own(path):
    return store.load(path, mesh=mesh, dtype=dtype)
  mark = _published_mark(_tensors(path))
  loaded = _checked(path, registry.load(path, dtype=dtype))
  licence = loaded.licence or "unknown: see where they come from"
  logging.info("%s: %s, licence of the weights %s", path, loaded.kind, licence)
  statistics = loaded.model.statistics  # type: ignore[attr-defined]
  return Frozen(loaded.model, loaded.params, statistics, mark, mesh=mesh, dtype=dtype)


def abstract_autoencoder(path: str | os.PathLike[str]) -> Any:
  """The model of an autoencoder, its parameters as shapes; see `frozen.Model`.

  Raises:
    ValueError: no autoencoder there, or one that `autoencoder` would refuse.
  """
  if _is_own(path):
    return store.abstract(path)
  _tensors(path)
  return _checked(path, registry.load(path, abstract=True)).model


def _checked(path: str | os.PathLike[str], loaded: Loaded) -> Loaded:
  """Refuses what is no autoencoder of colours."""
  if not loaded.kind.endswith("_autoencoder"):
    raise ValueError(
      f"config.autoencoder.checkpoint={str(path)!r} is of the kind {loaded.kind!r}. Name"
      " an autoencoder's folder or file; in a pipeline it is the folder `vae`."
    )
  sizes = loaded.config
  colours = (3, 3 * getattr(sizes, "patch_size", 1) ** 2)  # before or after folding
  if sizes.in_channels not in colours or sizes.out_channels not in colours:
    raise ValueError(
      f"config.autoencoder.checkpoint={str(path)!r} takes {sizes.in_channels} channels"
      f" per pixel and gives {sizes.out_channels}; clips have 3. Name an RGB"
      " autoencoder."
    )
  return loaded


def autoencoder_fingerprint(path: str | os.PathLike[str]) -> str:
  """Hash of an autoencoder's files, 32 hexadecimal digits; nothing is loaded.

  Raises:
    ValueError: no autoencoder there.
  """
  return store.fingerprint(path) if _is_own(path) else _published_mark(_tensors(path))


def _is_own(path: str | os.PathLike[str]) -> bool:
  return (pathlib.Path(path) / store.DESCRIPTION).is_file()


def _tensors(path: str | os.PathLike[str]) -> Tensors:
  try:
    return open_tensors(path)
  except ValueError as error:
    raise ValueError(
      f"config.autoencoder.checkpoint={str(path)!r}: neither {store.DESCRIPTION} nor a"
      f" published checkpoint is there. Name the `autoencoder` folder that a run of"
      f" configs/autoencoder.py exported, or a published autoencoder's folder or file."
      f" ({error})"
    ) from error


def _published_mark(tensors: Tensors) -> str:
  """Hash of the weights, and of a `config.json` that belongs to an autoencoder."""
  said = registry.read_config(tensors) or {}
  files = list(tensors.files)
  if str(said.get("_class_name", "")).startswith("Autoencoder"):
    files.insert(0, tensors.folder / "config.json")
  return hash_files(files)
