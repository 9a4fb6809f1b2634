"""The frozen encoders of a plan: memory, and clips a second of the config's own size.

They are those that the config names, if they are there; only their descriptions are read.
Where none are named they are published ones of the config's sizes: UMT5 and Wan 2.1's
autoencoder for a transformer of Wan's own, a T5 v1.1 and this project's autoencoder for
others. Both are on the devices at the same time, as in `preprocess`.
"""

import dataclasses
import math
import pathlib
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit import config as config_lib
from video_dit import interop
from video_dit.interop import placing, text_encoders
from video_dit.models.autoencoder import published
from video_dit.models.autoencoder.model import Autoencoder
from video_dit.models.autoencoder.wan import Wan, WanConfig
from video_dit.models.text import encoder as encoder_lib
from video_dit.models.text.t5 import T5Config, T5Encoder
from video_dit.plan import estimate, programs, remedies
from video_dit.plan import mix as mix_lib
from video_dit.plan.chips import Chip

_SIZES = ("channels", "space", "time")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
  """A text encoder as `preprocess` holds it.

  Attributes:
    what: it is, in words.
    model: its parameters are shapes.
    params: their shapes and layouts.
    mesh: of the devices that work on one group of captions.
    length: of the longest captions, padded.
    at_once: groups of captions that all devices work on at a time.
  """

  what: str
  model: Any
  params: Any
  mesh: jax.sharding.Mesh
  length: int
  at_once: int


def resolved(config: config_lib.Config) -> config_lib.Config:
  """The config with the sizes of the published models that it names, as training has it.

  Raises:
    ValueError: there is no such transformer, or it does not go with the encoders.
  """
  config = interop.with_transformer(config)
  text = config.text
  if _is_there(text.checkpoint) and interop.is_published(text):
    width = interop.abstract_text_encoder(text, None).config.width
    config = dataclasses.replace(config, text=dataclasses.replace(text, width=width))
  if config.dit.checkpoint:
    channels, width = config.autoencoder.channels, config.text.width
    try:
      interop.transformer_weights(config, channels, width)
    except ValueError as error:
      raise ValueError(
        f"{error} A plan takes the data set to be that of config.autoencoder and"
        " config.text."
      ) from error
  return config


def autoencoder(config: config_lib.Config) -> tuple[Any, str]:
  """The abstract autoencoder, and what it is in words.

  Raises:
    ValueError: the one that the config names is damaged or of other sizes.
  """
  arch = config.autoencoder
  wanted = {name: getattr(arch, name) for name in _SIZES}
  if _is_there(arch.checkpoint):
    model = interop.abstract_autoencoder(pathlib.Path(arch.checkpoint).expanduser())
    found = {name: getattr(model, name) for name in _SIZES}
    if found != wanted:
      flags = " ".join(f"--config.autoencoder.{k}={v}" for k, v in found.items())
      raise ValueError(
        f"config.autoencoder.checkpoint={arch.checkpoint!r} has other sizes than the"
        f" config. Pass {flags}."
      )
    return model, f"the one in {arch.checkpoint}"
  absent = _absent(arch.checkpoint)
  if _is_wans(config):
    wan = published.abstract(lambda rngs: Wan(WanConfig(), rngs=rngs))
    if {name: getattr(wan, name) for name in _SIZES} == wanted:
      return wan, f"{absent}Wan 2.1's"
  own = nnx.eval_shape(lambda: Autoencoder(arch, rngs=nnx.Rngs(0)))
  return own, f"{absent}this project's, of the config's sizes"


def text_encoder(config: config_lib.Config, mesh: jax.sharding.Mesh) -> Text:
  """The abstract text encoder, laid out as `preprocess` lays it.

  Each of several hosts encodes its own captions on one of its devices. A single host
  lays published weights over the mesh, where that splits them.
  """
  text = config.text
  hosts = _hosts(mesh)
  laid = text_encoders.laid_over(mesh) if hosts == 1 else None
  one = np.array(mesh.devices.flat[0]).reshape((1,) * len(mesh.axis_names))
  length, kind = encoder_lib.padded_length(text.max_tokens), jnp.dtype(text.dtype)
  if _is_there(text.checkpoint) and interop.is_published(text):
    loaded = interop.abstract_text_encoder(text, laid)
    model, params = loaded.model, loaded.params
    length = getattr(loaded.config, "positions", length)
    what = f"the {loaded.kind} in {text.checkpoint}"
  else:
    if _is_there(text.checkpoint):  # saved by this project
      laid, kind, what = None, jnp.dtype(jnp.float32), f"the one in {text.checkpoint}"
    else:
      family = "UMT5" if _is_wans(config) else "T5 v1.1"
      what = f"{_absent(text.checkpoint)}a published {family} of the config's sizes"
    sizes = T5Config.of(text, text.vocabulary)
    sizes = dataclasses.replace(sizes, shared_bias=not _is_wans(config))
    model = published.abstract(lambda rngs: T5Encoder(sizes, rngs=rngs))
    params = placing.abstract(nnx.state(model), kind, laid)
  count = sum(x.size for x in jax.tree.leaves(params))
  where = f"over {mesh.size} devices" if laid else "whole on one device of each host"
  return Text(
    what=f"{what}: {count:,} parameters of {kind.name}, {where}",
    model=model,
    params=params,
    mesh=laid or jax.sharding.Mesh(one, mesh.axis_names, axis_types=mesh.axis_types),
    length=length,
    at_once=1 if laid else hosts,
  )


def figures(
  config: config_lib.Config, chip: Chip, mesh: jax.sharding.Mesh, mix: mix_lib.Mix
) -> dict[str, Any]:
  """Memory of both encoders, and seconds for clips of the config's own size."""
  sample, axes, clips = config.sample, dict(mesh.shape), mesh.size
  model, what = autoencoder(config)
  text = text_encoder(config, mesh)
  tile = _tile((sample.height, sample.width), model.space, config.media.tile_pixels)
  spans = model.encode_spans(sample.frames)
  captions = encoder_lib.group_size(text.length)
  both = (
    programs.encoding(model, mesh, tile, clips, spans),
    programs.captioning(
      text.model, text.params, text.mesh, (captions, text.length), config.text.dtype
    ),
  )
  chunk, group = _at_once(*both), _at_once(*reversed(both))
  pixels = estimate.program_figures(chunk, chip, axes, mix)
  words = estimate.program_figures(group, chip, dict(text.mesh.shape), mix)
  count = sum(x.size for x in jax.tree.leaves(parameters(model)))
  what = f"{what}: {count:,} parameters of float32, whole on every device"
  found: dict[str, Any] = {
    "autoencoder": pixels | {"what": what},
    "text": words | {"what": text.what},
    "fits": pixels["fits"] and words["fits"],
    "clip": {"frames": sample.frames, "height": sample.height, "width": sample.width},
  }
  if pixels.get("step_seconds") and words.get("step_seconds"):
    # The first chunk costs about its frames' share of the others.
    first, later = (stop - start for start, stop in (spans[0], spans[-1]))
    chunks = len(spans) - 1 + first / later
    tiles = sample.height * sample.width / math.prod(tile)
    seconds = pixels["step_seconds"] * chunks * tiles / clips
    seconds += words["step_seconds"] / (captions * text.at_once)
    found |= {"seconds_per_clip": seconds, "clips_per_second": 1 / seconds}
  found["remedies"] = remedies.of_encoding(found, config, axes, _hosts(mesh))
  return found


def _at_once(program: programs.Program, other: programs.Program) -> programs.Program:
  """A program while a device runs the other one, too, as `preprocess` may."""
  held = other.memory["total"]
  memory = program.memory | {"other_encoder": held}
  return dataclasses.replace(program, memory=memory | {"total": memory["total"] + held})


def _hosts(mesh: jax.sharding.Mesh) -> int:
  return len({device.process_index for device in mesh.devices.flat})


def parameters(model: nnx.Module) -> Any:
  """Shapes of a model's parameters."""
  return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def _tile(size: tuple[int, int], space: int, most: int) -> tuple[int, int]:
  """What of a frame is encoded at once: halves of halves, on the grid of the latents."""
  while math.prod(size) > most and max(size) > space:
    longer = size.index(max(size))
    half = -(-size[longer] // (2 * space)) * space
    size = (half, size[1]) if longer == 0 else (size[0], half)
  return size


def _is_wans(config: config_lib.Config) -> bool:
  """Whether the transformer is as Wan published it, and not of its architecture alone."""
  return config.dit.architecture == "wan" and config.dit.text_length > 0


def _is_there(checkpoint: str) -> bool:
  return bool(checkpoint) and pathlib.Path(checkpoint).expanduser().exists()


def _absent(checkpoint: str) -> str:
  return f"{checkpoint} is not there, so " if checkpoint else ""
