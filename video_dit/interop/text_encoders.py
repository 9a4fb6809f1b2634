"""The text encoder that `config.text.checkpoint` names, ready for use.

It is this project's own, as `preprocess` saved it, or a published one of any format that
`registry.load` knows: callers that encode captions need not know which.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

from absl import logging
from flax import nnx
import jax
import numpy as np

from video_dit import config as config_lib
from video_dit.interop import clip, registry, t5
from video_dit.interop.loaded import Loaded
from video_dit.interop.tensors import Tensors, open_tensors
from video_dit.models.text import bpe, cleaning, unigram
from video_dit.models.text import encoder as encoder_lib

Tokenizer = unigram.PublishedTokenizer | bpe.ClipTokenizer
_FAMILIES = (t5, clip)


def is_published(text: config_lib.Text) -> bool:
  """Whether the settings name an encoder that was not saved by this project."""
  if not text.checkpoint:
    return False
  return not (_path(text) / encoder_lib.DESCRIPTION).is_file()


def text_encoder(
  text: config_lib.Text,
  folder: str | os.PathLike[str] | None = None,
  *,
  mesh: jax.sharding.Mesh | None = None,
) -> encoder_lib.TextEncoder:
  """Reads the text encoder of a data set, or the one that the settings name.

  Args:
    text: the settings.
    folder: `OUT/text` of the data set, which holds the tokenizer; and the weights, where
      they are not published ones. None takes both from where the settings say.
    mesh: over all of whose axes but `data` published weights are laid; None or one
      without these puts them on the default device.

  Raises:
    ValueError: a file is missing or damaged, or the weights do not fit.
  """
  if not is_published(text):
    return encoder_lib.TextEncoder.load(text, folder or _path(text))
  tensors = _tensors(text)
  kind = _kind(text, tensors)
  tokenizer = _tokenizer(kind, folder or _tokenizer_path(text, tensors))
  _check(text, kind, tensors, tokenizer)
  loaded = registry.load(_path(text), dtype=text.dtype, mesh=laid_over(mesh))
  if isinstance(tokenizer, bpe.ClipTokenizer):
    tokenizer.length = loaded.config.positions
  licence = loaded.licence or "unknown: see where they come from"
  logging.info("%s: %s, licence of the weights %s", tensors.path, loaded.kind, licence)
  _, state = nnx.split(loaded.model)
  return encoder_lib.TextEncoder(
    text,
    tokenizer,
    nnx.to_pure_dict(state),
    model=loaded.model,
    mark=_mark(text, kind, tensors, tokenizer),
  )


def abstract_text_encoder(
  text: config_lib.Text, mesh: jax.sharding.Mesh | None
) -> Loaded:
  """A published text encoder's shapes and layouts, as `text_encoder` has them.

  Raises:
    ValueError: no encoder there, or a damaged one.
  """
  _kind(text, _tensors(text))
  return registry.load(_path(text), dtype=text.dtype, mesh=laid_over(mesh), abstract=True)


def laid_over(mesh: jax.sharding.Mesh | None) -> jax.sharding.Mesh | None:
  """The mesh that published weights are laid over; None: on the default device."""
  return mesh if mesh is not None and mesh.size > mesh.shape["data"] else None


def text_fingerprint(text: config_lib.Text) -> str | None:
  """Fingerprint of the encoder that the settings name; None where they name no weights.

  Raises:
    ValueError: a file is missing or damaged, or the weights are of other sizes.
  """
  if not is_published(text):
    return encoder_lib.fingerprint(text)
  tensors = _tensors(text)
  kind = _kind(text, tensors)
  return _mark(text, kind, tensors, _tokenizer(kind, _tokenizer_path(text, tensors)))


def text_tokenizer(text: config_lib.Text) -> Tokenizer:
  """The tokenizer of a published encoder; of the weights only names and shapes are read.

  Raises:
    ValueError: no encoder or no tokenizer there, a damaged one, or they do not fit.
  """
  tensors = _tensors(text)
  kind = _kind(text, tensors)
  tokenizer = _tokenizer(kind, _tokenizer_path(text, tensors))
  _check(text, kind, tensors, tokenizer)
  return tokenizer


def _check(
  text: config_lib.Text, kind: str, tensors: Tensors, tokenizer: Tokenizer
) -> None:
  """Refuses a tokenizer with more ids than the weights have, and weights of no model."""
  said = registry.read_config(tensors)
  sizes = clip.sizes(said, tensors) if kind == "clip_text" else t5.sizes(said, tensors)
  if tokenizer.vocabulary > sizes.vocabulary:
    raise ValueError(
      f"config.text.checkpoint={text.checkpoint!r} has {sizes.vocabulary} ids,"
      f" its tokenizer has {tokenizer.vocabulary}. Set config.text.tokenizer to the"
      " tokenizer that belongs to it."
    )


def _path(text: config_lib.Text) -> pathlib.Path:
  return pathlib.Path(text.checkpoint).expanduser()


def _tensors(text: config_lib.Text) -> Tensors:
  try:
    return open_tensors(_path(text))
  except ValueError as e:
    raise ValueError(
      f"config.text.checkpoint={text.checkpoint!r}: neither {encoder_lib.DESCRIPTION} nor"
      f" a published checkpoint is there. Name the `text` folder of a data set, or a"
      f" published encoder's folder or file. ({e})"
    ) from e


def _kind(text: config_lib.Text, tensors: Tensors) -> str:
  """The kind of a text encoder by its files."""
  said = registry.read_config(tensors)
  for family in _FAMILIES:
    if family.matches(said, tensors):
      return family.kind(said, tensors)
  first = ", ".join(list(tensors.names)[:3])
  raise ValueError(
    f"config.text.checkpoint={text.checkpoint!r} is not a T5 v1.1, UMT5 or CLIP encoder"
    f" (its first tensors are {first}). Name one's folder or file; in a pipeline it is"
    " the folder `text_encoder`."
  )


def _tokenizer_path(text: config_lib.Text, tensors: Tensors) -> pathlib.Path:
  """Path of the tokenizer: as configured, with the weights, or where the peers put it."""
  if text.tokenizer:
    path = pathlib.Path(text.tokenizer).expanduser()
    if not path.exists():
      raise ValueError(
        f"config.text.tokenizer={text.tokenizer!r} does not exist. Name a tokenizer's"
        " folder or file."
      )
    return path
  folder = tensors.folder
  named = folder.name.replace("text_encoder", "tokenizer")
  places = [folder, folder / "tokenizer", folder.parent / named]
  places += sorted((folder / "google").glob("*"))  # as in Wan's own repositories
  names = (unigram.MODEL, unigram.WHOLE, bpe.VOCABULARY)
  for place in places:
    if any((place / name).is_file() for name in names):
      return place
  raise ValueError(
    f"config.text.checkpoint={text.checkpoint!r}: there is no tokenizer"
    f" ({', '.join(names)}) in {folder} or beside it. Set config.text.tokenizer to"
    " its folder or file."
  )


def _tokenizer(kind: str, path: str | os.PathLike[str]) -> Tokenizer:
  """Wan, whose encoder is UMT5, was trained on cleaned prompts."""
  if kind == "clip_text":
    return bpe.ClipTokenizer.load(path)
  clean = cleaning.clean if kind == "umt5" else None
  return unigram.PublishedTokenizer.load(path, clean=clean)


def _mark(
  text: config_lib.Text, kind: str, tensors: Tensors, tokenizer: Tokenizer
) -> str:
  """SHA-256 of settings, weights and tokenizer; however the weights are sharded."""
  family = clip if kind == "clip_text" else t5
  said = family.own_config(registry.read_config(tensors))
  decides: dict[str, Any] = {"kind": kind, "dtype": text.dtype}
  if tokenizer.length is None:
    decides["max_tokens"] = text.max_tokens
  if said:
    decides["said"] = {k: v for k, v in said.items() if k in _DECISIVE}
  digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
  for name in family.own(tensors):
    info = tensors.names[name]
    digest.update(f"{name} {info.shape} {info.dtype}".encode())
    digest.update(tensors.read(name).reshape(-1).view(np.uint8).data)
  for name, content in sorted(tokenizer.files.items()):
    digest.update(name.encode() + b"\0" + content)
  return digest.hexdigest()


# Of a config.json: what changes an encoding beside the shapes.
_DECISIVE = (
  *("num_heads", "num_attention_heads", "relative_attention_max_distance"),
  *("layer_norm_epsilon", "layer_norm_eps", "hidden_act"),
)
