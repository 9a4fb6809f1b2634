"""CLIP's tokenizer: byte-pair encoding of lower-cased words, with Hugging Face's ids."""

from collections.abc import Iterator, Sequence
import functools
import heapq
import json
import os
import pathlib
from typing import Any
import unicodedata

import regex

from video_dit import files
from video_dit.models.text import clip_tokens
from video_dit.models.text.added_tokens import Splitter

VOCABULARY, MERGES, WHOLE = "vocab.json", "merges.txt", clip_tokens.WHOLE
_SETTINGS = (clip_tokens.SETTINGS, clip_tokens.SPECIAL)
_WORD_END = "</w>"
_PLAIN = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
# The peer separates these wherever they are not tokens, and cuts them only then.
_APART = (clip_tokens.START, clip_tokens.END)
_WORDS = regex.compile("|".join((*map(regex.escape, _APART), _PLAIN)), regex.UNICODE)


class ClipTokenizer:
  """Text to ids; every text gets the same number.

  Attributes:
    files: content by name, all that `load` needs.
    vocabulary: number of ids.
    length: of every text in ids.
    pad, end: ids.
  """

  def __init__(self, files: dict[str, bytes], where: str, *, length: int = 77):
    """Builds a tokenizer.

    Args:
      files: content of `vocab.json` and `merges.txt`, or else of `tokenizer.json`; and
        of the files in which `clip_tokens` finds tokens, if present.
      where: the folder they come from, for messages.
      length: of every text.

    Raises:
      ValueError: a file is damaged or of another kind of tokenizer, or a special token
        has no id.
    """
    self.files = files
    self.length: int | None = length
    self._ids, merges = _read(files, where)
    tokens = clip_tokens.read(files, self._ids, where)
    self._ranks: dict[Any, int] = {pair: rank for rank, pair in enumerate(merges)}
    self._start, self._unknown = tokens.start, tokens.unknown
    self.end, self.pad = tokens.end, tokens.pad
    ids = [*self._ids.values(), *(token.id for token in tokens.added.values())]
    self.vocabulary = 1 + max(ids)
    self._bytes = _bytes_to_characters()
    self._split = Splitter(tokens.added.values(), _normalize)
    self._segment = functools.lru_cache(1 << 16)(self._segment_word)

  @classmethod
  def load(cls, folder: str | os.PathLike[str], *, length: int = 77) -> "ClipTokenizer":
    """Reads the tokenizer of a folder.

    Raises:
      ValueError: there is none, or it is damaged.
    """
    path = pathlib.Path(folder).expanduser()
    path = path if path.is_dir() else path.parent
    pair = (path / VOCABULARY).is_file() and (path / MERGES).is_file()
    names = (*((VOCABULARY, MERGES) if pair else (WHOLE,)), *_SETTINGS)
    files = {n: (path / n).read_bytes() for n in names if (path / n).is_file()}
    if not pair and WHOLE not in files:
      raise ValueError(
        f"{path}: holds neither {VOCABULARY} and {MERGES} nor {WHOLE}. Set"
        " config.text.tokenizer to the tokenizer's folder."
      )
    for name in (clip_tokens.ADDED, WHOLE):
      if name not in files and (path / name).is_file():
        more = {**files, name: (path / name).read_bytes()}
        files = more if _adds(files, more, str(path)) else files
    return cls(files, str(path), length=length)

  def save(self, folder: str | os.PathLike[str]) -> None:
    """Writes the files that `load` reads."""
    for name, content in self.files.items():
      files.write(pathlib.Path(folder) / name, content)

  def encode(self, text: str) -> list[int]:
    """Ids of a text with start and end, neither cut nor padded."""
    ids = [self._start]
    for part in self._split(text):
      if isinstance(part, int):
        ids.append(part)
      else:
        ids += (i for word in _words(part) for i in self._segment(word))
    return [*ids, self.end]

  def _segment_word(self, word: str) -> tuple[int, ...]:
    """Joins neighbours in a word, in the order of the merges."""
    parts: list[str | None] = [self._bytes[b] for b in word.encode(errors="replace")]
    parts[-1] = f"{parts[-1]}{_WORD_END}"
    # Neighbours by position; a part that was joined to its left neighbour is None.
    after, before = list(range(1, len(parts) + 1)), list(range(-1, len(parts) - 1))
    heap: list[tuple[int, int, Any]] = []

    def propose(left: int, right: int) -> None:
      if left >= 0 and right < len(parts):
        pair = parts[left], parts[right]
        if pair in self._ranks:
          heapq.heappush(heap, (self._ranks[pair], left, pair))

    for left in range(len(parts) - 1):
      propose(left, left + 1)
    while heap:
      _, left, pair = heapq.heappop(heap)
      right = after[left]
      if right == len(parts) or (parts[left], parts[right]) != pair:
        continue  # One of the two has been joined to another since.
      parts[left], parts[right] = pair[0] + pair[1], None
      after[left] = after[right]
      if after[left] < len(parts):
        before[after[left]] = left
      propose(before[left], left)
      propose(left, after[left])
    return tuple(self._ids.get(part, self._unknown) for part in parts if part is not None)


def _normalize(text: str) -> str:
  text = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
  # Letter by letter: a final sigma becomes a plain sigma here.
  return "".join(character.lower() for character in text)


def _words(text: str) -> Iterator[str]:
  for word in _WORDS.findall(text):
    yield from regex.findall(_PLAIN, word) if word in _APART else (word,)


def _adds(files: dict[str, bytes], more: dict[str, bytes], where: str) -> bool:
  """Whether more files change the tokens; a file that changes nothing is left out."""
  ids, _ = _read(files, where)
  after = clip_tokens.read(more, ids, where)
  try:
    return after != clip_tokens.read(files, ids, where)
  except ValueError:  # A special token's id is in the additional file.
    return True


def _read(files: dict[str, bytes], where: str) -> tuple[dict[str, int], Sequence[Any]]:
  """Ids of tokens, and pairs in the order of their merging."""
  name = VOCABULARY if VOCABULARY in files else WHOLE
  try:
    found = json.loads(files[name])
    if name == VOCABULARY:
      lines = files[MERGES].decode().splitlines()
      lines = [line for line in lines if line and not line.startswith("#version")]
      return _checked(found), [_pair(line) for line in lines]
    model = found["model"]
    if model["type"] != "BPE" or model["end_of_word_suffix"] != _WORD_END:
      raise ValueError("not a tokenizer of CLIP's kind")
    merges = [_pair(m) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return _checked(model["vocab"]), merges
  except (KeyError, TypeError, ValueError, RecursionError) as e:
    raise ValueError(
      f"{where}/{name}: cannot be read ({e!r}). Copy the tokenizer again."
    ) from e


def _checked(vocabulary: Any) -> dict[str, int]:
  if not isinstance(vocabulary, dict) or not vocabulary:
    raise ValueError("no vocabulary")
  wrong = [token for token, i in vocabulary.items() if type(i) is not int]
  if wrong:
    raise ValueError(f"{wrong[0]!r} has the id {vocabulary[wrong[0]]!r}")
  return vocabulary


def _pair(line: str) -> tuple[str, str]:
  first, second = line.split(" ")
  return first, second


def _bytes_to_characters() -> list[str]:
  """A printable character for each byte, as GPT-2 has them."""
  plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [b for b in range(256) if b not in plain]
  made = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}
  return [made[b] for b in range(256)]
