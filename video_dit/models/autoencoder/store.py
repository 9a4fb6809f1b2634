"""The frozen autoencoder on disk, and its use: clips to normalised latents and back.

A folder holds `autoencoder.json` (architecture, latent statistics) and
`weights.safetensors`; its fingerprint is the hash of both.
"""

from collections.abc import Iterator
import hashlib
import json
import os
import pathlib
from typing import Any

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
from safetensors import numpy as safetensors

from video_dit import config as config_lib
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
  digest = hashlib.sha256()
  for name in (DESCRIPTION, WEIGHTS):
    path = pathlib.Path(folder) / name
    if not path.is_file():
      raise ValueError(
        f"config.autoencoder.checkpoint={str(folder)!r}: {name} is not there. Name the"
        " `autoencoder` folder that a run of configs/autoencoder.py exported."
      )
    with path.open("rb") as file:
      while block := file.read(1 << 24):
        digest.update(block)
  return digest.hexdigest()[:32]


def load(
  folder: str | os.PathLike,
  *,
  mesh: jax.sharding.Mesh | None = None,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> "Frozen":
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
  shapes = nnx.eval_shape(lambda: Autoencoder(arch, rngs=nnx.Rngs(0)))
  graph, state = nnx.split(shapes)
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
  return Frozen(arch, graph, params, mean, std, mark, mesh, dtype)


class Frozen:
  """An autoencoder with fixed weights, run in chunks of one latent frame.

  Memory does not grow with a clip's length, and one pair of programs serves all
  lengths of a frame size.

  Attributes:
    arch: its architecture.
    fingerprint: hash of its files.
    channels, space, time: of its latents.
  """

  def __init__(self, arch, graph, params, mean, std, mark, mesh, dtype):
    self.arch, self.fingerprint = arch, mark
    self.channels, self.space, self.time = arch.channels, arch.space, arch.time
    self.mean, self.std = mean, std
    self._ways = 1 if mesh is None else mesh.size
    self._split = None
    whole = None
    if mesh is not None:
      self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
      whole = NamedSharding(mesh, PartitionSpec())
    self._params = jax.device_put(params, whole)
    self._statistics = jax.device_put((mean, std), whole)
    programs = _programs(graph, dtype)
    self._encode, self._decode = (jax.jit(f) for f in programs)

  def encode(self, clip_FHWC: np.ndarray) -> np.ndarray:
    """Encodes one clip; see `encode_batch`."""
    return self.encode_batch(clip_FHWC[None])[0]

  def decode(self, latent_FHWC: np.ndarray) -> np.ndarray:
    """Decodes one latent; see `decode_batch`."""
    return self.decode_batch(latent_FHWC[None])[0]

  def encode_batch(self, clips_BFHWC: np.ndarray) -> np.ndarray:
    """Clips to normalised latents.

    Args:
      clips_BFHWC: uint8, 1 + time k frames, sides multiples of `space`.

    Returns:
      Posterior means `(B, 1 + k, h, w, c)` float32, each channel of mean 0 and
      deviation 1 over the training data.

    Raises:
      ValueError: frames or sides off the grid.
    """
    _, frames, height, width, _ = clips_BFHWC.shape
    if (frames - 1) % self.time or height % self.space or width % self.space:
      raise ValueError(
        f"A clip of {frames} frames of {height}x{width} is off the autoencoder's grid:"
        f" frames must be 1 + a multiple of {self.time}, sides multiples of {self.space}."
      )
    return self._stream(self._encode, clips_BFHWC, self.time)

  def decode_batch(self, latents_BFHWC: np.ndarray) -> np.ndarray:
    """Normalised latents to clips, `(B, 1 + time k, H, W, 3)` uint8."""
    if latents_BFHWC.shape[-1] != self.channels:
      raise ValueError(
        f"Latents of {latents_BFHWC.shape[-1]} channels: this autoencoder's have"
        f" {self.channels}."
      )
    return self._stream(self._decode, np.asarray(latents_BFHWC, np.float32), 1)

  def _stream(self, program, x_BFHWC: np.ndarray, step: int) -> np.ndarray:
    """Runs a program over the first frame, then over `step` frames at a time."""
    count = x_BFHWC.shape[0]
    # Powers of two bound the number of batch sizes that are compiled.
    size = max(self._ways, 1 << (count - 1).bit_length())
    size += -size % self._ways
    pads = [(0, size - count)] + [(0, 0)] * 4
    cache, parts = None, []
    for chunk in _chunks(np.pad(x_BFHWC, pads), step):
      out, cache = program(
        self._params, self._statistics, jax.device_put(chunk, self._split), cache
      )
      parts.append(out)
    return np.concatenate(jax.device_get(parts), axis=1)[:count]


def _chunks(x_BFHWC: np.ndarray, step: int) -> Iterator[np.ndarray]:
  yield x_BFHWC[:, :1]
  for start in range(1, x_BFHWC.shape[1], step):
    yield x_BFHWC[:, start : start + step]


def _programs(graph, dtype):
  """The two chunk programs as pure functions of parameters and statistics."""

  def encode(params, statistics, clips_BFHWC, cache):
    model = nnx.merge(graph, params)
    mean, _, cache = model.encode_chunk(to_unit(clips_BFHWC).astype(dtype), cache)
    shift, scale = (s[None, None, None, None] for s in statistics)
    return (mean - shift) / scale, cache

  def decode(params, statistics, latents_BFHWC, cache):
    model = nnx.merge(graph, params)
    shift, scale = (s[None, None, None, None] for s in statistics)
    pixels, cache = model.decode_chunk(
      (latents_BFHWC * scale + shift).astype(dtype), cache
    )
    return to_bytes(pixels), cache

  return encode, decode


def to_unit(pixels: jax.Array) -> jax.Array:
  """Bytes to [-1, 1] float32."""
  return pixels.astype(jnp.float32) / 127.5 - 1.0


def to_bytes(pixels: jax.Array) -> jax.Array:
  """[-1, 1] to bytes, what lies outside clipped."""
  return jnp.clip(jnp.round((pixels + 1.0) * 127.5), 0, 255).astype(jnp.uint8)
