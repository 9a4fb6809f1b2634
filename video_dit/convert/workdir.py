"""The averaged weights of a training run, to be written with all that describes them."""

import json
import pathlib
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit import config as config_lib
from video_dit import interop
from video_dit.checkpoints.store import Store
from video_dit.interop import own_dit, wan_dit
from video_dit.models.dit import rotary
from video_dit.models.dit.wan_config import of_section

_CHECKPOINTS = "checkpoints"
_NAMING = "diffusers"  # of what is written, unless another is asked for


def is_workdir(path: pathlib.Path) -> bool:
  """Whether a folder is one of `video_dit.main`'s."""
  return (path / _CHECKPOINTS).is_dir() and (path / "config.json").is_file()


def load(workdir: pathlib.Path, step: int | None = None) -> interop.Loaded:
  """Reads a checkpoint's averaged weights onto the first device of the host.

  Args:
    workdir: of the run.
    step: of the checkpoint; by default the newest.

  Raises:
    ValueError: the run has not saved that, or trains what no format is known for, or
      a Wan transformer that its format cannot tell.
  """
  path = workdir / "config.json"
  try:
    config = config_lib.parse(json.loads(path.read_text(encoding="utf-8")))
  except ValueError as error:
    raise ValueError(
      f"{path} is not a config of this version ({error}). Name another run."
    ) from error
  if config.objective != "diffusion":
    raise ValueError(
      f"{workdir}: config.objective={config.objective!r}: only transformers are written."
      " A trained autoencoder is in the workdir's folder `autoencoder`."
    )
  if config.dit.architecture == "wan":
    _check_function(workdir, config)
  with Store(workdir / _CHECKPOINTS) as store:
    step = store.existing(step)
    extents = store.extents(step)
    said: dict[str, Any]
    if config.dit.architecture == "wan":
      patch_dim, text_width = extents["embed/kernel"][0], extents["text1/kernel"][0]
      wan = of_section(config.dit, patch_dim, text_width)
      model, params = _read(store, step, wan_dit.abstract(wan))
      said = {"kind": wan_dit.KINDS[0], "naming": _NAMING, "licence": wan_dit.LICENCE}
      said |= {"config": wan, "tensors": wan_dit.num_tensors(params, wan, _NAMING)}
    else:
      patch_dim, text_width = extents["embed/kernel"][0], extents["text/kernel"][0]
      own = own_dit.of_config(config, patch_dim, text_width)
      model, params = _read(store, step, own_dit.abstract(own))
      said = {"kind": own_dit.KINDS[0], "naming": own_dit.NAMING, "licence": None}
      said |= {"config": own, "tensors": own_dit.num_tensors(params, own)}
  files = (workdir / _CHECKPOINTS / str(step),)
  return interop.Loaded(model=model, files=files, dtypes=(np.dtype(np.float32),), **said)


def _read(store: Store, step: int, shadow: nnx.Module) -> tuple[nnx.Module, Any]:
  """The model with its averaged weights, and these."""
  graph, shapes = nnx.split(shadow)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=device),
    nnx.to_pure_dict(shapes),
  )
  params = store.restore_ema(abstract, step)
  return nnx.merge(graph, params), params


def _check_function(workdir: pathlib.Path, config: config_lib.Config) -> None:
  """Refuses a run whose model the published format cannot describe.

  Raises:
    ValueError: it counts positions, or predicts, differently.
  """
  published = of_section(config.dit, 0, 0).section(config.dit)
  keys = ("rope_theta", "rope_side", "rope_seconds")
  pairs = [(f"dit.{k}", getattr(config.dit, k), getattr(published, k)) for k in keys]
  pairs += [
    ("dit.rope_fractions", rotary.pairs(config.dit), rotary.pairs(published)),
    ("diffusion.process", config.diffusion.process, "flow"),
    ("diffusion.prediction", config.diffusion.prediction, "velocity"),
  ]
  for key, here, there in pairs:
    if here != there:
      raise ValueError(
        f"{workdir}: was trained with config.{key}={here!r}, and what is written would be"
        f" read with {there!r}, as Wan's transformers all have it. Sample from the"
        " workdir itself."
      )
