"""The text encoder of a data set, and the encodings of its captions."""

from collections.abc import Iterable
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any
import weakref

import jax
import numpy as np
import pyarrow.parquet

from video_dit import config as config_lib
from video_dit import files, interop
from video_dit.models.text import encoder as encoder_lib
from video_dit.models.text import tokenizer as tokenizer_lib

_TRAINING_CAPTIONS = 1_000_000
# What a tokenizer is trained on if no clip has a caption.
_NO_CAPTIONS = ("a video", "an image")


def prepare(
  text: config_lib.Text,
  folder: str | os.PathLike[str],
  clips: str | os.PathLike[str],
  *,
  overwrite: bool,
  mesh: jax.sharding.Mesh | None = None,
) -> encoder_lib.TextEncoder:
  """The text encoder of a data set: the existing one, or a new one.

  Without `text.tokenizer` it has the tokenizer that lies with `text.checkpoint`'s
  weights; without those one is trained on the captions of the training split. It stays
  when clips are added; only `overwrite` trains it anew, and only where captions changed.

  Args:
    text: its settings.
    folder: `OUT/text`, where all that sampling needs is kept, but for published weights,
      which stay where they are.
    clips: the table of clips.
    overwrite: replace an encoder of other settings.
    mesh: that published weights are laid over, where it splits weights.

  Raises:
    ValueError: the folder holds an encoder of other settings, or a file is missing or
      damaged.
  """
  folder = pathlib.Path(folder)
  record = folder / encoder_lib.SETTINGS
  wanted: dict[str, Any] = {"text": dataclasses.asdict(text), "captions": ""}
  trained = not (text.tokenizer or text.checkpoint)
  if trained:
    wanted["captions"] = _digest(training_captions(clips))
  if record.is_file():
    remedy = (
      f"Restore it; or remove {folder} and pass --overwrite, which remakes the text"
      " encoder and all that depends on it."
    )
    found = files.read_json(record, remedy)
    # Settings added later had their defaults.
    found["text"] = dataclasses.asdict(config_lib.Text()) | found.get("text", {})
    if found == wanted or (found["text"] == wanted["text"] and not overwrite):
      return interop.text_encoder(text, folder, mesh=mesh)
    if not overwrite:
      raise ValueError(_differences(folder, found["text"], wanted["text"]))
  unfinished = folder.with_name(folder.name + ".unfinished")
  shutil.rmtree(unfinished, ignore_errors=True)
  unfinished.mkdir(parents=True)
  if interop.is_published(text):
    interop.text_tokenizer(text).save(unfinished)
  elif trained:
    captions = sorted(training_captions(clips)) or list(_NO_CAPTIONS)
    model = unfinished / encoder_lib.TOKENIZER
    tokenizer_lib.train_tokenizer(captions, model, text.vocabulary)
  else:
    shutil.copyfile(_given_tokenizer(text), unfinished / encoder_lib.TOKENIZER)
  if not text.checkpoint:
    encoder_lib.TextEncoder.load(text, unfinished).save(unfinished)
  (unfinished / encoder_lib.SETTINGS).write_text(
    json.dumps(wanted, indent=2), encoding="utf-8"
  )
  encoder = interop.text_encoder(text, unfinished, mesh=mesh)  # raises if it is invalid
  shutil.rmtree(folder, ignore_errors=True)
  unfinished.rename(folder)
  return encoder


def check(text: config_lib.Text) -> None:
  """Refuses settings whose files are missing, before anything is decoded.

  Raises:
    ValueError: a checkpoint or a tokenizer is missing or damaged, or they do not fit.
  """
  if interop.is_published(text):
    interop.text_tokenizer(text)
  elif text.tokenizer or text.checkpoint:
    tokenizer_lib.Tokenizer(_given_tokenizer(text))
    encoder_lib.fingerprint(text)


def _given_tokenizer(text: config_lib.Text) -> pathlib.Path:
  """The SentencePiece model that settings name, of an encoder of this project's."""
  path = pathlib.Path(text.tokenizer or text.checkpoint).expanduser()
  path = path / encoder_lib.TOKENIZER if path.is_dir() else path
  if not path.is_file():
    key = "tokenizer" if text.tokenizer else "checkpoint"
    raise ValueError(
      f"config.text.{key}={getattr(text, key)!r}: {path} does not exist. Name a"
      " SentencePiece model."
    )
  return path


def training_captions(clips: str | os.PathLike[str]) -> set[str]:
  """Distinct captions of the training split, the first million of them."""
  found: set[str] = set()
  with pyarrow.parquet.ParquetFile(clips) as file:
    for batch in file.iter_batches(columns=["caption", "split"]):
      pairs = zip(batch["caption"].to_pylist(), batch["split"].to_pylist(), strict=True)
      found.update(caption for caption, split in pairs if caption and split == "train")
      if len(found) >= _TRAINING_CAPTIONS:
        break
  return found


def _digest(captions: Iterable[str]) -> str:
  digest = hashlib.sha256()
  for caption in sorted(captions):
    digest.update(caption.encode() + b"\0")
  return digest.hexdigest()


def _differences(folder: pathlib.Path, found: dict, wanted: dict) -> str:
  names = [n for n in wanted if json.dumps(found.get(n)) != json.dumps(wanted[n])]
  shown = ", ".join(f"config.text.{n} {found.get(n)!r} -> {wanted[n]!r}" for n in names)
  return (
    f"{folder}: the text encoder here was made with other settings ({shown}). Pass"
    " --overwrite to remake it and all that depends on it, or choose another --output."
  )


class Captions:
  """Encodes captions, each distinct one once.

  Attributes:
    encoder: of text.
    encoded: distinct captions encoded so far.
    cut: of these, those that were truncated.
  """

  def __init__(self, encoder: encoder_lib.TextEncoder):
    """Encodings needed again are kept in a file, so memory use stays small."""
    self.encoder, self.encoded, self.cut = encoder, 0, 0
    self._file, path = tempfile.mkstemp(prefix="video_dit_captions")
    os.unlink(path)
    weakref.finalize(self, os.close, self._file)
    self._end = 0
    # Where an encoding lies in the file; or itself, if it is needed once.
    self._places: dict[bytes, tuple[int, int] | np.ndarray] = {}
    self._marks = np.empty(0, np.uint64)
    self._counts = np.empty(0, np.int64)

  def expect(self, captions: Iterable[str]) -> None:
    """Announces which captions will be requested, and how often.

    An encoding is kept until it was returned that often, or while this lasts.
    """
    marks = np.fromiter((_short(_mark(c)) for c in captions), np.uint64)
    self._marks, self._counts = np.unique(marks, return_counts=True)

  def encode(self, captions: list[str], soon: Iterable[str] = ()) -> list[np.ndarray]:
    """Encodings `(tokens, width)` float16 of `captions`.

    Args:
      captions: what is wanted now.
      soon: captions wanted next, encoded with these where anything is; else not read.
    """
    if any(_mark(caption) not in self._places for caption in captions):
      distinct = dict.fromkeys(itertools.chain(captions, soon))
      missing = [caption for caption in distinct if _mark(caption) not in self._places]
      for caption, encoded in zip(missing, self.encoder.encode(missing), strict=True):
        self._keep(_mark(caption), encoded)
        self.encoded += 1
        self.cut += self.encoder.is_cut(caption)
    marks = [_mark(caption) for caption in captions]
    encodings = [self._read(self._places[mark]) for mark in marks]
    for mark in marks:
      if (i := self._index(mark)) is not None:
        self._counts[i] -= 1
        if self._counts[i] <= 0:
          self._places.pop(mark, None)
    return encodings

  def _keep(self, mark: bytes, encoded: np.ndarray) -> None:
    i = self._index(mark)
    if i is not None and self._counts[i] == 1:
      self._places[mark] = encoded
      return
    place, data = (self._end, len(encoded)), encoded.tobytes()
    while data:
      written = os.pwrite(self._file, data, self._end)
      self._end, data = self._end + written, data[written:]
    self._places[mark] = place

  def _read(self, place: tuple[int, int] | np.ndarray) -> np.ndarray:
    if isinstance(place, np.ndarray):
      return place
    start, tokens = place
    width = self.encoder.width
    data = os.pread(self._file, 2 * tokens * width, start)
    return np.frombuffer(data, np.float16).reshape(tokens, width)

  def _index(self, mark: bytes) -> int | None:
    """Index of a caption among those expected."""
    i = int(np.searchsorted(self._marks, np.uint64(_short(mark))))
    found = i < len(self._marks) and self._marks[i] == _short(mark)
    return i if found else None


def _mark(caption: str) -> bytes:
  return hashlib.blake2b(caption.encode(), digest_size=16).digest()


def _short(mark: bytes) -> int:
  """A digest to count by."""
  return int.from_bytes(mark[:8], "big")
