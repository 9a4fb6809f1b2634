"""A `tokenizer.json` of T5's is followed step by step, or refused by the step's name."""

import json

import pytest

from video_dit.models.text.unigram import PublishedTokenizer

_PIECES = ["<pad>", "</s>", "<unk>", "▁", "a", "▁a", "b", "<x>"]
_SPLIT = {"type": "WhitespaceSplit"}
_META = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
_WORDS = {"type": "Sequence", "pretokenizers": [_SPLIT, _META]}
_STRIP = {"type": "Strip", "strip_left": False, "strip_right": True}
_REPLACE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
_TWO = {"type": "Sequence", "normalizers": [_STRIP, _REPLACE]}
_END = [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "</s>"}}]


def _load(folder, flags=None, **changes):
  model = {"type": "Unigram", "unk_id": 2, "vocab": [[p, -1.0] for p in _PIECES]}
  content = {"model": model, "pre_tokenizer": _WORDS, "normalizer": None}
  content["post_processor"] = {"type": "TemplateProcessing", "single": _END}
  token = {"id": 7, "content": "<y>", "normalized": False, **(flags or {})}
  content |= {"added_tokens": [token], **changes}
  (folder / "tokenizer.json").write_text(json.dumps(content))
  return PublishedTokenizer.load(folder)


def _pieces(tokenizer, text):
  ids = tokenizer.encode(text)
  assert ids.pop() == 1
  return [_PIECES[i] for i in ids]


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({}, ["▁a", "b", "▁a", "▁", "b"]),
    ({"pre_tokenizer": _META}, ["▁a", "b", "▁", "▁a", "<unk>", "b", "▁", "▁"]),
    ({"pre_tokenizer": _META, "normalizer": _STRIP}, [*"▁a b ▁ ▁a <unk> b".split()]),
    ({"pre_tokenizer": _META, "normalizer": _TWO}, [*"▁a b ▁a <unk> b".split()]),
  ],
  ids=["words", "spaces", "strip", "replace"],
)
def test_spaces_are_followed(changes, expected, tmp_path):
  assert _pieces(_load(tmp_path, **changes), "ab  a\tb  ") == expected


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    ({}, ["▁a", "<x>", "▁", "b", "<x>", "▁a"]),
    ({"single_word": True}, ["▁a", "<unk>", "b", "<x>", "▁a"]),
  ],
)
def test_flags_of_added_tokens_are_followed(flags, expected, tmp_path):
  assert _pieces(_load(tmp_path, flags), "a<y>b <y> a") == expected


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    ({"normalizer": {"type": "Lowercase"}}, r"normalizer .*'Lowercase'.* is supported"),
    ({"normalizer": {"type": "Precompiled"}}, r"normalizer .*'Precompiled'"),
    ({"normalizer": _REPLACE | {"pattern": {"String": "a"}}}, r"normalizer .*'Replace'"),
    ({"pre_tokenizer": None}, r"pre_tokenizer None"),
    ({"pre_tokenizer": _SPLIT}, r"pre_tokenizer .*WhitespaceSplit"),
    ({"pre_tokenizer": _META | {"prepend_scheme": "first"}}, r"pre_tokenizer .*'first'"),
    ({"pre_tokenizer": _META | {"split": False}}, r"pre_tokenizer .*'split': False"),
    ({"post_processor": {"type": "ByteLevel"}}, r"post_processor .*'ByteLevel'"),
    ({"model": {"type": "BPE"}}, r"of type 'BPE'"),
    ({"model": {"type": "Unigram", "vocab": [["a"]]}}, r"cannot be read"),
    ({"added_tokens": [{"content": "<y>"}]}, r"cannot be read .*'id'"),
  ],
)
def test_what_is_not_followed_is_refused_by_name(changes, told, tmp_path):
  with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{told}"):
    _load(tmp_path, **changes)
