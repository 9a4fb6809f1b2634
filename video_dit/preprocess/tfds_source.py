"""TFDS data sets as input, read at random and without TensorFlow.

The data set must be prepared in ArrayRecord format. Its features must hold a `video`
`(F, H, W, C)` or an `image` `(H, W, C)` of uint8; a `caption`, a `label` and a rate
(`frames_per_second` or `fps`) are used if present.
"""

from collections.abc import Iterator
import functools
import os
import re
from typing import Any

import numpy as np

from video_dit import config as config_lib
from video_dit.data import shards
from video_dit.media import errors
from video_dit.preprocess import inputs

MEDIA_NAMES = ("video", "clip", "image")
CAPTION_NAMES = ("caption", "text", "prompt", "label")
RATE_NAMES = ("frames_per_second", "fps")
_SEPARATOR = "\n"


def lines(name: str) -> Iterator[inputs.Line]:
  """Yields a line a record of `name[:split]`, a registered name or a folder.

  Raises:
    ValueError: unknown data set or split, not in ArrayRecord format, or features
      without media.
  """
  if os.path.isdir(name):
    name, split = os.path.abspath(name), ""
  else:
    name, _, split = name.partition(":")
    name = os.path.abspath(name) if os.path.isdir(name) else name
  builder = _builder(name)
  _media_name(name, builder)
  splits = {s: info.num_examples for s, info in builder.info.splits.items()}
  if not splits:
    raise ValueError(
      f"--input=tfds:{name}: the data set is not prepared. Prepare it in ArrayRecord"
      " format: tfds build --file_format=array_record."
    )
  if split and split not in splits:
    raise ValueError(
      f"--input=tfds:{name}:{split}: no such split. Splits: {', '.join(splits)}."
    )
  for each in [split] if split else sorted(splits):
    _source(name, each)
  return _lines(name, {s: n for s, n in splits.items() if split in ("", s)})


def _lines(name: str, splits: dict[str, int]) -> Iterator[inputs.Line]:
  info = os.path.join(_builder(name).data_dir, "dataset_info.json")
  made = os.stat(info).st_mtime_ns if os.path.isfile(info) else 0
  for split in sorted(splits):
    for record in range(splits[split]):
      yield inputs.Line(
        path=f"{name}:{split}/{record}",
        file=_SEPARATOR.join((name, split, str(made))),
        record=record,
        caption=None,
        split=inputs.SPLITS.get(split, ""),
      )


def read(
  file: str, record: int, media: config_lib.Media
) -> tuple[np.ndarray, float, str]:
  """Reads one record.

  Args:
    file: as `lines` wrote it.
    record: index in the split.
    media: the wanted rate, and limits.

  Returns:
    The clip `(F, H, W, 3)` uint8, its frames per second (0 for an image), its caption.

  Raises:
    MediaError: the record holds no usable clip.
  """
  name, split, _ = file.split(_SEPARATOR)
  where = f"{shown(file)}/{record}"
  source = _source(name, split)
  features = _builder(name).info.features
  try:
    example = features.deserialize_example_np(source[record])
  except Exception as error:
    raise errors.MediaError(where, "unreadable", str(error)) from error
  clip = np.asarray(example[_media_name(name, _builder(name))])
  clip = clip[None] if clip.ndim == 3 else clip
  if clip.ndim != 4 or clip.dtype != np.uint8 or clip.shape[-1] not in (1, 3):
    message = f"{clip.dtype}{clip.shape} is not a uint8 clip with 1 or 3 channels"
    raise errors.MediaError(where, "unsupported", message)
  if clip.shape[1] * clip.shape[2] > media.max_source_pixels:
    message = f"{clip.shape[2]}x{clip.shape[1]} exceeds config.media.max_source_pixels"
    raise errors.MediaError(where, "too_large", message)
  clip_FHWC = np.broadcast_to(clip, (*clip.shape[:3], 3))
  caption = next(
    (_text(features[n], example[n]) for n in CAPTION_NAMES if n in example), ""
  )
  if len(clip_FHWC) == 1:
    return clip_FHWC, 0.0, caption
  own = next((float(example[n]) for n in RATE_NAMES if n in example), 0.0)
  rate = media.frames_per_second or own
  if not rate:
    message = "the data set has no frame rate; set config.media.frames_per_second"
    raise errors.MediaError(where, "unsupported", message)
  if own and own != rate:
    count = max(1, int(len(clip_FHWC) * rate / own + 1e-6))
    index = np.floor(np.arange(count) * own / rate + 1e-6).astype(int)
    clip_FHWC = clip_FHWC[np.minimum(index, len(clip_FHWC) - 1)]
  return clip_FHWC, rate, caption


def shown(file: str) -> str:
  """The data set and split of `Line.file`, for messages."""
  return ":".join(file.split(_SEPARATOR)[:2])


def _text(feature: Any, value: Any) -> str:
  """A caption from text, from a class label, or the first of several."""
  while isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value):
    if not len(value):
      return ""
    value, feature = value[0], getattr(feature, "feature", feature)
  if isinstance(value, bytes):
    return value.decode("utf-8", "replace")
  if isinstance(value, str):
    return value
  names = getattr(feature, "int2str", None)
  if names is None or getattr(feature, "num_classes", None) is None:
    return str(value)
  return re.sub(r"[_\s]+", " ", names(int(value))).strip()


@functools.cache
def _builder(name: str) -> Any:
  import tensorflow_datasets as tfds

  try:
    if os.path.isdir(name):
      return tfds.builder_from_directory(name)
    return tfds.builder(name, file_format="array_record")
  except Exception as error:
    text = str(error).strip().split("\n")[0]
    raise ValueError(
      f"--input=tfds:{name}: TFDS could not open it ({type(error).__name__}: {text})."
      " Name a prepared data set, or its folder."
    ) from error


@functools.cache
def _source(name: str, split: str) -> shards.Shards:
  """The bytes of the records of a split."""
  try:
    _builder(name).as_data_source(split)  # which would keep all shards open
  except Exception as error:
    text = str(error).strip().split("\n")[0]
    raise ValueError(
      f"--input=tfds:{name}: split {split!r} cannot be read at random ({text})."
      " Prepare it in ArrayRecord format: tfds build --file_format=array_record."
    ) from error
  info = _builder(name).info.splits[split]
  return shards.Shards([os.fspath(path) for path in info.filepaths], info.shard_lengths)


def _media_name(name: str, builder: Any) -> str:
  found = next((n for n in MEDIA_NAMES if n in builder.info.features), None)
  if found is None:
    raise ValueError(
      f"--input=tfds:{name}: its features are {', '.join(builder.info.features)}; one"
      f" of them must be named {', '.join(MEDIA_NAMES)}."
    )
  return found
