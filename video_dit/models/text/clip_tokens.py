"""Which tokens the files of a CLIP tokenizer add to its vocabulary.

Special ones (start, end, padding) are named in `tokenizer_config.json`; those added
later, as by textual inversion, are listed with their ids in its `added_tokens_decoder`.
Folders of older versions have them in `special_tokens_map.json`, `added_tokens.json` and
`tokenizer.json`.
"""

from collections.abc import Container, Mapping
import dataclasses
import json
from typing import Any

from video_dit.models.text.added_tokens import AddedToken

WHOLE = "tokenizer.json"
SETTINGS, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
ADDED = "added_tokens.json"
START, END = "<|startoftext|>", "<|endoftext|>"
# By the keys that name them, in the order in which the peer adds them.
_SPECIAL: dict[str, str | None] = {
  **{"bos_token": START, "eos_token": END, "unk_token": END, "sep_token": None},
  **{"pad_token": END, "cls_token": None, "mask_token": None},
}
_Entry = tuple[Any, Any, str]  # a token, its id, and the file that says so
_MORE = ("extra_special_tokens", "additional_special_tokens")


@dataclasses.dataclass(frozen=True)
class ClipTokens:
  """The tokens of a tokenizer besides those of its vocabulary.

  Attributes:
    added: all tokens to search for, by their texts.
    start, end, pad, unknown: ids.
  """

  added: dict[str, AddedToken]
  start: int
  end: int
  pad: int
  unknown: int


def read(
  files: Mapping[str, bytes], vocabulary: Mapping[str, int], where: str
) -> ClipTokens:
  """Reads them.

  Args:
    files: content by name; missing ones add nothing.
    vocabulary: ids of the pieces, which take precedence over those of the files.
    where: the folder the files come from, for messages.

  Raises:
    ValueError: a file is damaged, or a special token has no id.
  """
  settings = _object(files, SETTINGS, where)
  said = _SPECIAL | settings
  if "added_tokens_decoder" in settings:
    entries = _decoder(settings["added_tokens_decoder"], where)
  else:
    listed = {key: settings.get(key) for key in _MORE}
    said |= _object(files, SPECIAL, where)
    special = {_text(token) for token in _named(said | listed)}
    entries = _older(files, special, where)
  more: list[Any] = []
  for token in _named(said):
    if _text(token) not in entries and token not in more:
      more.append(token)
  known = {text: number for text, (_, number, _) in entries.items()} | dict(vocabulary)
  added = {
    text: AddedToken.of(token, known[text], f"{where}/{file}")
    for text, (token, _, file) in entries.items()
  }
  for token in more:  # Of several with one text, the last counts.
    added[_text(token)] = AddedToken.of(token, known.get(_text(token)), where)
  ids = (added[_text(said[key] or _SPECIAL[key])].id for key in _IDS)
  return ClipTokens(added, *ids)


def _decoder(decoder: Any, where: str) -> dict[str, _Entry]:
  """Tokens of the settings, by their texts."""
  if not isinstance(decoder, dict) or not all(map(str.isdecimal, decoder)):
    raise _damaged(where, SETTINGS, "added_tokens_decoder is not an object of ids")
  tokens = sorted(((int(i), token) for i, token in decoder.items()), key=lambda x: x[0])
  return {_text(token): (token, number, SETTINGS) for number, token in tokens}


def _older(
  files: Mapping[str, bytes], special: Container[str], where: str
) -> dict[str, _Entry]:
  """Tokens of the other files, by their texts; the special ones are not normalised."""
  entries: dict[str, _Entry] = {}
  for text, number in _object(files, ADDED, where).items():
    entries[text] = {"content": text, "normalized": text not in special}, number, ADDED
  whole = _object(files, WHOLE, where).get("added_tokens") or []
  if not isinstance(whole, list) or not all(isinstance(t, dict) for t in whole):
    raise _damaged(where, WHOLE, "added_tokens is not a list of objects")
  return entries | {_text(t): (t, t.get("id"), WHOLE) for t in whole}


_IDS = ("bos_token", "eos_token", "pad_token", "unk_token")


def _named(said: Mapping[str, Any]) -> list[Any]:
  """Special tokens in the peer's order; null is what CLIP has."""
  tokens = [said[key] or default for key, default in _SPECIAL.items()]
  for key in _MORE:
    listed = said.get(key) or []
    listed = list(listed.values()) if isinstance(listed, dict) else listed
    tokens += listed if isinstance(listed, list) else [listed]
  return [token for token in tokens if token is not None]


def _text(token: Any) -> str:
  """The text of an entry; an entry without one is refused where it is read."""
  return str(token.get("content") if isinstance(token, Mapping) else token)


def _object(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
  try:
    found = json.loads(files.get(name, b"{}"))
  except (ValueError, RecursionError) as e:
    raise _damaged(where, name, f"is not JSON ({e})") from e
  if not isinstance(found, dict):
    raise _damaged(where, name, "is not a JSON object")
  return found


def _damaged(where: str, name: str, what: str) -> ValueError:
  return ValueError(f"{where}/{name}: {what}. Copy the tokenizer again.")
