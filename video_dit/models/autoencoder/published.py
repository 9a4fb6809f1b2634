"""What the published autoencoders share besides layers.

Each reads its architecture from the `config.json` that its peer writes, and runs a clip
of any length as consecutive spans of frames, each with what the span before left. So the
frames in memory, and the shapes that are compiled, stay bounded.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import sys
from typing import Any, TypeVar

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit.models.autoencoder.inside import Inside

Config = TypeVar("Config")
_REMEDY = "Give the config.json that belongs to the weights."
_OTHERS = "Autoencoders with others are not supported."
Span = tuple[int, int]  # first frame, and one past the last


class NotSupportedError(ValueError):
  """A value that the peer allows and this project does not."""


def parse(cls: type[Config], values: Mapping[str, Any], where: str) -> Config:
  """Builds an architecture from the values of a `config.json`.

  Keys that the architecture does not have are ignored: they say how the peer tiles or
  casts. Keys that are absent or null have the peer's default.

  Args:
    cls: a frozen dataclass whose fields are named like the keys.
    values: content of the file.
    where: the file, for messages.

  Raises:
    ValueError: a value of another type than its default, or a number not above 0.
  """
  found = {}
  for field in dataclasses.fields(cls):  # type: ignore[arg-type]
    value: Any = values.get(field.name)
    if value is None:
      continue
    if isinstance(value, list):
      value = tuple(value)
    default = field.default
    if type(default) is int and isinstance(value, float) and value.is_integer():
      value = int(value)  # as a peer's config may have it
    is_scale = isinstance(default, float)
    if type(default) is int and type(value) is int and value == 0:
      raise ValueError(
        f"{where}: {field.name} is 0; only 1 or more is supported. {_OTHERS}"
      )
    if not _is_like(default, value) or (is_scale and value <= 0):
      rule = " and above 0" if is_scale or type(default) is int else ""
      raise ValueError(
        f"{where}: {field.name} is {value!r}; something like {default!r}{rule} is"
        f" expected. {_REMEDY}"
      )
    found[field.name] = value
  try:
    return cls(**found)
  except NotSupportedError as error:
    raise ValueError(f"{where}: {error} {_OTHERS}") from error
  except ValueError as error:
    raise ValueError(f"{where}: {error} {_REMEDY}") from error


def _is_like(default: Any, value: Any) -> bool:
  """Whether a value may stand for its default: sizes are above 0, numbers finite."""
  if default is None:
    return True
  if isinstance(default, tuple):
    parts = value if default and isinstance(value, tuple) else ()
    return isinstance(value, tuple) and all(_is_like(default[0], x) for x in parts)
  if isinstance(default, float):
    return _is_number(value)
  return type(value) is type(default) and (type(value) is not int or value > 0)


def _is_number(value: Any) -> bool:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and abs(value) <= sys.float_info.max


def check_levels(
  widths: Sequence[int],
  groups: int,
  kinds: Sequence[Sequence[str]],
  known: Mapping[str, str],
) -> None:
  """Refuses levels of an unknown kind, or another number of them than of widths.

  Args:
    widths: `block_out_channels`.
    groups: `norm_num_groups`.
    kinds: of the levels, for each key of `known`; empty where the file names none.
    known: the supported kind, by its key in the file.
  """
  if not widths:
    raise ValueError("block_out_channels is empty: an autoencoder needs levels.")
  for width in widths:
    if groups < 1 or width < 1 or width % groups:
      raise ValueError(
        f"norm_num_groups {groups} does not divide a width of {width}: groups must"
        " divide every one of block_out_channels."
      )
  for (key, only), names in zip(known.items(), kinds, strict=True):
    for name in names:
      if name != only:
        raise NotSupportedError(f"{key} has {name!r}; only {only!r} is supported.")
    if names and len(names) != len(widths):
      raise ValueError(
        f"{key} has {len(names)} entries, block_out_channels {len(widths)}: there must"
        " be one for each level."
      )


def check_activation(name: str) -> None:
  """Refuses an `act_fn` that is not SiLU."""
  if name not in ("silu", "swish"):
    raise NotSupportedError(f"act_fn is {name!r}; only 'silu' (or 'swish') is supported.")


def power_of_two(key: str, value: int) -> int:
  """The exponent of a compression ratio."""
  if value < 1 or value & (value - 1):
    raise NotSupportedError(f"{key} is {value}: a power of two is expected.")
  return int(value).bit_length() - 1


def check_statistics(
  channels: int,
  shift: float | None = None,
  mean: Sequence[float] | None = None,
  std: Sequence[float] | None = None,
) -> None:
  """Refuses a shift that is not a number, and statistics other than one per channel.

  Args:
    channels: of the latents.
    shift: `shift_factor`.
    mean: `latents_mean`.
    std: `latents_std`, all above 0.
  """
  if not (shift is None or _is_number(shift)):
    raise ValueError(f"shift_factor is {shift!r}: a number is expected.")
  for key, values in (("latents_mean", mean), ("latents_std", std)):
    if values is None:
      continue
    if not isinstance(values, tuple) or not all(map(_is_number, values)):
      raise ValueError(f"{key} is {values!r}: numbers are expected.")
    if len(values) != channels:
      raise ValueError(
        f"{key} has {len(values)} values for {channels} channels of latents: there must"
        " be one for each."
      )
  if std is not None and not all(x > 0 for x in std):
    raise ValueError(f"latents_std is {std}: all must be above 0.")


def statistics(
  channels: int,
  scale: float,
  shift: float | None = None,
  mean: Sequence[float] | None = None,
  std: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and deviation `(c,)` by which latents are normalised.

  The transformers that were trained on these latents saw
  `(z - mean) * scaling_factor / std`, where the mean is `latents_mean` or
  `shift_factor`, and the deviation `latents_std` or 1.
  """
  centre = np.full(channels, shift or 0.0) if mean is None else np.asarray(mean)
  spread = np.ones(channels) if std is None else np.asarray(std)
  return centre.astype(np.float32), (spread / scale).astype(np.float32)


class Autoencoder(nnx.Module):
  """What these models share. Each has `time`, spans and chunks of its own.

  Attributes:
    arch: its architecture, with the names of `config.json`.
    causal: the encoding of a prefix, in the same chunks, ignores later frames.
  """

  arch: Any
  causal = False

  @property
  def channels(self) -> int:
    """Channels of a latent."""
    return self.arch.latent_channels

  @property
  def space(self) -> int:
    """Pixels per latent row or column, halved after every level but the last."""
    return 2 ** (len(self.arch.block_out_channels) - 1)

  @property
  def statistics(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation `(c,)` that normalise latents."""
    return statistics(
      self.arch.latent_channels,
      self.arch.scaling_factor,
      self.arch.shift_factor,
      self.arch.latents_mean,
      self.arch.latents_std,
    )

  def encode_spans(self, frames: int) -> list[Span]:
    """Chunks in which a clip of so many frames is encoded."""
    raise NotImplementedError

  def decode_spans(self, latents: int) -> list[Span]:
    """Chunks in which so many latent frames are decoded."""
    raise NotImplementedError

  def encode_chunk(
    self, x_BFHWC: jax.Array, cache: Any, inside: Inside | None = None
  ) -> tuple:
    """Mean, log-variance and cache of the next chunk; the first has the cache None."""
    raise NotImplementedError

  def decode_chunk(self, z_BFHWC: jax.Array, cache: Any) -> tuple:
    """Pixels, about [-1, 1], and cache of the next chunk."""
    raise NotImplementedError

  def encode(self, x_BFHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance `(B, t, h, w, c)` float32 of whole clips."""
    spans = self.encode_spans(x_BFHWC.shape[1])
    mean, logvar = run(self.encode_chunk, x_BFHWC, spans)
    return mean, logvar

  def decode(self, z_BFHWC: jax.Array) -> jax.Array:
    """Pixels `(B, F, H, W, 3)` float32 of whole latents, about [-1, 1]."""
    return run(self.decode_chunk, z_BFHWC, self.decode_spans(z_BFHWC.shape[1]))[0]


class _OneKey(nnx.Rngs):
  """The same key at every draw."""

  def __init__(self):
    self.key = jax.random.key(0)

  def params(self) -> jax.Array:
    """The key."""
    return self.key


def abstract(make: Callable[[nnx.Rngs], nnx.Module]) -> nnx.Module:
  """A model's parameters as shapes: nothing is drawn.

  `nnx.Rngs` counts its draws in a variable, and tracing each of them makes the time grow
  with the square of the number of layers. Here all keys are the same, since none is used.
  """
  return nnx.eval_shape(lambda: make(_OneKey()))


def run(
  step: Callable[[jax.Array, Any], tuple[*tuple[jax.Array, ...], Any]],
  x_BFHWC: jax.Array,
  spans: Sequence[Span],
) -> tuple[jax.Array, ...]:
  """Runs `step(frames, cache) -> (*outputs, cache)` over spans of a clip.

  Returns:
    Each output, with the spans' frames concatenated.
  """
  cache, parts = None, []
  for start, stop in spans:
    *outputs, cache = step(x_BFHWC[:, start:stop], cache)
    parts.append(outputs)
  return tuple(jnp.concatenate(part, axis=1) for part in zip(*parts, strict=True))
