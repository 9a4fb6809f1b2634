"""TFDS data sets as input, without TensorFlow."""

import os
import sys

from array_record.python import array_record_module
from etils import epath
import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from video_dit import config as config_lib
from video_dit.data import shards
from video_dit.media import errors
from video_dit.preprocess import sources, tfds_source

f = tfds.features
VIDEO = f.Tensor(shape=(None, None, None, 3), dtype=np.uint8, encoding="bytes")


def _write(folder, features, examples, num_shards=1):
  """A data set in ArrayRecord format, as TFDS lays it out."""
  folder.mkdir(parents=True)
  features = f.FeaturesDict(features)
  serializer = tfds.core.example_serializer.ExampleSerializer(
    features.get_serialized_info()
  )
  parts = np.array_split(np.arange(len(examples)), num_shards)
  for number, part in enumerate(parts):
    name = f"toy-test.array_record-{number:05d}-of-{num_shards:05d}"
    file = array_record_module.ArrayRecordWriter(str(folder / name), "group_size:1")
    for i in part:
      message = serializer.get_tf_example(features.encode_example(examples[i]))
      file.write(message.SerializeToString())
    file.close()
  template = tfds.core.ShardedFileTemplate(
    data_dir=epath.Path(folder),
    dataset_name="toy",
    filetype_suffix="array_record",
    split="test",
  )
  identity = tfds.core.dataset_info.DatasetIdentity(
    name="toy", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=""
  )
  info = tfds.core.DatasetInfo(builder=identity, description="", features=features)
  info.set_file_format("array_record")
  split = tfds.core.SplitInfo(
    name="test",
    shard_lengths=[len(part) for part in parts],
    num_bytes=1,
    filename_template=template,
  )
  info.set_splits(tfds.core.splits.SplitDict([split]))
  info.write_to_directory(folder)


def test_images_with_labels(tmp_path):
  for i in range(2):
    image = Image.fromarray(np.full((20 + i, 24, 3), 50 * i, np.uint8))
    image.save(tmp_path / f"{i}.png")
  label = f.ClassLabel(names=["red_ball", "blue box"])
  examples = [{"image": str(tmp_path / f"{i}.png"), "label": i} for i in range(2)]
  _write(
    tmp_path / "toy", {"image": f.Image(shape=(None, None, 3)), "label": label}, examples
  )
  found = list(sources.lines(tmp_path / "toy"))
  assert [line.record for line in found] == [0, 1]
  assert [line.split for line in found] == ["validation"] * 2
  assert all(line.caption is None for line in found)
  for i, line in enumerate(found):
    clip, rate, caption = tfds_source.read(line.file, line.record, config_lib.Media())
    assert (clip.shape, rate) == ((1, 20 + i, 24, 3), 0.0)
    assert (clip == 50 * i).all()
    assert caption == ["red ball", "blue box"][i]
  assert "tensorflow" not in sys.modules


def test_videos_are_brought_to_the_wanted_rate(tmp_path):
  clip = np.arange(12, dtype=np.uint8)[:, None, None, None]
  clip = np.broadcast_to(clip, (12, 16, 16, 3))
  features = {"video": VIDEO, "caption": f.Text(), "fps": f.Scalar(np.float32)}
  example = {"video": clip, "caption": "zwölf", "fps": 8.0}
  _write(tmp_path / "toy", features, [example])
  (line,) = sources.lines(f"tfds:{tmp_path / 'toy'}:test")
  for rate, wanted in ((4.0, range(0, 12, 2)), (0.0, range(12)), (8.0, range(12))):
    media = config_lib.Media(frames_per_second=rate)
    clip, own, caption = tfds_source.read(line.file, line.record, media)
    assert (own, caption) == (rate or 8.0, "zwölf")
    assert clip[:, 0, 0, 0].tolist() == list(wanted)
  with pytest.raises(errors.MediaError, match="max_source_pixels"):
    tfds_source.read(line.file, 0, config_lib.Media(max_source_pixels=10))


def test_few_shards_are_open_at_a_time(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "_MOST", 3)
  examples = [
    {"video": np.full((2, 16, 16, 3), i, np.uint8), "fps": 8.0} for i in range(20)
  ]
  features = {"video": VIDEO, "fps": f.Scalar(np.float32)}
  _write(tmp_path / "toy", features, examples, num_shards=20)
  before = len(os.listdir("/proc/self/fd"))
  for i, line in enumerate(sources.lines(tmp_path / "toy")):
    clip, _, _ = tfds_source.read(line.file, line.record, config_lib.Media())
    assert (clip == i).all()
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_video_without_a_rate_needs_one(tmp_path):
  _write(
    tmp_path / "toy", {"video": VIDEO}, [{"video": np.zeros((3, 9, 9, 3), np.uint8)}]
  )
  (line,) = sources.lines(tmp_path / "toy")
  assert tfds_source.read(line.file, 0, config_lib.Media())[1:] == (24.0, "")
  with pytest.raises(errors.MediaError, match="frames_per_second"):
    tfds_source.read(line.file, 0, config_lib.Media(frames_per_second=0.0))


def test_wrong_data_sets_are_refused(tmp_path):
  with pytest.raises(
    ValueError, match=r"tfds:nothing_of_the_kind: TFDS could not open it"
  ):
    sources.lines("tfds:nothing_of_the_kind")
  _write(tmp_path / "toy", {"audio": f.Text()}, [{"audio": "x"}])
  with pytest.raises(ValueError, match=r"features are audio.*video, clip, image"):
    sources.lines(tmp_path / "toy")
  with pytest.raises(ValueError, match=r"no such split\. Splits: test"):
    _write(tmp_path / "two", {"video": VIDEO}, [])
    sources.lines(f"tfds:{tmp_path / 'two'}:train")
