"""Tokenizers of published T5 and UMT5 encoders, with the ids that Hugging Face gives.

Beside SentencePiece's own segmentation these differ: special tokens written in a text
become their ids; each word is segmented alone; bytes never stand for unknown characters;
and characters are rewritten as `charsmap` says.
"""

import base64
from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
from typing import Any

from video_dit.models.text import model_file
from video_dit.models.text.charsmap import Charsmap

MODEL = "spiece.model"
SETTINGS = "tokenizer_config.json"
WHOLE = "tokenizer.json"
_SPACE = "▁"
_SPACES = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_UNKNOWN_PENALTY = 10.0
_T5_SENTINELS = 100


@dataclasses.dataclass(frozen=True)
class _Pieces:
  """What a tokenizer's files say.

  Attributes:
    scores: pieces with the logarithms of their probabilities; a piece's place is its id.
    unknown: id of what is not known.
    charsmap: table of character rewritings.
    special: ids of tokens that are taken from a text before all else.
  """

  scores: Sequence[tuple[str, float]]
  unknown: int
  charsmap: bytes
  special: dict[str, int]


class PublishedTokenizer:
  """Text to ids.

  Attributes:
    files: content by name, all that `load` needs.
    vocabulary: number of ids.
    pad, end: ids.
    length: None: texts have their own lengths.
  """

  length: int | None = None

  def __init__(
    self,
    files: dict[str, bytes],
    where: str,
    *,
    clean: Callable[[str], str] | None = None,
  ):
    """Builds a tokenizer.

    Args:
      files: content of `spiece.model`, or else of `tokenizer.json`; and of
        `tokenizer_config.json` where there is one.
      where: they come from, for messages.
      clean: what a text goes through first.

    Raises:
      ValueError: a file is damaged or of another kind of tokenizer.
    """
    self.files, self._clean = files, clean
    settings = _json(files.get(SETTINGS, b"{}"), f"{where}/{SETTINGS}")
    if MODEL in files:
      pieces = _of_sentencepiece(files[MODEL], settings, f"{where}/{MODEL}")
    else:
      pieces = _of_tokenizer_json(files[WHOLE], f"{where}/{WHOLE}")
    self._ids = {piece: i for i, (piece, _) in enumerate(pieces.scores)}
    missing = [name for name in ("<pad>", "</s>") if name not in self._ids]
    if missing:
      raise ValueError(
        f"{where}: the tokenizer has no {missing[0]!r}, which T5 pads and ends with. Give"
        " the tokenizer that belongs to the encoder."
      )
    self.pad, self.end = self._ids["<pad>"], self._ids["</s>"]
    self.vocabulary = 1 + max(*self._ids.values(), *pieces.special.values())
    self._unknown, self._special = pieces.unknown, pieces.special
    self._scores = [score for _, score in pieces.scores]
    self._unknown_score = min(self._scores) - _UNKNOWN_PENALTY
    self._longest = max(map(len, self._ids))
    self._charsmap = Charsmap(pieces.charsmap)
    # The longest of those that begin at one place is taken.
    names = sorted(self._special, key=len, reverse=True)
    self._split = re.compile("|".join(map(re.escape, names)) or r"(?!)")
    self._segment = functools.lru_cache(1 << 17)(self._segment_word)

  @classmethod
  def load(
    cls, folder: str | os.PathLike[str], *, clean: Callable[[str], str] | None = None
  ) -> "PublishedTokenizer":
    """Reads the tokenizer of a folder, or of a `.model` or `.json` file.

    Raises:
      ValueError: there is none, or it is damaged.
    """
    path = pathlib.Path(folder).expanduser()
    if path.is_file():
      name = WHOLE if path.suffix == ".json" else MODEL
      files = {name: path.read_bytes()}
      path = path.parent
    else:
      names = (MODEL,) if (path / MODEL).is_file() else (WHOLE,)
      files = {n: (path / n).read_bytes() for n in names if (path / n).is_file()}
    if not files:
      raise ValueError(
        f"{path}: holds neither {MODEL} nor {WHOLE}. Set config.text.tokenizer to the"
        " tokenizer's folder or file."
      )
    if (path / SETTINGS).is_file():
      files[SETTINGS] = (path / SETTINGS).read_bytes()
    return cls(files, str(path), clean=clean)

  def save(self, folder: str | os.PathLike[str]) -> None:
    """Writes the files that `load` reads."""
    for name, content in self.files.items():
      (pathlib.Path(folder) / name).write_bytes(content)

  def encode(self, text: str) -> list[int]:
    """Ids of a text, the end included; an empty text is the end alone."""
    text = self._clean(text) if self._clean else text
    ids: list[int] = []
    at = 0
    for found in self._split.finditer(text):
      ids.extend(self._plain(text[at : found.start()]))
      ids.append(self._special[found[0]])
      at = found.end()
    return [*ids, *self._plain(text[at:]), self.end]

  def _plain(self, text: str) -> Iterable[int]:
    """Ids of a text without special tokens."""
    for word in _SPACES.split(self._charsmap(text)):
      if not word:
        continue
      word = word if word.startswith(_SPACE) else _SPACE + word
      for part in word.split(_SPACE)[1:]:
        yield from self._segment(_SPACE + part)

  def _segment_word(self, word: str) -> tuple[int, ...]:
    """The likeliest pieces of a word: Viterbi, Kudo 2018 (arXiv:1804.10959).

    The first of equally likely ones wins, and unknown characters side by side are one.
    """
    count = len(word)
    best = [0.0] + [-math.inf] * count  # by where a piece ends
    begins, pieces = [0] * (count + 1), [self._unknown] * (count + 1)
    for start in range(count):
      single = False
      for end in range(start + 1, min(count, start + self._longest) + 1):
        piece = self._ids.get(word[start:end])
        if piece is None:
          continue
        single = single or end == start + 1
        score = best[start] + self._scores[piece]
        if score > best[end]:
          best[end], begins[end], pieces[end] = score, start, piece
      score = best[start] + self._unknown_score
      if not single and score > best[start + 1]:
        best[start + 1], begins[start + 1] = score, start
        pieces[start + 1] = self._unknown
    ids: list[int] = []
    end = count
    while end:
      if not (ids and ids[-1] == pieces[end] == self._unknown):
        ids.append(pieces[end])
      end = begins[end]
    return tuple(reversed(ids))


def _json(content: bytes, where: str) -> dict[str, Any]:
  try:
    found = json.loads(content)
  except ValueError as e:
    raise ValueError(f"{where}: is not JSON ({e}). Copy it again.") from e
  if not isinstance(found, dict):
    raise ValueError(f"{where}: holds no object of keys. Copy it again.")
  return found


def _of_sentencepiece(content: bytes, settings: dict, where: str) -> _Pieces:
  """Pieces of a SentencePiece model, with the sentinels that T5 adds behind them."""
  model = model_file.read(content, where)
  if not model.pieces or model.trainer_spec.model_type != model_file.UNIGRAM:
    raise ValueError(f"{where}: no SentencePiece model of the unigram kind, as T5's is.")
  scores = [(piece.piece, piece.score) for piece in model.pieces]
  special = {"<unk>": model.trainer_spec.unk_id}
  for i, piece in enumerate(model.pieces):
    if piece.type in (model_file.CONTROL, model_file.USER_DEFINED):
      special[piece.piece] = i
  for i, token in settings.get("added_tokens_decoder", {}).items():
    special[token["content"] if isinstance(token, dict) else token] = int(i)
  if "added_tokens_decoder" not in settings:
    # Models that know bytes are of the mT5 family, which adds none.
    count = 0 if model.trainer_spec.byte_fallback else _T5_SENTINELS
    count = settings.get("extra_ids", count)
    last = len(scores) + count - 1
    special |= {f"<extra_id_{i}>": last - i for i in range(count)}
  return _Pieces(
    scores,
    model.trainer_spec.unk_id,
    model.normalizer_spec.precompiled_charsmap,
    special,
  )


def _of_tokenizer_json(content: bytes, where: str) -> _Pieces:
  """Pieces of a file of Hugging Face's tokenizers."""
  found = _json(content, where)
  model = found.get("model") or {}
  if model.get("type") != "Unigram":
    raise ValueError(
      f"{where}: a tokenizer of the kind {model.get('type')!r}, where T5 has 'Unigram'."
      " Give the tokenizer that belongs to the encoder."
    )
  normalizer = found.get("normalizer") or {}
  steps = normalizer.get("normalizers", [normalizer])
  tables = [s for s in steps if s.get("type") == "Precompiled"]
  return _Pieces(
    [(piece, score) for piece, score in model["vocab"]],
    model["unk_id"],
    base64.b64decode(tables[0]["precompiled_charsmap"]) if tables else b"",
    {token["content"]: token["id"] for token in found.get("added_tokens", [])},
  )
