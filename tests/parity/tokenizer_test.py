"""Tokenizers give the ids that Hugging Face's give, and prompts are cleaned as Wan's."""

import json
import shutil

import pytest

from video_dit.models.text import cleaning, unigram
from video_dit.models.text import tokenizer as tokenizers


@pytest.mark.parametrize("name", ["tokenizer_t5", "tokenizer_umt5"])
@pytest.mark.parametrize("saved", [False, True])
def test_ids(shared, name, saved):
  folder = shared / "parity" / name
  tokenizer = unigram.PublishedTokenizer.load(folder / "hf_saved" if saved else folder)
  expected = json.loads((folder / "expected.json").read_text())
  assert tokenizer.vocabulary == expected["len_tokenizer"]
  ids = (tokenizer.pad, tokenizer.end)
  assert ids == (expected["pad"], expected["eos"])
  for sentinel, i in expected["sentinel_ids"].items():
    assert tokenizer.encode(sentinel) == [i, tokenizer.end]
  assert len(expected["cases"]) > 20
  wrong = [
    c["text"] for c in expected["cases"] if tokenizer.encode(c["text"]) != c["hf_ids"]
  ]
  assert not wrong


def test_ids_of_sentencepiece(shared):
  folder = shared / "parity" / "tokenizer_t5"
  tokenizer = tokenizers.Tokenizer(folder / "spiece.model")
  for case in json.loads((folder / "expected.json").read_text())["cases"]:
    assert tokenizer.encode(case["text"]) == case["spm_ids_plus_eos"], case["text"]


def test_prompts_are_cleaned_as_wan_cleans_them(shared):
  cases = json.loads((shared / "parity" / "prompt_clean.json").read_text())["cases"]
  assert len(cases) > 20
  for case in cases:
    assert cleaning.clean(case["text"]) == case["cleaned"]


def test_a_saved_tokenizer_is_the_same(shared, tmp_path):
  folder = shared / "parity" / "tokenizer_umt5"
  shutil.copyfile(folder / "spiece.model", tmp_path / "spiece.model")
  settings = {"added_tokens_decoder": {"1156": {"content": "<extra_id_0>"}}}
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
  tokenizer = unigram.PublishedTokenizer.load(tmp_path)
  assert tokenizer.vocabulary == 1157
  assert tokenizer.encode("<extra_id_0>") == [1156, tokenizer.end]
  (tmp_path / "copy").mkdir()
  tokenizer.save(tmp_path / "copy")
  again = unigram.PublishedTokenizer.load(tmp_path / "copy")
  assert again.files == tokenizer.files
  assert again.encode("a <extra_id_0> fox") == tokenizer.encode("a <extra_id_0> fox")
