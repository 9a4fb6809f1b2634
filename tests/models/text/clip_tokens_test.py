"""Special and added tokens of a CLIP tokenizer are found in texts as by the peer."""

import json

import pytest

from video_dit.models.text import bpe
from video_dit.models.text.bpe import ClipTokenizer

_CHARACTERS = bpe._bytes_to_characters()
_TOKENS = [*_CHARACTERS, *(c + "</w>" for c in _CHARACTERS)]
_IDS = {t: i for i, t in enumerate([*_TOKENS, "<|startoftext|>", "<|endoftext|>"])}
_NEXT = len(_IDS)


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "vocab.json").write_text(json.dumps(_IDS))
  (tmp_path / "merges.txt").write_text("#version: 0.2\n")
  return tmp_path


def _write(folder, **files):
  for name, content in files.items():
    (folder / f"{name}.json").write_text(json.dumps(content))


def _spell(tokenizer, text):
  """What a text becomes, the end and the start left out; added tokens as numbers."""
  names = {i: t for t, i in _IDS.items()}
  return " ".join(names.get(i, str(i - _NEXT)) for i in tokenizer.encode(text)[1:-1])


def _entry(content, **flags):
  return {"content": content, "normalized": True, "special": False} | flags


# The toy of older versions, of settings and of a whole tokenizer.
_TOY = {
  "added": {"added_tokens": {"<Toy>": _NEXT}},
  "decoder": {
    "tokenizer_config": {"added_tokens_decoder": {str(_NEXT): _entry("<Toy>")}}
  },
  "whole": {"tokenizer": {"added_tokens": [_entry("<Toy>", id=_NEXT)]}},
}


@pytest.mark.parametrize("where", _TOY)
def test_added_tokens_are_found_wherever_they_are_written(where, folder):
  _write(folder, **_TOY[where])
  tokenizer = ClipTokenizer.load(folder)
  assert _spell(tokenizer, "a <Toy>b <tOY> <to") == "a</w> 0 b</w> 0 <</w> t o</w>"
  assert tokenizer.vocabulary == _NEXT + 1
  (folder / "copy").mkdir()
  tokenizer.save(folder / "copy")
  assert ClipTokenizer.load(folder / "copy").files == tokenizer.files


def test_a_token_that_pads_stands_for_its_text(folder):
  """As `!` does with Stable Diffusion 2 and XL."""
  plain = ClipTokenizer.load(folder)
  assert _spell(plain, "a!") == "a</w> !</w>"
  _write(folder, tokenizer_config={"pad_token": "!"})
  tokenizer = ClipTokenizer.load(folder)
  assert tokenizer.pad == _IDS["!"]
  assert _spell(tokenizer, "a! b!!?") == "a</w> ! b</w> ! ! ?</w>"


def test_flags_say_where_a_token_counts(folder):
  tokens = [
    _entry("Ab", normalized=False),
    _entry("CD", single_word=True),
    _entry("--", lstrip=True, rstrip=True),
  ]
  decoder = {str(_NEXT + i): token for i, token in enumerate(tokens)}
  _write(folder, tokenizer_config={"added_tokens_decoder": decoder})
  tokenizer = ClipTokenizer.load(folder)
  assert _spell(tokenizer, "Abx abx") == "0 x</w> a b x</w>"
  assert _spell(tokenizer, "cd, xcd Cd") == "1 ,</w> x c d</w> 1"
  assert _spell(tokenizer, "x  -- \tx") == "x</w> 2 x</w>"


def test_files_that_add_nothing_are_left(folder):
  before = ClipTokenizer.load(folder).files
  said = [_entry(t, id=_IDS[t], normalized=False, special=True) for t in list(_IDS)[-2:]]
  _write(folder, tokenizer={"added_tokens": said}, added_tokens={})
  assert ClipTokenizer.load(folder).files == before


@pytest.mark.parametrize(
  ("files", "told"),
  [
    (
      {"tokenizer_config": {"pad_token": "[PAD]"}},
      r"'\[PAD\]' has the id None",
    ),
    ({"tokenizer_config": {"pad_token": 3}}, r"3 is not a token"),
    ({"tokenizer_config": {"extra_special_tokens": 3}}, r"3 is not a token"),
    ({"tokenizer_config": []}, r"tokenizer_config.json: is not a JSON object"),
    ({"tokenizer_config": {"added_tokens_decoder": {"x": "a"}}}, r"not an object of ids"),
    (
      {"added_tokens": {"<a>": "1"}},
      r"added_tokens.json: .*'<a>' has the id '1'",
    ),
    ({"tokenizer": {"added_tokens": [{}]}}, r"tokenizer.json: {} is not a token"),
    ({"vocab": {"a": "b"}}, r"vocab.json: cannot be read .*'a' has the id 'b'"),
  ],
)
def test_what_is_damaged_is_named(files, told, folder):
  _write(folder, **files)
  with pytest.raises(ValueError, match=told):
    ClipTokenizer.load(folder)
