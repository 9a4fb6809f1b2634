"""Latents with captions encoded by a published text encoder."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.interop import encoders
from tests.preprocess.files import moving
from video_dit import config as config_lib
from video_dit import interop
from video_dit.data import reader, schema
from video_dit.generator import generator
from video_dit.media import write
from video_dit.parallel import mesh as mesh_lib
from video_dit.preprocess import run


@pytest.fixture
def umt5(config, tmp_path):
  """The config with a published layout's encoder and tokenizer."""
  folder = tmp_path / "umt5"
  encoders.write(folder, encoders.CONFIG, "umt5")
  encoders.write_tokenizer(folder)
  text = dataclasses.replace(config.text, checkpoint=str(folder))
  return dataclasses.replace(config, text=text)


def test_captions_go_through_umt5_and_sampling_finds_it(umt5, tmp_path):
  (tmp_path / "in").mkdir()
  path = tmp_path / "in" / "0.mp4"
  write.write_video(path, moving(5, 32, 32, 0), 8.0)
  path.with_suffix(".txt").write_text("clip &amp; clip")
  outcome = run.preprocess(umt5, tmp_path / "in", tmp_path / "out")
  assert outcome.made.written == 1

  metadata = schema.Metadata.load(outcome.folder)
  assert metadata.text == interop.text_fingerprint(umt5.text)
  assert metadata.text_width == 20
  data = dataclasses.replace(umt5.data, path=str(tmp_path / "out"))
  whole = dataclasses.replace(umt5, data=data)
  _, encoder = generator.load_encoders(whole, None)
  dataset = reader.Dataset(outcome.folder, "train")
  expected = encoder.encode(["clip & clip"])[0]
  assert expected.shape == (5, 20)
  np.testing.assert_array_equal(dataset[0].text, expected)
  # A config that names no text encoder takes the one that the data set was made with.
  unnamed = dataclasses.replace(whole, text=config_lib.Text())
  _, found = generator.load_encoders(unnamed, None)
  np.testing.assert_array_equal(found.encode(["clip & clip"])[0], expected)
  # A second run adds nothing, and changes nothing.
  again = run.preprocess(umt5, tmp_path / "in", tmp_path / "out")
  assert again.made.written == 0

  other = {"encoder.final_layer_norm.weight": np.zeros(20, np.float32)}
  encoders.write(tmp_path / "umt5", encoders.CONFIG, "umt5", **other)
  with pytest.raises(ValueError, match="text encoder"):
    generator.load_encoders(whole, None)
  (tmp_path / "umt5").rename(tmp_path / "moved")
  with pytest.raises(
    ValueError, match=r"config.text.checkpoint='.*/umt5' does not exist"
  ):
    generator.load_encoders(unnamed, None)


def test_a_text_encoder_over_the_mesh_works_while_each_device_encodes_clips(
  umt5, tmp_path
):
  (tmp_path / "in").mkdir()
  for i in range(8):
    path = tmp_path / "in" / f"{i}.mp4"
    write.write_video(path, moving(5, 32, 32, i), 8.0)
    path.with_suffix(".txt").write_text("clip " * (i + 1))
  mesh = mesh_lib.make(jax.devices()[:4], (1, 2, 2, 1))
  several = run.preprocess(umt5, tmp_path / "in", tmp_path / "several", mesh=mesh)
  alone = run.preprocess(umt5, tmp_path / "in", tmp_path / "alone")
  found, wanted = (
    {record.key: record for record in reader.Dataset(outcome.folder, "train")}
    for outcome in (several, alone)
  )
  assert found.keys() == wanted.keys() and len(found) == 8
  for key, record in found.items():
    np.testing.assert_allclose(record.text, wanted[key].text, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(record.latent, wanted[key].latent, rtol=2e-3, atol=2e-3)


def test_a_missing_checkpoint_is_refused_before_anything_is_decoded(umt5, tmp_path):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "0.mp4").write_bytes(b"no video")
  text = dataclasses.replace(umt5.text, checkpoint=str(tmp_path / "nowhere"))
  with pytest.raises(ValueError, match=r"config.text.checkpoint=.*nowhere"):
    run.preprocess(
      dataclasses.replace(umt5, text=text), tmp_path / "in", tmp_path / "out"
    )
  assert not (tmp_path / "out").exists()


def test_a_refused_encoder_does_not_stand_in_the_way_of_the_next(umt5, tmp_path):
  (tmp_path / "in").mkdir()
  write.write_video(tmp_path / "in" / "0.mp4", moving(5, 32, 32, 0), 8.0)
  file = tmp_path / "umt5" / "tokenizer.json"
  good = file.read_text()
  wrong = json.loads(good)
  wrong["model"]["vocab"] += [[f"▁{i}", -3.0] for i in range(1000)]
  file.write_text(json.dumps(wrong))
  with pytest.raises(ValueError, match=r"its tokenizer has 1005"):
    run.preprocess(umt5, tmp_path / "in", tmp_path / "out")
  assert not (tmp_path / "out").exists()  # Nothing was decoded before.
  file.write_text(good)
  assert run.preprocess(umt5, tmp_path / "in", tmp_path / "out").made.written == 1
