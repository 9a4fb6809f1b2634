"""The transformer that `config.dit.checkpoint` names: a run starts from it."""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

from absl import logging
import jax

from video_dit import config as config_lib
from video_dit.interop import own_dit, registry, wan_dit
from video_dit.interop.tensors import open_tensors
from video_dit.models.dit.wan_config import WanConfig, of_section

Sizes = WanConfig | own_dit.OwnConfig


def with_transformer(
  config: config_lib.Config, begun: config_lib.Config | None = None
) -> config_lib.Config:
  """The config with the function of the transformer that it starts from.

  Sizes, positions and the captions' length are the checkpoint's, and process and
  prediction those of this project's own; what changes is logged. No tensor is read.

  Args:
    config: of the run.
    begun: that the run goes on from, if it does; a checkpoint that it has started from
      need not exist any more.

  Raises:
    ValueError: there is no such checkpoint, it is of another kind or damaged, or its
      sizes break a rule of the config.
  """
  if not config.dit.checkpoint:
    return config
  if begun is None or begun.dit.checkpoint != config.dit.checkpoint:
    sizes: Sizes = _open(config)
  elif begun.dit.architecture == "wan":
    sizes = of_section(begun.dit, 0, 0)
  else:
    sizes = own_dit.of_config(begun, 0, 0)
  changed = _with(config, sizes)
  before, after = dict(config_lib.leaves(config)), dict(config_lib.leaves(changed))
  pairs = ((key, value, after[key]) for key, value in before.items())
  if told := [f"{key}={b!r} (not {a!r})" for key, a, b in pairs if a != b]:
    logging.warning("config.dit.checkpoint overrides the config: %s", ", ".join(told))
  return config_lib.parse(config_lib.to_dict(changed))


def _with(config: config_lib.Config, sizes: Sizes) -> config_lib.Config:
  """The config of a run of this transformer."""
  dit, diffusion = sizes.section(config.dit), config.diffusion
  if isinstance(sizes, own_dit.OwnConfig):
    diffusion = dataclasses.replace(diffusion, **sizes.diffusion)
  return dataclasses.replace(config, dit=dit, diffusion=diffusion)


def transformer_weights(
  config: config_lib.Config, channels: int, text_width: int
) -> Callable[[jax.sharding.Mesh], dict[str, Any]]:
  """How to read the weights that a run starts from; what does not fit is refused now.

  Args:
    config: as `with_transformer` returned it.
    channels: of the latents.
    text_width: of the captions' encodings.

  Returns:
    A function of the mesh: the float32 parameters, laid over it one tensor at a time.

  Raises:
    ValueError: the transformer takes other latents or other text, or is of other sizes
      than the config.
  """
  sizes = _open(config)
  where = f"config.dit.checkpoint={config.dit.checkpoint!r}"
  if sizes.channels != channels:
    raise ValueError(
      f"{where} takes latents of {sizes.channels} channels, but those of the data set"
      f" have {channels}. Preprocess with the autoencoder that belongs to it."
    )
  if sizes.text_width != text_width:
    raise ValueError(
      f"{where} takes captions encoded {sizes.text_width} wide, but those of the data set"
      f" are {text_width} wide. Preprocess with the text encoder that belongs to it."
    )
  expected = dict(config_lib.leaves(_with(config, sizes)))
  for key, here in config_lib.leaves(config):
    if here != expected[key]:
      raise ValueError(
        f"config.{key}={here!r}, but {where} has {expected[key]!r}. Leave it as the"
        " checkpoint has it."
      )

  def read(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    return registry.load(_path(config), dtype="float32", mesh=mesh).params

  return read


def _path(config: config_lib.Config) -> pathlib.Path:
  return pathlib.Path(config.dit.checkpoint).expanduser()


def _open(config: config_lib.Config) -> Sizes:
  """The checkpoint's sizes."""
  where = f"config.dit.checkpoint={config.dit.checkpoint!r}"
  try:
    tensors = open_tensors(_path(config))
  except ValueError as e:
    raise ValueError(f"{where} is not a transformer. ({e})") from e
  said = registry.read_config(tensors)
  found = {"adaln": own_dit, "wan": wan_dit}
  kinds = [name for name, module in found.items() if module.matches(said, tensors)]
  if not kinds:
    first = ", ".join(list(tensors.extents)[:3])
    raise ValueError(
      f"{where} is not a Wan transformer, nor one that video_dit.convert wrote (its first"
      f" tensors are {first}). Name one's folder or file; in a pipeline it is the folder"
      " `transformer`."
    )
  if kinds[0] != config.dit.architecture:
    raise ValueError(
      f"config.dit.architecture={config.dit.architecture!r}, but {where} is of the"
      f" architecture {kinds[0]!r}. Choose a config of that."
    )
  if kinds[0] == "adaln":
    return own_dit.sizes_of(said, tensors)
  return wan_dit.sizes_of(said, tensors)[2]
