"""Tokenizers of published T5 and UMT5 encoders, with the ids that Hugging Face gives.

They differ from SentencePiece's own segmentation: special tokens written in a text become
their ids; each word is segmented alone; bytes never replace unknown characters; and
characters are rewritten as in `charsmap`.
"""

from collections.abc import Callable, Iterable
import functools
import math
import os
import pathlib
import re

from video_dit import files
from video_dit.models.text import unigram_files
from video_dit.models.text.added_tokens import Splitter
from video_dit.models.text.unigram_files import SPACE

MODEL = "spiece.model"
SETTINGS = "tokenizer_config.json"
WHOLE = "tokenizer.json"
_SPACES = re.compile(unigram_files.SPACES)
_UNKNOWN_PENALTY = 10.0


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
      where: the folder they come from, for messages.
      clean: applied to a text first.

    Raises:
      ValueError: a file is damaged or of another kind of tokenizer.
    """
    self.files, self._clean = files, clean
    said = files.get(SETTINGS, b"{}")
    settings = unigram_files.json_object(said, f"{where}/{SETTINGS}")
    if MODEL in files:
      place = f"{where}/{MODEL}"
      pieces = unigram_files.of_sentencepiece(files[MODEL], settings, place)
    else:
      pieces = unigram_files.of_tokenizer_json(files[WHOLE], f"{where}/{WHOLE}")
    self._ids = {piece: i for i, (piece, _) in enumerate(pieces.scores)}
    missing = [name for name in ("<pad>", "</s>") if name not in self._ids]
    if missing:
      raise ValueError(
        f"{where}: the tokenizer has no {missing[0]!r}, which T5 needs to pad and end."
        " Give the tokenizer that belongs to the encoder."
      )
    self.pad, self.end = self._ids["<pad>"], self._ids["</s>"]
    self.vocabulary = 1 + max(*self._ids.values(), *(t.id for t in pieces.added))
    self._unknown, self._by_words = pieces.unknown, pieces.by_words
    self._scores = [score for _, score in pieces.scores]
    self._unknown_score = min(self._scores) - _UNKNOWN_PENALTY
    self._longest = max(map(len, self._ids))
    self._split = Splitter(pieces.added, pieces.normalize)
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
      files.write(pathlib.Path(folder) / name, content)

  def encode(self, text: str) -> list[int]:
    """Ids of a text, the end included; an empty text is the end alone."""
    text = self._clean(text) if self._clean else text
    ids: list[int] = []
    for part in self._split(text):
      ids += [part] if isinstance(part, int) else self._plain(part)
    return [*ids, self.end]

  def _plain(self, text: str) -> Iterable[int]:
    """Ids of a normalised text without added tokens."""
    words = _SPACES.split(text) if self._by_words else [text.replace(" ", SPACE)]
    for word in filter(None, words):
      word = word if word.startswith(SPACE) else SPACE + word
      for part in word.split(SPACE)[1:]:
        yield from self._segment(SPACE + part)

  def _segment_word(self, word: str) -> tuple[int, ...]:
    """The most likely pieces of a word: Viterbi, Kudo 2018 (arXiv:1804.10959).

    The first of equally likely ones wins, and adjacent unknown characters are merged.
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
