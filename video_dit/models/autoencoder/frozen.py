"""An autoencoder with fixed weights: clips of bytes to normalised latents and back."""

from collections.abc import Iterable, Sequence
import copy
import hashlib
import pathlib
import threading
from typing import Any, Protocol
import warnings

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
import numpy as np

from video_dit.models.autoencoder.inside import Inside
from video_dit.parallel import hosts

# By default XLA orders steps so that they can run side by side, which takes more memory.
_OPTIONS = {"cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}}


class _Quiet:
  """Silences what JAX says of a chunk that is shorter than the one before it.

  The filters of `warnings` are those of all threads: the first that enters sets them, and
  the last that leaves puts them back.
  """

  def __init__(self):
    self._lock, self._inside = threading.Lock(), 0

  def __enter__(self) -> None:
    with self._lock:
      if not self._inside:
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.filterwarnings("ignore", message="Some donated buffers")
      self._inside += 1

  def __exit__(self, *_: Any) -> None:
    with self._lock:
      self._inside -= 1
      if not self._inside:
        self._caught.__exit__(None, None, None)


_QUIET = _Quiet()


class Model(Protocol):
  """What an autoencoder must be to be used frozen.

  Attributes:
    channels, space, time: of its latents.
    causal: the encoding of a prefix, in the same chunks, ignores later frames.
  """

  channels: int
  space: int
  time: int
  causal: bool

  def encode_spans(self, frames: int) -> Sequence[tuple[int, int]]:
    """First and one past the last frame of each chunk that `encode_chunk` takes."""

  def decode_spans(self, latents: int) -> Sequence[tuple[int, int]]:
    """The same for the latent frames that `decode_chunk` takes."""

  def encode_chunk(
    self, x_BFHWC: jax.Array, cache: Any, inside: Inside | None = None
  ) -> tuple:
    """Mean, log-variance and cache of the next chunk; the first has the cache None."""

  def decode_chunk(self, z_BFHWC: jax.Array, cache: Any) -> tuple:
    """Pixels, about [-1, 1], and cache of the next chunk."""


class Frozen:
  """An autoencoder with fixed weights, run in chunks.

  Device memory does not grow with a clip's length, and a few programs serve all lengths
  of a frame size.

  Attributes:
    model: whose weights these are; its own parameters are abstract.
    fingerprint: hash of its files.
    channels, space, time, causal: as the model's.
    mean, std: of its latents' channels, by which they are normalised.
  """

  def __init__(
    self,
    model: Any,
    params: dict,
    statistics: tuple[np.ndarray, np.ndarray],
    mark: str,
    *,
    mesh: jax.sharding.Mesh | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
  ):
    """Puts the weights on the devices.

    Args:
      model: a `Model`; its parameters may be abstract.
      params: pure dictionary of its parameters.
      statistics: mean and deviation `(c,)` of the latents.
      mark: the fingerprint.
      mesh: clips are split over all its devices; None uses the default device.
      dtype: of the arithmetic.
    """
    graph, state = nnx.split(model)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    self.model, self.fingerprint = nnx.merge(graph, shapes), mark
    self.channels, self.space, self.time = model.channels, model.space, model.time
    self.causal: bool = model.causal
    self.mean, self.std = statistics
    self._ways = 1 if mesh is None else mesh.size
    self._split: Any = None
    whole = None
    if mesh is not None:
      self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
      whole = NamedSharding(mesh, PartitionSpec())
    self._params = hosts.place(params, whole)
    self._statistics = hosts.place(statistics, whole)
    both = programs(graph, dtype)
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    # The cache of each chunk takes the place of the one before.
    self._encode, self._decode = (
      jax.jit(f, donate_argnums=3, compiler_options=_OPTIONS.get(platform)) for f in both
    )

  def parts(self) -> list["Frozen"]:
    """One for each device, to run different batches side by side; no weight is copied."""
    if self._split is None or self._ways == 1:
      return [self]
    return [self._on(device) for device in self._split.mesh.devices.flat]

  def _on(self, device: jax.Device) -> "Frozen":
    part = copy.copy(self)
    part._ways, part._split = 1, SingleDeviceSharding(device)

    def here(x: jax.Array) -> jax.Array:
      return next(s.data for s in x.addressable_shards if s.device == device)

    part._params, part._statistics = jax.tree.map(here, (self._params, self._statistics))
    return part

  def encode(self, clip_FHWC: np.ndarray) -> np.ndarray:
    """Encodes one clip; see `encode_batch`."""
    return self.encode_batch(clip_FHWC[None])[0]

  def decode(self, latent_FHWC: np.ndarray) -> np.ndarray:
    """Decodes one latent; see `decode_batch`."""
    return self.decode_batch(latent_FHWC[None])[0]

  def encode_batch(
    self, clips_BFHWC: np.ndarray, sizes_B2: np.ndarray | None = None
  ) -> np.ndarray:
    """Clips to normalised latents.

    Args:
      clips_BFHWC: uint8, 1 + time k frames, sides multiples of `space`.
      sizes_B2: height and width of each clip in pixels, where they are smaller than the
        buffer that holds them; multiples of `space`. What lies beyond them changes
        nothing, and all sizes share one program. Where `causal`, the same holds for
        frames after a clip's last one.

    Returns:
      Posterior means `(B, 1 + k, h, w, c)` float32, each channel of mean 0 and
      deviation 1 over the training data. Beyond a clip's size they are meaningless.

    Raises:
      ValueError: frames or sides off the grid.
    """
    _, frames, height, width, _ = clips_BFHWC.shape
    if (frames - 1) % self.time or height % self.space or width % self.space:
      raise ValueError(
        f"A clip of {frames} frames of {height}x{width} is off the autoencoder's grid:"
        f" frames must be 1 + a multiple of {self.time}, sides multiples of {self.space}."
      )
    inside = None
    if sizes_B2 is not None:
      inside = Inside(self._spread(np.asarray(sizes_B2, np.int32)), (height, width))
    spans = self.model.encode_spans(frames)
    return self._stream(self._encode, clips_BFHWC, spans, inside)

  def decode_batch(self, latents_BFHWC: np.ndarray) -> np.ndarray:
    """Normalised latents to clips.

    Args:
      latents_BFHWC: `(B, 1 + k, h, w, c)`, as `encode_batch` returns them.

    Returns:
      Clips `(B, 1 + time k, H, W, 3)` uint8.

    Raises:
      ValueError: another number of channels than the autoencoder's.
    """
    _, count, _, _, channels = latents_BFHWC.shape
    if channels != self.channels:
      raise ValueError(
        f"Latents with {channels} channels: this autoencoder's have {self.channels}."
      )
    latents_BFHWC = np.asarray(latents_BFHWC, np.float32)
    spans = self.model.decode_spans(count)
    clips_BFHWC = self._stream(self._decode, latents_BFHWC, spans)
    # A model that makes `time` frames of the first latent frame too repeats them.
    return clips_BFHWC[:, -(1 + self.time * (count - 1)) :]

  def _spread(self, array_B: np.ndarray) -> jax.Array:
    """Puts a batch on the devices, padded with copies of its first clip."""
    count = len(array_B)
    # Powers of two bound the number of batch sizes that are compiled.
    each = -(-count // self._ways)
    size = self._ways << (each - 1).bit_length()
    if size > count:
      more_B = np.broadcast_to(array_B[:1], (size - count, *array_B.shape[1:]))
      array_B = np.concatenate([array_B, more_B])
    return hosts.place(array_B, self._split)

  def _stream(
    self, program, x_BFHWC: np.ndarray, spans: Iterable[tuple[int, int]], *more: Any
  ) -> np.ndarray:
    """Runs a program over a clip's chunks; the next one runs while one is fetched."""
    cache: Any = None
    parts: list[Any] = []
    for start, stop in spans:
      chunk = self._spread(np.ascontiguousarray(x_BFHWC[:, start:stop]))
      with _QUIET:
        out, cache = program(self._params, self._statistics, chunk, cache, *more)
      if parts:
        parts[-1] = hosts.fetch(parts[-1])
      parts.append(out)
    return np.concatenate(hosts.fetch(parts), axis=1)[: len(x_BFHWC)]


def programs(graph, dtype):
  """The two chunk programs as pure functions of parameters and statistics."""

  def encode(params, statistics, clips_BFHWC, cache, inside):
    model = nnx.merge(graph, params)
    pixels = to_unit(clips_BFHWC).astype(dtype)
    mean, _, cache = model.encode_chunk(pixels, cache, inside)
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
  """Bytes of any shape to float32 in [-1, 1], of the same shape."""
  return pixels.astype(jnp.float32) / 127.5 - 1.0


def to_bytes(pixels: jax.Array) -> jax.Array:
  """Floats of any shape in [-1, 1] to uint8 of the same shape; clips the rest."""
  return jnp.clip(jnp.round((pixels + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


def hash_files(paths: Iterable[pathlib.Path]) -> str:
  """SHA-256 of the bytes of files in this order, its first 32 hexadecimal digits."""
  digest = hashlib.sha256()
  for path in paths:
    with path.open("rb") as file:
      while block := file.read(1 << 24):
        digest.update(block)
  return digest.hexdigest()[:32]
