"""The reader: the index, and refusals by name."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from tests.data import clips
from video_dit.data import reader, schema


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A finished set of 40 clips."""
  return clips.write(tmp_path_factory.mktemp("latents"), 40)


def test_index_says_what_the_records_hold(folder):
  dataset = reader.Dataset(folder, "validation")
  written = [record for record, split in clips.records(40) if split == "validation"]
  assert len(dataset) == len(dataset.index) == len(written) == 8
  for i, record in enumerate(written):
    np.testing.assert_array_equal(dataset[i].latent, record.latent)
    np.testing.assert_array_equal(dataset[i].text, record.text)
    extents = tuple(getattr(dataset.index, name)[i] for name in "thw")
    assert (*extents, clips.CHANNELS) == record.latent.shape
    assert dataset.index.text_tokens[i] == len(record.text)
    assert dataset.index.key[i].decode() == record.key
    assert dataset.index.column("caption")[i] == record.caption


def test_records_are_what_tfds_decodes(folder):
  dataset = reader.Dataset(folder)
  source = tfds.builder_from_directory(str(folder)).as_data_source("train")
  for i, example in enumerate(source):
    for name, value in example.items():
      value = value.decode() if isinstance(value, bytes) else value
      np.testing.assert_array_equal(getattr(dataset[i], name), value)


def test_metadata_comes_back(folder):
  metadata = reader.Dataset(folder).metadata
  assert metadata == clips.metadata()
  np.testing.assert_array_equal(metadata.empty, clips.metadata().empty)
  assert metadata.folder == str(folder)


def test_a_missing_set_is_refused(tmp_path):
  with pytest.raises(ValueError, match=rf"{tmp_path}.*no data set.*preprocess"):
    reader.Dataset(tmp_path)


@pytest.mark.parametrize(
  ("content", "told"), [('{"kind": "la', "is not JSON"), ("{}", "its kind is None")]
)
def test_a_damaged_provenance_is_named(content, told, tmp_path):
  (tmp_path / schema.PROVENANCE).write_text(content)
  with pytest.raises(ValueError, match=rf"provenance.json: {told}.*preprocess again"):
    reader.Dataset(tmp_path)


def test_an_unfinished_set_is_refused(tmp_path):
  clips.metadata().save(tmp_path)
  with pytest.raises(ValueError, match=r"unfinished.*preprocess"):
    reader.Dataset(tmp_path)


def test_a_missing_split_and_a_missing_shard_are_refused(tmp_path):
  clips.write(tmp_path, 4)
  with pytest.raises(ValueError, match=r"no split 'validation', only \['train'\]"):
    reader.Dataset(tmp_path, "validation")
  next(tmp_path.glob("latents-train*")).unlink()
  with pytest.raises(ValueError, match=r"latents-train.*missing"):
    reader.Dataset(tmp_path)


def test_opening_asks_for_no_shard_by_itself(tmp_path, monkeypatch):
  """On a mounted bucket each question takes milliseconds, and there may be 20,000."""
  clips.write(tmp_path, 20, shard_records=1)
  stat, asked = os.stat, []

  def counted(path, *args, **kwargs):
    asked.append(str(path))
    return stat(path, *args, **kwargs)

  monkeypatch.setattr(os, "stat", counted)
  assert len(reader.Dataset(tmp_path)) == 16
  assert asked and not [path for path in asked if "array_record" in path]


def test_an_index_of_other_records_is_refused(tmp_path):
  clips.write(tmp_path, 10)
  path = tmp_path / schema.INDEX
  pq.write_table(pq.read_table(path).slice(1), path)
  with pytest.raises(ValueError, match=r"index.parquet: \d+ lines for \d+ records"):
    reader.Dataset(tmp_path)


def test_other_encoders_are_refused_by_name(folder):
  metadata = schema.Metadata.load(folder)
  reader.check(metadata, "ae-1", "t5-1")
  with pytest.raises(ValueError, match=rf"{folder}.*autoencoder.*ae-1.*ae-2.*again"):
    reader.check(metadata, "ae-2", "t5-1")
  with pytest.raises(ValueError, match=r"text encoder.*t5-1.*t5-2.*preprocess again"):
    reader.check(metadata, "ae-1", "t5-2")
  with pytest.raises(ValueError, match=r"'latents' where 'pixels'"):
    reader.check(metadata, kind="pixels")


def test_a_damaged_record_is_named(tmp_path):
  clips.write(tmp_path, 4)
  dataset = reader.Dataset(tmp_path)
  latent = dataset[2].latent.tobytes()
  shard = next(tmp_path.glob("latents-train*"))
  damaged = bytearray(shard.read_bytes())
  damaged[damaged.index(latent)] ^= 1
  shard.write_bytes(damaged)
  dataset = reader.Dataset(tmp_path)
  assert dataset[1].key == clips.key(1)
  with pytest.raises(reader.RecordError, match=r"latents-train.*record 2 "):
    dataset[2]


class _Refusing:
  """A source of records whose file system refuses the first reads."""

  def __init__(self, source, errors):
    self.source, self.errors = source, list(errors)

  def __getitem__(self, i):
    if self.errors:
      raise self.errors.pop(0)
    return self.source[i]

  def place(self, i):
    return self.source.place(i)


def test_a_read_that_fails_briefly_is_no_damage(tmp_path):
  dataset = reader.Dataset(clips.write(tmp_path, 30))
  one = dataset.sets[0]
  source = one._source
  hiccup = [OSError("no answer"), RuntimeError("Input/output error")]
  one._source = _Refusing(source, hiccup)
  assert dataset[3].key == clips.key(3)
  one._source = _Refusing(source, [*hiccup, OSError("gone")])
  # The second shard's fourth record: shards have sixteen.
  with pytest.raises(reader.RecordError, match=r"-00001: record 3 .*gone"):
    dataset[19]
  one._source = _Refusing(source, [MemoryError()])
  with pytest.raises(MemoryError):
    dataset[3]
  with pytest.raises(IndexError, match="no record 24 of 24"):
    dataset[24]
