"""The text encoder's folder, and the file that encodings wait in."""

import os
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from video_dit import config as config_lib
from video_dit.preprocess import captions


def test_a_damaged_record_of_settings_is_named(tmp_path):
  table = pa.table({"caption": ["a red ball"], "split": ["train"]})
  pa.parquet.write_table(table, tmp_path / "clips.parquet")
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
