"""Reads the files of a published T5 or UMT5 tokenizer.

They are SentencePiece's or Hugging Face's. Only the published forms of a `tokenizer.json`
are supported; any other step that would change the ids is refused by name.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import re
from typing import Any

from video_dit.models.text import model_file
from video_dit.models.text.added_tokens import AddedToken
from video_dit.models.text.charsmap import Charsmap

SPACE = "▁"
SPACES = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
_T5_SENTINELS = 100
_REMEDY = "Give the tokenizer that belongs to the encoder, or its spiece.model."


@dataclasses.dataclass(frozen=True)
class Pieces:
  """Content of a tokenizer's files.

  Attributes:
    scores: pieces with their log-probabilities; a piece's position is its id.
    unknown: id of unknown characters.
    normalize: how characters are rewritten.
    added: tokens that are cut out of a text first.
    by_words: texts are split at any white space, not only at single spaces.
  """

  scores: Sequence[tuple[str, float]]
  unknown: int
  normalize: Callable[[str], str]
  added: Sequence[AddedToken]
  by_words: bool = True


def json_object(content: bytes, where: str) -> dict[str, Any]:
  """The content of a JSON file.

  Raises:
    ValueError: it is not a JSON object.
  """
  try:
    found = json.loads(content)
  except (ValueError, RecursionError) as e:
    raise ValueError(f"{where}: is not JSON ({e}). Copy it again.") from e
  if not isinstance(found, dict):
    raise ValueError(f"{where}: is not a JSON object. Copy it again.")
  return found


def of_sentencepiece(content: bytes, settings: Mapping[str, Any], where: str) -> Pieces:
  """Pieces of a SentencePiece model, with the sentinels that T5 appends.

  Raises:
    ValueError: it is not such a model, or not of the unigram kind.
  """
  model = model_file.read(content, where)
  if not model.pieces or model.trainer_spec.model_type != model_file.UNIGRAM:
    raise ValueError(f"{where}: not a unigram SentencePiece model, as T5's is.")
  scores = [(piece.piece, piece.score) for piece in model.pieces]
  added: list[tuple[Any, int]] = [("<unk>", model.trainer_spec.unk_id)]
  for i, piece in enumerate(model.pieces):
    if piece.type in (model_file.CONTROL, model_file.USER_DEFINED):
      added.append((piece.piece, i))
  decoder = settings.get("added_tokens_decoder", {})
  if not isinstance(decoder, dict) or not all(map(str.isdecimal, decoder)):
    raise ValueError(
      f"{where}: added_tokens_decoder beside it is not an object of ids. {_REMEDY}"
    )
  added += [(token, int(i)) for i, token in decoder.items()]
  if "added_tokens_decoder" not in settings:
    # Models with byte pieces are of the mT5 family, which adds none.
    count = 0 if model.trainer_spec.byte_fallback else _T5_SENTINELS
    count = settings.get("extra_ids", count)
    if type(count) is not int or count < 0:
      raise ValueError(
        f"{where}: extra_ids={count!r} beside it is not a count. {_REMEDY}"
      )
    last = len(scores) + count - 1
    added += [(f"<extra_id_{i}>", last - i) for i in range(count)]
  return Pieces(
    scores,
    model.trainer_spec.unk_id,
    _charsmap(model.normalizer_spec.precompiled_charsmap, where),
    [AddedToken.of(token, i, where) for token, i in added],
  )


def of_tokenizer_json(content: bytes, where: str) -> Pieces:
  """Pieces of a `tokenizer.json` of Hugging Face's tokenizers.

  Raises:
    ValueError: it is damaged, of another kind, or has a step that is not supported.
  """
  found = json_object(content, where)
  model = found.get("model") or {}
  if model.get("type") != "Unigram":
    raise ValueError(
      f"{where}: a tokenizer of type {model.get('type')!r}, but T5's is 'Unigram'."
      f" {_REMEDY}"
    )
  _check_end(found.get("post_processor"), where)
  try:
    scores = [(str(piece), float(score)) for piece, score in model["vocab"]]
    added = [AddedToken.of(t, t["id"], where) for t in found.get("added_tokens") or []]
    if not 0 <= model["unk_id"] < len(scores):
      raise ValueError(f"unk_id={model['unk_id']!r} is not one of {len(scores)} pieces")
  except (KeyError, TypeError, ValueError) as e:
    raise ValueError(f"{where}: cannot be read ({e!r}). Copy it again.") from e
  return Pieces(
    scores,
    model["unk_id"],
    _normalizer(found.get("normalizer"), where),
    added,
    _by_words(found.get("pre_tokenizer"), where),
  )


def _charsmap(table: bytes | str, where: str) -> Charsmap:
  try:
    return Charsmap(base64.b64decode(table) if isinstance(table, str) else table)
  except ValueError as e:
    raise ValueError(f"{where}: its precompiled_charsmap is {e}. Copy it again.") from e


def _normalizer(said: Any, where: str) -> Callable[[str], str]:
  """Precompiled, with Strip and Replace of spaces after it."""
  steps: list[Callable[[str], str]] = []
  for step in _sequence(said, "normalizers"):
    kind = step.get("type")
    if kind == "Precompiled" and isinstance(step.get("precompiled_charsmap"), str):
      steps.append(_charsmap(step["precompiled_charsmap"], where))
    elif kind == "Strip":
      ends = (step.get("strip_left") and f"^{SPACES}", step.get("strip_right") and SPACES)
      left, right = ends[0] or "(?!)", f"{ends[1]}$" if ends[1] else "(?!)"
      steps.append(_replacing(f"{left}|{right}", ""))
    elif kind == "Replace" and step.get("pattern") == {"Regex": " {2,}"}:
      steps.append(_replacing(" {2,}", str(step.get("content"))))
    else:
      raise _refused(where, "normalizer", step, "Precompiled, Strip and Replace ' {2,}'")

  def normalize(text: str) -> str:
    for step in steps:
      text = step(text)
    return text

  return normalize


def _replacing(pattern: str, new: str) -> Callable[[str], str]:
  compiled = re.compile(pattern)
  return lambda text: compiled.sub(lambda _: new, text)


def _by_words(said: Any, where: str) -> bool:
  """Whether there is WhitespaceSplit before Metaspace."""
  steps = _sequence(said, "pretokenizers")
  by_words = bool(steps) and steps[0].get("type") == "WhitespaceSplit"
  steps = steps[by_words:]
  fine = len(steps) == 1 and steps[0].get("type") == "Metaspace"
  if fine:
    old = "always" if steps[0].get("add_prefix_space", True) else "never"
    scheme = steps[0].get("prepend_scheme", old)
    place = steps[0].get("replacement", SPACE), steps[0].get("split", True), scheme
    fine = place == (SPACE, True, "always")
  if not fine:
    known = f"Metaspace with {SPACE!r} before every word, alone or after WhitespaceSplit"
    raise _refused(where, "pre_tokenizer", said, known)
  return by_words


def _check_end(said: Any, where: str) -> None:
  """Refuses any other ending than </s>, with which T5's texts end."""
  if said is None:
    return
  parts = said.get("single") if isinstance(said, dict) else None
  parts = parts if isinstance(parts, list) else []
  inside = [list(p.values()) for p in parts if isinstance(p, dict)]
  names = [v.get("id") for values in inside for v in values if isinstance(v, dict)]
  if names != ["A", "</s>"]:
    raise _refused(where, "post_processor", said, "the one that ends texts with '</s>'")


def _sequence(said: Any, key: str) -> list[dict[str, Any]]:
  """The steps of a sequence, or the single one."""
  if isinstance(said, dict) and said.get("type") == "Sequence":
    said = said.get(key)
  steps = [] if said is None else said if isinstance(said, list) else [said]
  return [step if isinstance(step, dict) else {"type": step} for step in steps]


def _refused(where: str, key: str, said: Any, known: str) -> ValueError:
  told = said
  if isinstance(said, dict):
    told = {k: v for k, v in said.items() if k != "precompiled_charsmap"}
  return ValueError(
    f"{where}: has the {key} {str(told)[:200]}; only {known} is supported. {_REMEDY}"
  )
