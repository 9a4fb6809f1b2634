"""CLIP's tokenizer: byte-pair encoding of lower-cased words, with Hugging Face's ids."""

from collections.abc import Sequence
import functools
import heapq
import json
import os
import pathlib
from typing import Any
import unicodedata

import regex

VOCABULARY, MERGES, WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
SETTINGS, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_WORDS = regex.compile(
  r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.UNICODE
)
_SPECIAL = regex.compile(f"{regex.escape(_START)}|{regex.escape(_END)}")


class ClipTokenizer:
  """Text to ids, as many for every text.

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
        of `tokenizer_config.json` and `special_tokens_map.json` where they are there.
      where: they come from, for messages.
      length: of every text.

    Raises:
      ValueError: a file is damaged or of another kind of tokenizer.
    """
    self.files = files
    self.length: int | None = length
    self._ids, merges = _read(files, where)
    for name in (_START, _END):
      if name not in self._ids:
        raise ValueError(f"{where}: the tokenizer has no {name!r}, so it is not CLIP's.")
    self._ranks: dict[Any, int] = {pair: rank for rank, pair in enumerate(merges)}
    self._start, self.end = self._ids[_START], self._ids[_END]
    self.pad = self._ids.get(_pad(files), self.end)
    self.vocabulary = 1 + max(self._ids.values())
    self._bytes = _bytes_to_characters()
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
    names = (*((VOCABULARY, MERGES) if pair else (WHOLE,)), SETTINGS, SPECIAL)
    files = {n: (path / n).read_bytes() for n in names if (path / n).is_file()}
    if not pair and WHOLE not in files:
      raise ValueError(
        f"{path}: holds neither {VOCABULARY} and {MERGES} nor {WHOLE}. Set"
        " config.text.tokenizer to the tokenizer's folder."
      )
    return cls(files, str(path), length=length)

  def save(self, folder: str | os.PathLike[str]) -> None:
    """Writes the files that `load` reads."""
    for name, content in self.files.items():
      (pathlib.Path(folder) / name).write_bytes(content)

  def encode(self, text: str) -> list[int]:
    """Ids of a text with start and end, neither cut nor padded."""
    ids = [self._start]
    at = 0
    for found in _SPECIAL.finditer(text):
      ids += [*self._plain(text[at : found.start()]), self._ids[found[0]]]
      at = found.end()
    return [*ids, *self._plain(text[at:]), self.end]

  def _plain(self, text: str) -> list[int]:
    """Ids of a text without special tokens."""
    text = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
    # Letter by letter: a final sigma is a sigma like others here.
    text = "".join(character.lower() for character in text)
    return [i for word in _WORDS.findall(text) for i in self._segment(word)]

  def _segment_word(self, word: str) -> tuple[int, ...]:
    """Joins neighbours of a word, those first that come first in the merges."""
    parts: list[str | None] = [self._bytes[b] for b in word.encode(errors="replace")]
    parts[-1] = f"{parts[-1]}{_WORD_END}"
    # Neighbours by place; what was joined to the left is None.
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
    return tuple(self._ids.get(part, self.end) for part in parts if part is not None)


def _read(files: dict[str, bytes], where: str) -> tuple[dict[str, int], Sequence[Any]]:
  """Ids of tokens, and pairs in the order of their merging."""
  name = VOCABULARY if VOCABULARY in files else WHOLE
  try:
    found = json.loads(files[name])
    if name == VOCABULARY:
      lines = files[MERGES].decode().splitlines()
      lines = [line for line in lines if line and not line.startswith("#version")]
      return found, [_pair(line) for line in lines]
    model = found["model"]
    if model["type"] != "BPE" or model["end_of_word_suffix"] != _WORD_END:
      raise ValueError("a tokenizer of another kind than CLIP's")
    added = {token["content"]: token["id"] for token in found.get("added_tokens", [])}
    merges = [_pair(m) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return {**model["vocab"], **added}, merges
  except (KeyError, TypeError, ValueError) as e:
    raise ValueError(
      f"{where}/{name}: cannot be read ({e!r}). Copy the tokenizer again."
    ) from e


def _pair(line: str) -> tuple[str, str]:
  first, second = line.split(" ")
  return first, second


def _pad(files: dict[str, bytes]) -> str:
  """The token that pads: CLIP's end, where the settings name no other."""
  for name in (SETTINGS, SPECIAL):
    try:
      said = json.loads(files.get(name, b"{}")).get("pad_token")
    except (ValueError, AttributeError) as e:
      raise ValueError(f"{name}: is no JSON object ({e}). Copy it again.") from e
    if said:
      return said["content"] if isinstance(said, dict) else said
  return _END


def _bytes_to_characters() -> list[str]:
  """A printable character for each byte, as GPT-2 has them."""
  plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [b for b in range(256) if b not in plain]
  made = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}
  return [made[b] for b in range(256)]
