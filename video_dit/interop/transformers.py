"""The published transformer that `config.dit.checkpoint` names: a run starts from it."""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

from absl import logging
import jax

from video_dit import config as config_lib
from video_dit.interop import registry, wan_dit
from video_dit.interop.tensors import open_tensors
from video_dit.models.dit.wan_config import WanConfig, of_section


def with_transformer(
  config: config_lib.Config, begun: config_lib.Config | None = None
) -> config_lib.Config:
  """The config with the function of the transformer that it starts from.

  Sizes, positions and the captions' length are the checkpoint's; what changes is logged.
  No tensor is read.

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
  if begun is not None and begun.dit.checkpoint == config.dit.checkpoint:
    sizes = of_section(begun.dit, 0, 0)
  else:
    sizes = _open(config)
  dit = sizes.section(config.dit)
  pairs = ((key, value, getattr(dit, key)) for key, value in vars(config.dit).items())
  if changed := [f"{key}={b!r} (not {a!r})" for key, a, b in pairs if a != b]:
    logging.warning("config.dit.checkpoint overrides the config: %s", ", ".join(changed))
  config = dataclasses.replace(config, dit=dit)
  return config_lib.parse(config_lib.to_dict(config))


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
  expected = sizes.section(config.dit)
  for field in dataclasses.fields(expected):
    here, there = getattr(config.dit, field.name), getattr(expected, field.name)
    if here != there:
      raise ValueError(
        f"config.dit.{field.name}={here!r}, but {where} has {there!r}. Leave it as"
        " the checkpoint has it."
      )

  def read(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    return registry.load(_path(config), dtype="float32", mesh=mesh).params

  return read


def _path(config: config_lib.Config) -> pathlib.Path:
  return pathlib.Path(config.dit.checkpoint).expanduser()


def _open(config: config_lib.Config) -> WanConfig:
  """The checkpoint's sizes."""
  try:
    tensors = open_tensors(_path(config))
  except ValueError as e:
    raise ValueError(
      f"config.dit.checkpoint={config.dit.checkpoint!r} is not a published transformer."
      f" ({e})"
    ) from e
  said = registry.read_config(tensors)
  if not wan_dit.matches(said, tensors):
    first = ", ".join(list(tensors.extents)[:3])
    raise ValueError(
      f"config.dit.checkpoint={config.dit.checkpoint!r} is not a Wan transformer (its"
      f" first tensors are {first}). Name one's folder or file; in a pipeline it is the"
      " folder `transformer`."
    )
  return wan_dit.sizes_of(said, tensors)[2]
