"""What one record contains, and what made it.

A data set of kind `latents` feeds the diffusion transformer; one of kind `pixels` feeds
the autoencoder's training. Both are ordinary TFDS data sets in ArrayRecord format,
written and read without TensorFlow. Besides TFDS's own files a set contains

    provenance.json   what made it: fingerprints and sizes of the encoders
    empty.npy         the encoding of the empty caption (latents only)
    index.parquet     one line a record, so that planning reads no record
    parts/            what the writer needs to resume after a kill
"""

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import typing
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from video_dit import files

Kind = Literal["latents", "pixels"]
SPLITS = ("train", "validation")
VERSION = "1.0.0"
PROVENANCE = "provenance.json"
EMPTY = "empty.npy"
INDEX = "index.parquet"
# Most levels up from a set's folder to a path that is stored relative to it: from
# `OUT/latents` to anything beside OUT.
_STEPS_UP = 2
_PATHS = ("autoencoder_path", "text_path")


_NO_TOKENS = np.empty(0, np.int32)
_NO_WEIGHTS = np.empty(0, np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LatentRecord:
  """One encoded clip.

  Attributes:
    key: 32 hexadecimal digits; the same media and settings give the same key.
    latent: `(t, h, w, c)` float16, normalised by the autoencoder's statistics.
    text: `(tokens, width)` float16, the caption's encoding, no padding stored.
    caption: the text itself.
    frames_per_second: of the clip; 0 for an image that has none.
    frames, height, width: of the clip in pixels, before the autoencoder.
    start_seconds: where the clip starts in its source.
    more_captions: captions of the clip besides `caption`, which has the largest weight.
    more_text: `(sum of tokens, width)` float16, their encodings end to end.
    more_tokens: `(n,)` int32, tokens of each of them.
    caption_weights: `(1 + n,)` float32 of `caption` and the others; empty where there
      is one caption.
  """

  key: str
  latent: np.ndarray
  text: np.ndarray
  caption: str
  frames_per_second: float
  frames: int
  height: int
  width: int
  start_seconds: float = 0.0
  more_captions: tuple[str, ...] = ()
  more_text: np.ndarray | None = None
  more_tokens: np.ndarray = dataclasses.field(default_factory=lambda: _NO_TOKENS)
  caption_weights: np.ndarray = dataclasses.field(default_factory=lambda: _NO_WEIGHTS)

  def line(self) -> dict[str, Any]:
    """The record's line of the index; its text tokens count the longest caption."""
    t, h, w, _ = self.latent.shape
    tokens = max([len(self.text), *self.more_tokens.tolist()])
    captions = [self.caption, *self.more_captions]
    weights = [float(x) for x in self.caption_weights] or [1.0]
    return _line(self, t, h, w, tokens) | {
      "captions": captions,
      "caption_weights": weights,
    }

  def with_captions(
    self, captions: Sequence[str], texts: Sequence[np.ndarray], weights: Sequence[float]
  ) -> "LatentRecord":
    """The record with further captions, their encodings, and the weights of all."""
    if not captions:
      return self
    return dataclasses.replace(
      self,
      more_captions=tuple(captions),
      more_text=np.concatenate(texts),
      more_tokens=np.array([len(text) for text in texts], np.int32),
      caption_weights=np.array(weights, np.float32),
    )

  def draw_text(self, number: float) -> np.ndarray:
    """The encoding `(tokens, width)` of one caption, chosen by weight.

    Args:
      number: in [0, 1), drawn uniformly.
    """
    if not self.more_captions:
      return self.text
    assert self.more_text is not None, "written with the captions"
    ends = np.cumsum(self.caption_weights, dtype=np.float64)
    i = int(np.searchsorted(ends, number * ends[-1], side="right"))
    if i == 0:
      return self.text
    last = int(self.more_tokens[:i].sum())
    return self.more_text[last - int(self.more_tokens[i - 1]) : last]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PixelRecord:
  """One clip as pixels.

  Attributes:
    clip: `(frames, height, width, 3)` uint8.
    Others: as in `LatentRecord`.
  """

  key: str
  clip: np.ndarray
  caption: str
  frames_per_second: float
  start_seconds: float = 0.0

  def line(self) -> dict[str, Any]:
    """The record's line of the index."""
    frames, height, width, _ = self.clip.shape
    return _line(self, frames, height, width, 0)


Record = LatentRecord | PixelRecord


def _line(record: Record, t: int, h: int, w: int, text_tokens: int) -> dict[str, Any]:
  return {
    "key": record.key,
    "t": t,
    "h": h,
    "w": w,
    "text_tokens": text_tokens,
    "frames_per_second": float(record.frames_per_second),
    "caption": record.caption,
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metadata:
  """What made a data set; by it, another autoencoder or text encoder is refused.

  Attributes:
    kind: `latents` or `pixels`.
    settings: fingerprint of the settings that cut the clips.
    autoencoder, autoencoder_path: fingerprint and folder of the autoencoder. A folder
      near the set is stored relative to it, so that both can move together.
    channels, space, time: latent channels, pixels per latent row or column, and frames
      per latent frame after the first; 3, 1, 1 for pixels.
    text, text_path, text_width: fingerprint, folder and width of the text encoder.
    several: records have room for more than one caption.
    empty: `(tokens, width)` float16, the empty caption's encoding.
    folder: where it was loaded from; not stored.
  """

  kind: Kind
  settings: str = ""
  autoencoder: str = ""
  autoencoder_path: str = ""
  channels: int = 3
  space: int = 1
  time: int = 1
  text: str = ""
  text_path: str = ""
  text_width: int = 0
  several: bool = False
  empty: np.ndarray | None = dataclasses.field(default=None, compare=False)
  folder: str = dataclasses.field(default="", compare=False)

  def save(self, folder: str | os.PathLike) -> None:
    """Writes `provenance.json` and, where there is one, the empty caption's encoding."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if self.empty is not None:
      empty = np.asarray(self.empty, np.float16)
      with files.replacing(folder / EMPTY) as unfinished, unfinished.open("wb") as file:
        np.save(file, empty, allow_pickle=False)
    fields = {
      f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.compare
    }
    fields |= {name: _stored(fields[name], folder) for name in _PATHS}
    text = json.dumps(fields, indent=2) + "\n"
    files.write(folder / PROVENANCE, text)

  @classmethod
  def load(cls, folder: str | os.PathLike) -> "Metadata":
    """Reads what `save` wrote.

    Raises:
      ValueError: the folder is not a data set of video_dit, or the file is damaged.
    """
    folder = pathlib.Path(folder)
    path = folder / PROVENANCE
    if not path.is_file():
      raise ValueError(
        f"{folder}: no data set here ({PROVENANCE} is missing). Run"
        " `python -m video_dit.preprocess` with this output, or correct data.path."
      )
    fields = files.read_json(path, "Restore it, or preprocess again into another folder.")
    if fields.get("kind") not in typing.get_args(Kind):
      raise ValueError(
        f"{path}: its kind is {fields.get('kind')!r}, not one of {typing.get_args(Kind)}."
        " Restore it, or preprocess again into another folder."
      )
    known = {f.name for f in dataclasses.fields(cls) if f.compare}
    if unknown := sorted(set(fields) - known):
      raise ValueError(
        f"{path}: unknown fields {unknown}; the set was written by another version."
        " Preprocess again, or use the version that wrote it."
      )
    fields |= {name: _resolved(fields.get(name, ""), folder) for name in _PATHS}
    empty = folder / EMPTY
    return cls(
      **fields,
      empty=np.load(empty, allow_pickle=False) if empty.is_file() else None,
      folder=str(folder),
    )


def _stored(path: str, folder: pathlib.Path) -> str:
  """A path as it is stored in the set's folder; "" stays."""
  if not path:
    return ""
  relative = os.path.relpath(path, folder)
  near = pathlib.PurePath(relative).parts.count("..") <= _STEPS_UP
  return pathlib.PurePath(relative).as_posix() if near else os.path.abspath(path)


def _resolved(path: str, folder: pathlib.Path) -> str:
  """The absolute path that `_stored` made relative."""
  return os.path.abspath(folder / path) if path else ""


def features(metadata: Metadata) -> tfds.features.FeaturesDict:
  """TFDS features of a record; several unknown extents need `encoding='bytes'`."""
  f = tfds.features
  common = {
    "key": f.Text(),
    "caption": f.Text(),
    "frames_per_second": f.Scalar(np.float32),
    "start_seconds": f.Scalar(np.float32),
  }
  if metadata.kind == "pixels":
    clip = f.Tensor(shape=(None, None, None, 3), dtype=np.uint8, encoding="bytes")
    return f.FeaturesDict({**common, "clip": clip})
  if metadata.several:
    common |= {
      "more_captions": f.Sequence(f.Text()),
      "more_tokens": f.Tensor(shape=(None,), dtype=np.int32),
      "caption_weights": f.Tensor(shape=(None,), dtype=np.float32),
      "more_text": f.Tensor(
        shape=(None, metadata.text_width), dtype=np.float16, encoding="bytes"
      ),
    }
  return f.FeaturesDict(
    {
      **common,
      "frames": f.Scalar(np.int32),
      "height": f.Scalar(np.int32),
      "width": f.Scalar(np.int32),
      "latent": f.Tensor(
        shape=(None, None, None, metadata.channels), dtype=np.float16, encoding="bytes"
      ),
      "text": f.Tensor(
        shape=(None, metadata.text_width), dtype=np.float16, encoding="bytes"
      ),
    }
  )


def parse(metadata: Metadata, serialized: bytes) -> Record:
  """One record from its bytes, as TFDS would decode it but several times faster.

  Args:
    metadata: of the data set.
    serialized: a `tf.train.Example`; its arrays are not copied.
  """
  feature = tf_example_pb2.Example.FromString(serialized).features.feature

  def array(name: str, dtype: type, shape: Sequence[int]) -> np.ndarray:
    return np.frombuffer(feature[name].bytes_list.value[0], dtype).reshape(shape)

  def shape(name: str) -> Sequence[int]:
    return feature[f"{name}/shape"].int64_list.value

  common = {
    name: feature[name].bytes_list.value[0].decode() for name in ("key", "caption")
  } | {
    name: feature[name].float_list.value[0]
    for name in ("frames_per_second", "start_seconds")
  }
  if metadata.kind == "pixels":
    return PixelRecord(clip=array("clip/value", np.uint8, shape("clip")), **common)
  size = {
    name: feature[name].int64_list.value[0] for name in ("frames", "height", "width")
  }
  several: dict[str, Any] = {}
  if metadata.several and feature["more_captions"].bytes_list.value:
    captions = feature["more_captions"].bytes_list.value
    several = {
      "more_captions": tuple(caption.decode() for caption in captions),
      "more_text": array("more_text", np.float16, (-1, metadata.text_width)),
      "more_tokens": np.array(feature["more_tokens"].int64_list.value, np.int32),
      "caption_weights": np.array(
        feature["caption_weights"].float_list.value, np.float32
      ),
    }
  return LatentRecord(
    latent=array("latent/value", np.float16, shape("latent")),
    text=array("text", np.float16, (-1, metadata.text_width)),
    **common,
    **size,
    **several,
  )


def fields(metadata: Metadata, record: Record) -> dict[str, Any]:
  """What is stored of a record, by the names of `features`."""
  found = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
  if metadata.kind == "pixels":
    return found
  if metadata.several:
    if found["more_text"] is None:
      found["more_text"] = np.empty((0, metadata.text_width), np.float16)
    return found | {"more_captions": list(found["more_captions"])}
  if found["more_captions"]:
    raise ValueError(
      f"clip {found['key']} has {1 + len(found['more_captions'])} captions, but the data"
      " set here was created with one per clip. Pass --overwrite to rebuild it."
    )
  names = ("more_captions", "more_text", "more_tokens", "caption_weights")
  return {name: value for name, value in found.items() if name not in names}
