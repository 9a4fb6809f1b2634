"""The text encoder's folder, what its tokenizer learns from, and where encodings wait."""

import os
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import tiny
from video_dit import config as config_lib
from video_dit.preprocess import captions


def test_a_damaged_record_of_settings_is_named(tmp_path):
  table = pa.table({"caption": ["a red ball"], "split": ["train"]})
  pq.write_table(table, tmp_path / "clips.parquet")
  (tmp_path / "text").mkdir()
  (tmp_path / "text" / "preprocess.json").write_text('{"text": {')
  with pytest.raises(ValueError, match=r"preprocess.json: is not JSON.*--overwrite"):
    captions.prepare(
      config_lib.Text(), tmp_path / "text", tmp_path / "clips.parquet", overwrite=False
    )


def test_encodings_are_kept_whole_where_the_system_writes_a_part(monkeypatch):
  write = os.pwrite
  monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[:5], at))
  encoder = types.SimpleNamespace(
    width=3,
    encode=lambda texts: [
      np.full((len(text), 3), len(text), np.float16) for text in texts
    ],
    is_cut=lambda text: False,
  )
  kept = captions.Captions(encoder)
  kept.expect(["a", "bcd", "a", "bcd", "ef"])
  for texts in (["a", "bcd"], ["ef", "bcd", "a"]):
    for text, found in zip(texts, kept.encode(texts), strict=True):
      np.testing.assert_array_equal(found, np.full((len(text), 3), len(text)))


def test_a_tokenizer_learns_from_captions_of_the_training_split_alone(tmp_path):
  splits = ["train", "validation", "train", "train"]
  rows = {"caption": ["a", "b", "", "a"], "split": splits}
  pq.write_table(pa.table(rows), tmp_path / "clips.parquet")
  assert captions.training_captions(tmp_path / "clips.parquet") == {"a"}


def test_a_tokenizer_learns_in_the_same_order_in_every_process(tmp_path, monkeypatch):
  texts = [f"a {shape} moves {way}" for shape in "abcdefgh" for way in ("left", "right")]
  rows = {"caption": texts[::-1], "split": ["train"] * len(texts)}
  pq.write_table(pa.table(rows), tmp_path / "clips.parquet")
  learned, train = [], captions.tokenizer_lib.train_tokenizer

  def trained(texts, *args):
    learned.extend(texts)
    train(texts, *args)

  monkeypatch.setattr(captions.tokenizer_lib, "train_tokenizer", trained)
  clips = tmp_path / "clips.parquet"
  captions.prepare(tiny.CONFIG.text, tmp_path / "text", clips, overwrite=False)
  assert learned == sorted(texts)
