"""Tokens that are cut out of a text before the rest is tokenized, as Hugging Face does.

Those that are not `normalized` are searched for in the text as given, the others in what
lies between, once it is normalised.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
from typing import Any

import regex

_WORD = regex.compile(r"\w", regex.UNICODE)
_FLAGS = ("normalized", "single_word", "lstrip", "rstrip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddedToken:
  """A token that stands for its text.

  Attributes:
    content: the text.
    id: the token's.
    normalized: it is searched for in normalised text.
    single_word: it does not match inside a word.
    lstrip, rstrip: it absorbs the spaces before or after it.
  """

  content: str
  id: int
  normalized: bool = False
  single_word: bool = False
  lstrip: bool = False
  rstrip: bool = False

  @classmethod
  def of(cls, said: Any, number: Any, where: str) -> "AddedToken":
    """Parses a file's entry: the text alone, or an object.

    Args:
      said: the entry.
      number: its id.
      where: the entry's file, for messages.

    Raises:
      ValueError: it is not a token, or has no id.
    """
    entry: Mapping[str, Any] = said if isinstance(said, Mapping) else {"content": said}
    content = entry.get("content")
    if not isinstance(content, str):
      raise ValueError(
        f"{where}: {said!r} is not a token, which is a text or an object with its"
        " `content`. Copy the tokenizer again."
      )
    if type(number) is not int or number < 0:
      raise ValueError(
        f"{where}: the token {content!r} has the id {number!r}: it must have one, in the"
        " vocabulary or where it is added. Copy all files of the tokenizer."
      )
    normalized = not entry.get("special", True)
    flags = {"normalized": normalized} | {f: entry[f] for f in _FLAGS if f in entry}
    wrong = [name for name, flag in flags.items() if type(flag) is not bool]
    if wrong:
      raise ValueError(
        f"{where}: the token {content!r} has {wrong[0]}={flags[wrong[0]]!r}: it must be"
        " true or false. Copy the tokenizer again."
      )
    return cls(content=content, id=number, **flags)


class Splitter:
  """Cuts texts at the added tokens in them."""

  def __init__(self, tokens: Iterable[AddedToken], normalize: Callable[[str], str]):
    """Builds the patterns; of several tokens with one text, the last counts.

    Args:
      tokens: to search for.
      normalize: applied to text, and to the tokens that are `normalized`.
    """
    self._normalize = normalize
    tokens = [token for token in tokens if token.content]
    self._raw = {t.content: t for t in tokens if not t.normalized}
    self._late = {normalize(t.content): t for t in tokens if t.normalized}
    self._early_pattern, self._late_pattern = map(_pattern, (self._raw, self._late))

  def __call__(self, text: str) -> Iterator[str | int]:
    """Ids of the tokens, and normalised text between them."""
    for part in _cut(text, self._early_pattern, self._raw):
      if isinstance(part, int):
        yield part
      else:
        yield from _cut(self._normalize(part), self._late_pattern, self._late)


def _pattern(tokens: Iterable[str]) -> regex.Pattern:
  """Matches the longest of the tokens that begin at one place."""
  names = sorted(filter(None, tokens), key=len, reverse=True)
  return regex.compile("|".join(map(regex.escape, names)) or r"(?!)")


def _cut(
  text: str, pattern: regex.Pattern, tokens: Mapping[str, AddedToken]
) -> Iterator[str | int]:
  at = 0
  for found in pattern.finditer(text):
    token = tokens[found[0]]
    start, stop = found.span()
    if token.single_word and any(map(_WORD.match, (text[:start][-1:], text[stop:][:1]))):
      continue
    if token.lstrip:
      start = max(at, len(text[:start].rstrip()))
    if token.rstrip:
      stop = len(text) - len(text[stop:].lstrip())
    yield text[at:start]
    yield token.id
    at = stop
  yield text[at:]
