"""Published text encoders serve where our own do: by a folder, a file, a tokenizer."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from tests.interop import encoders
from video_dit import config as config_lib
from video_dit import interop
from video_dit.interop import names, safetensors_file
from video_dit.interop import t5 as t5_format
from video_dit.models.text import cleaning, unigram

_TEXTS = ["a red fox", "", "  caf\u00c3\u00a9 &amp; </s> 猫 ", "long " * 40]


def _tokenizer(folder: pathlib.Path) -> None:
  """A small unigram tokenizer, in the file that Hugging Face's tokenizers write."""
  pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁red", "▁fox", "▁long", "é", "caf", "&"]
  model = {"type": "Unigram", "unk_id": 2, "byte_fallback": False}
  model["vocab"] = [[p, 0.0 if i < 3 else -i / 2] for i, p in enumerate(pieces)]
  added = [{"id": i, "content": p} for i, p in enumerate(pieces[:3])]
  words = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
  steps = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, words]}
  content = {"model": model, "added_tokens": added, "pre_tokenizer": steps}
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pipeline")
  encoders.write(folder / "text_encoder", encoders.CONFIG, "umt5")
  _tokenizer(folder / "tokenizer")
  return folder


@pytest.fixture(scope="module")
def text(pipeline):
  return config_lib.Text(checkpoint=str(pipeline / "text_encoder"), max_tokens=24)


@pytest.fixture(scope="module")
def made(text, tmp_path_factory):
  folder = tmp_path_factory.mktemp("text")
  interop.text_tokenizer(text).save(folder)
  return interop.text_encoder(text, folder), folder


def test_captions_are_encoded_as_the_model_encodes_them(text, made):
  encoder, _ = made
  assert encoder.width == 20 and not encoder.random
  assert [encoder.is_cut(t) for t in _TEXTS] == [False, False, False, True]
  out = encoder.encode(_TEXTS)
  model = interop.load(text.checkpoint).model
  run = jax.jit(lambda model, ids, mask: model(ids, mask))
  for caption, got in zip(_TEXTS, out, strict=True):
    ids = encoder.tokens(caption)
    assert got.shape == (len(ids), 20) and ids[-1] == 1 and len(ids) <= 24
    expected = run(model, np.array([ids]), np.ones((1, len(ids)), bool))
    # Stored as float16.
    np.testing.assert_allclose(got, np.asarray(expected)[0], atol=2e-3, rtol=1e-3)


def test_prompts_are_cleaned_for_umt5_alone(text, made, pipeline, tmp_path):
  encoder, _ = made
  plain = unigram.PublishedTokenizer.load(pipeline / "tokenizer")
  assert cleaning.clean(_TEXTS[2]) == "café & </s> 猫"
  assert encoder.tokens(_TEXTS[2]) == plain.encode("café & </s> 猫")
  encoders.write(tmp_path, {**encoders.CONFIG, "model_type": "t5"}, "t5")
  t5 = dataclasses.replace(
    text, checkpoint=str(tmp_path), tokenizer=str(pipeline / "tokenizer")
  )
  assert interop.text_tokenizer(t5).encode(_TEXTS[2]) == plain.encode(_TEXTS[2])
  assert plain.encode(_TEXTS[2]) != encoder.tokens(_TEXTS[2])


def test_the_fingerprint_is_of_weights_tokenizer_and_settings(text, made, tmp_path):
  encoder, folder = made
  assert interop.text_fingerprint(text) == encoder.fingerprint
  assert interop.text_fingerprint(config_lib.Text()) is None
  # However it is sharded.
  tensors = interop.open_tensors(text.checkpoint)
  loaded = interop.load(text.checkpoint)
  outgoing = names.save_from(
    loaded.params, t5_format.table(loaded.config, "transformers")
  )
  assert set(outgoing) == set(tensors.names)
  safetensors_file.write_safetensors(
    tmp_path / "shards", outgoing, encoders.CONFIG, shard_bytes=2000
  )
  tokenizer = str(folder / "tokenizer.json")
  sharded = dataclasses.replace(
    text, checkpoint=str(tmp_path / "shards"), tokenizer=tokenizer
  )
  assert interop.text_fingerprint(sharded) == encoder.fingerprint
  marks = {encoder.fingerprint}
  for change in ({"max_tokens": 8}, {"dtype": "bfloat16"}):
    marks.add(interop.text_fingerprint(dataclasses.replace(text, **change)))
  other = {"encoder.final_layer_norm.weight": np.zeros(20, np.float32)}
  encoders.write(tmp_path / "other", encoders.CONFIG, "umt5", **other)
  changed = dataclasses.replace(sharded, checkpoint=str(tmp_path / "other"))
  marks.add(interop.text_fingerprint(changed))
  assert len(marks) == 4


def test_a_config_marks_whatever_it_calls_the_model(text, made, tmp_path):
  """And Wan's own, of its transformer, does not."""
  where = {"checkpoint": str(tmp_path), "tokenizer": str(made[1] / "tokenizer.json")}
  there = dataclasses.replace(text, **where)
  encoders.write(tmp_path, encoders.CONFIG, "umt5")
  marks = []
  for said in (
    {"_class_name": "WanModel", "num_heads": 12},
    {"_class_name": "WanModel", "num_heads": 40},
    {**encoders.CONFIG, "model_type": "mt5"},
    {**encoders.CONFIG, "model_type": "mt5", "relative_attention_max_distance": 64},
  ):
    (tmp_path / "config.json").write_text(json.dumps(said))
    marks.append(interop.text_fingerprint(there))
  assert marks[0] == marks[1] and len(set(marks)) == 3


def test_a_file_of_wans_own_finds_its_tokenizer(text, pipeline, made, tmp_path):
  interop.save(interop.load(text.checkpoint), tmp_path / "native", naming="native")
  shutil.move(tmp_path / "native" / "model.safetensors", tmp_path / "umt5.safetensors")
  (tmp_path / "config.json").write_text('{"_class_name": "WanModel"}')
  shutil.copytree(pipeline / "tokenizer", tmp_path / "google" / "umt5-xxl")
  native = dataclasses.replace(text, checkpoint=str(tmp_path / "umt5.safetensors"))
  encoder = interop.text_encoder(native, made[1])
  for a, b in zip(encoder.encode(_TEXTS), made[0].encode(_TEXTS), strict=True):
    np.testing.assert_array_equal(a, b)
  assert interop.text_fingerprint(native) == encoder.fingerprint


def test_it_computes_in_bfloat16_too(text, made):
  half = dataclasses.replace(text, dtype="bfloat16")
  encoder = interop.text_encoder(half, made[1])
  assert {str(x.dtype) for x in jax.tree.leaves(encoder.params)} == {"bfloat16"}
  a, b = (e.encode(_TEXTS[:1])[0].astype(np.float32) for e in (made[0], encoder))
  assert np.sqrt(((a - b) ** 2).mean() / (a**2).mean()) < 0.03


def test_what_is_missing_is_told(text, tmp_path):
  nowhere = dataclasses.replace(text, checkpoint=str(tmp_path / "nowhere"))
  for ask in (interop.text_tokenizer, interop.text_fingerprint):
    with pytest.raises(ValueError, match=r"config.text.checkpoint=.*nowhere"):
      ask(nowhere)
  encoders.write(tmp_path / "bare", encoders.CONFIG, "umt5")
  bare = dataclasses.replace(text, checkpoint=str(tmp_path / "bare"))
  with pytest.raises(ValueError, match=r"there is no tokenizer .*config.text.tokenizer"):
    interop.text_tokenizer(bare)
  with pytest.raises(ValueError, match=r"config.text.tokenizer='gone' does not exist"):
    interop.text_tokenizer(dataclasses.replace(bare, tokenizer="gone"))
  _tokenizer(tmp_path / "bare")
  small = {**encoders.CONFIG, "vocab_size": 5}
  encoders.write(tmp_path / "small", small, "umt5")
  small_text = dataclasses.replace(text, checkpoint=str(tmp_path / "small"))
  with pytest.raises(ValueError, match=r"has 5 ids, its tokenizer has 11"):
    interop.text_encoder(small_text, tmp_path / "bare")
