"""The frozen text encoder: captions in, float16 vectors out, no padding kept.

A caption is padded to the least of a few lengths that holds it, whatever else is
encoded with it, in groups of one size for each length. So there are few compiled
shapes, and a caption's encoding does not depend on its company.
"""

from collections.abc import Mapping
import functools
import hashlib
import json
import os
import pathlib
from typing import Protocol

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from video_dit import config, files
from video_dit.models.text import tokenizer as tokenizers
from video_dit.models.text.t5 import T5Config, T5Encoder
from video_dit.parallel import hosts

TOKENIZER = "spiece.model"
WEIGHTS = "encoder.safetensors"
DESCRIPTION = "encoder.json"
SETTINGS = "preprocess.json"  # of the encoder that a data set was made with
RANDOM = (  # what users are told of such an encoder
  "random weights, which know no meanings of words: name a published encoder with"
  " config.text.checkpoint (docs/checkpoints.md)"
)
_SHORTEST = 16
_DAMAGED = "Copy the folder again, or rebuild the data set."
_GROUP_TOKENS = 1024

# What determines a caption's encoding, besides weights and tokenizer.
_SIZES = (
  *("width", "depth", "heads", "head_size", "mlp_width"),
  *("buckets", "max_distance", "max_tokens"),
)


class Tokenizer(Protocol):
  """What an encoder needs of a tokenizer.

  Attributes:
    vocabulary: number of ids.
    pad, end: ids.
    length: of every text in ids, padding included; None where texts have their own.
    files: content by name.
  """

  vocabulary: int
  pad: int
  end: int
  length: int | None

  @property
  def files(self) -> Mapping[str, bytes]:
    """Content by name."""

  def encode(self, text: str) -> list[int]:
    """Ids of a text, the end included."""


class TextEncoder:
  """A tokenizer and an encoder with its weights.

  Attributes:
    text: the settings.
    tokenizer: captions to ids.
    params: the weights, a tree of arrays.
    width: length of a token's vector.
    random: the weights are random, not learned.
  """

  def __init__(
    self,
    text: config.Text,
    tokenizer: Tokenizer,
    params: dict,
    *,
    model: nnx.Module | None = None,
    mark: str | None = None,
    random: bool = False,
  ):
    """Puts an encoder together.

    Args:
      text: the settings; of a published encoder, only `dtype` and `max_tokens` count.
      tokenizer: captions to ids.
      params: the weights.
      model: what they belong to; None is the T5 encoder of the settings.
      mark: fingerprint; None computes it.
      random: the weights are random.
    """
    self.text, self.tokenizer, self.params, self.random = text, tokenizer, params, random
    model = _abstract(text, tokenizer.vocabulary) if model is None else model
    graphdef, _ = nnx.split(model)
    self.width: int = model.config.width  # type: ignore[attr-defined]
    self.max_tokens = tokenizer.length or text.max_tokens
    self._mark = mark
    self._apply = jax.jit(
      lambda params, *batch: nnx.merge(graphdef, params)(*batch, dtype=text.dtype)
    )

  @classmethod
  def load(cls, text: config.Text, folder: str | os.PathLike[str]) -> "TextEncoder":
    """Reads what `save` wrote; where the folder has a tokenizer only, draws weights.

    Args:
      text: settings. `text.checkpoint`, where set, names the folder of the weights.
      folder: holds `spiece.model`, and the weights if there are any.

    Raises:
      ValueError: a file is missing or damaged, or the weights are of other sizes.
    """
    folder = pathlib.Path(folder)
    tokenizer = tokenizers.Tokenizer(folder / TOKENIZER)
    if (folder / DESCRIPTION).is_file():
      params, random = _read(text, tokenizer.vocabulary, folder)
    elif text.checkpoint:
      params, random = _read(text, tokenizer.vocabulary, _checkpoint(text))
    else:
      params, random = _draw(text, tokenizer.vocabulary), True
    return cls(text, tokenizer, params, random=random)

  def save(self, folder: str | os.PathLike[str]) -> None:
    """Writes tokenizer, weights and description; the description last."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = {
      **_sizes(self.text),
      "vocabulary": self.tokenizer.vocabulary,
      "random": self.random,
      "dtype": self.text.dtype,
      "fingerprint": self.fingerprint,
    }
    files.write(folder / TOKENIZER, self.tokenizer.files[TOKENIZER])
    with files.replacing(folder / WEIGHTS) as unfinished:
      safetensors.numpy.save_file(_flatten(self.params), unfinished)
    files.write(folder / DESCRIPTION, json.dumps(description, indent=2))

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 of sizes, weights and tokenizer: all that an encoding depends on."""
    if self._mark is not None:
      return self._mark
    decides = _sizes(self.text)
    if self.text.dtype != "float32":  # the default, left out of the fingerprint
      decides["dtype"] = self.text.dtype
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    for name, array in sorted(_flatten(self.params).items()):
      digest.update(f"{name} {array.shape} {array.dtype}".encode())
      digest.update(array.tobytes())
    digest.update(self.tokenizer.files[TOKENIZER])
    return digest.hexdigest()

  def tokens(self, caption: str) -> list[int]:
    """Ids of a caption, at most `max_tokens`; one that is cut still has its end."""
    ids = self.tokenizer.encode(caption)
    if len(ids) > self.max_tokens:
      ids = [*ids[: self.max_tokens - 1], self.tokenizer.end]
    return [*ids, *[self.tokenizer.pad] * ((self.tokenizer.length or 0) - len(ids))]

  def is_cut(self, caption: str) -> bool:
    """Whether a caption has more tokens than are kept."""
    return len(self.tokenizer.encode(caption)) > self.max_tokens

  def encode(self, captions: list[str]) -> list[np.ndarray]:
    """Encodes captions; each comes out `(tokens, width)` float16, its end included.

    What float16 cannot hold comes out infinite.
    """
    ids = [self.tokens(caption) for caption in captions]
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(ids):
      length = self.tokenizer.length or padded_length(len(row))
      by_length.setdefault(length, []).append(index)
    encodings: list[np.ndarray] = [np.empty(0)] * len(ids)
    for length, indices in sorted(by_length.items()):
      size = group_size(length)
      for start in range(0, len(indices), size):
        group = indices[start : start + size]
        out_BLE = self._encode([ids[i] for i in group], size, length)
        for i, out_LE in zip(group, out_BLE, strict=False):
          with np.errstate(over="ignore"):
            encodings[i] = out_LE[: len(ids[i])].astype(np.float16)
    return encodings

  def _encode(self, rows: list[list[int]], size: int, length: int) -> np.ndarray:
    ids_BL = np.full((size, length), self.tokenizer.pad, np.int32)
    mask_BL = np.zeros((size, length), bool)
    for row, ids in enumerate(rows):
      ids_BL[row, : len(ids)], mask_BL[row, : len(ids)] = ids, True
    return hosts.fetch(self._apply(self.params, *jax.device_put((ids_BL, mask_BL))))


def fingerprint(text: config.Text) -> str | None:
  """Fingerprint of the encoder that the settings name; None where they name no weights.

  It is read from the description where that is of the same settings, which saves reading
  gigabytes of weights.

  Raises:
    ValueError: a file is missing or damaged, or the weights are of other sizes.
  """
  if not text.checkpoint:
    return None
  folder = _checkpoint(text)
  beside = folder / TOKENIZER
  model = pathlib.Path(text.tokenizer).expanduser() if text.tokenizer else beside
  tokenizer = tokenizers.Tokenizer(model / TOKENIZER if model.is_dir() else model)
  description = folder / DESCRIPTION
  if description.is_file() and beside.is_file():
    found = files.read_json(description, _DAMAGED)
    alike = all(found.get(name) == size for name, size in _sizes(text).items())
    alike = alike and found.get("dtype", "float32") == text.dtype
    if alike and beside.read_bytes() == tokenizer.model and "fingerprint" in found:
      return found["fingerprint"]
  params, _ = _read(text, tokenizer.vocabulary, folder)
  return TextEncoder(text, tokenizer, params).fingerprint


def group_size(length: int) -> int:
  """Captions of a length in tokens that are encoded at once."""
  return max(1, _GROUP_TOKENS // length)


def padded_length(tokens: int) -> int:
  """The length that a caption is padded to: a power of two, 16 at least."""
  return max(_SHORTEST, 1 << (tokens - 1).bit_length())


def _checkpoint(text: config.Text) -> pathlib.Path:
  return pathlib.Path(text.checkpoint).expanduser()


def _sizes(text: config.Text) -> dict[str, int | str]:
  return {name: getattr(text, name) for name in _SIZES}


def _abstract(text: config.Text, vocabulary: int) -> T5Encoder:
  return nnx.eval_shape(
    lambda: T5Encoder(T5Config.of(text, vocabulary), rngs=nnx.Rngs(0))
  )


def _draw(text: config.Text, vocabulary: int) -> dict:
  @jax.jit
  def draw(key):
    model = T5Encoder(T5Config.of(text, vocabulary), rngs=nnx.Rngs(key))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))

  return draw(jax.random.key(text.seed))


def _flatten(params: dict) -> dict[str, np.ndarray]:
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
  return {
    ".".join(str(key.key) for key in path): np.ascontiguousarray(leaf)
    for path, leaf in leaves
  }


def is_random(text: config.Text, folder: str | os.PathLike[str]) -> bool:
  """Whether the encoder of a data set has random weights, as far as its files say.

  Args:
    text: the settings that it was made with.
    folder: `OUT/text` of the data set.
  """
  for place in (folder, text.checkpoint):
    description = pathlib.Path(place).expanduser() / DESCRIPTION
    if place and description.is_file():
      return bool(json.loads(description.read_text(encoding="utf-8")).get("random"))
  return False


def _read(text: config.Text, vocabulary: int, folder: pathlib.Path) -> tuple[dict, bool]:
  """Weights of a folder that `save` wrote, and whether they are random."""
  description = folder / DESCRIPTION
  if not description.is_file():
    raise ValueError(
      f"config.text.checkpoint={str(folder)!r}: no {DESCRIPTION} there, so it is not a"
      " text encoder that was saved here. Give the `text` folder of a preprocessed data"
      " set or a published encoder, or leave it empty to draw frozen random weights."
    )
  found = files.read_json(description, _DAMAGED)
  for name, wanted in (*_sizes(text).items(), ("vocabulary", vocabulary)):
    if name == "max_tokens":  # not a size of the weights; the fingerprint tells
      continue
    if found.get(name) != wanted:
      raise ValueError(
        f"{folder}: the text encoder there has {name}={found.get(name)}, the config"
        f" {wanted}. Set config.text.{name} to that, or rebuild the data set."
      )
  try:
    stored = safetensors.numpy.load_file(folder / WEIGHTS)
  except (OSError, safetensors.SafetensorError) as e:
    raise ValueError(f"{folder / WEIGHTS}: cannot be read ({e}).") from e
  shapes = nnx.to_pure_dict(nnx.state(_abstract(text, vocabulary), nnx.Param))

  def take(path, shape):
    name = ".".join(str(key.key) for key in path)
    if name not in stored or stored[name].shape != shape.shape:
      got = stored[name].shape if name in stored else "nothing"
      raise ValueError(
        f"{folder / WEIGHTS}: {name} is {got}, expected {shape.shape}. The file does not"
        f" belong to the {DESCRIPTION} beside it; rebuild the data set."
      )
    return jnp.asarray(stored[name])

  return jax.tree_util.tree_map_with_path(take, shapes), bool(found.get("random"))
