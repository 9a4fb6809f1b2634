"""Encoders that moved are found where the config says; others are refused by name."""

import dataclasses
import json
import shutil

import pytest

from tests import tiny
from video_dit import config as config_lib
from video_dit.data import schema
from video_dit.generator import encoders
from video_dit.train import pictures

SAMPLE = tiny.CONFIG.sample
NAMED = encoders.Named(autoencoder="/old/ae", text="/old/text")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return tiny.run_once(tmp_path_factory).parent / "data"


@pytest.fixture(scope="module")
def metadata(data):
  return schema.Metadata.load(data / "latents")


def config(autoencoder="", text="") -> config_lib.Config:
  return dataclasses.replace(
    tiny.CONFIG,
    autoencoder=dataclasses.replace(tiny.CONFIG.autoencoder, checkpoint=str(autoencoder)),
    text=dataclasses.replace(tiny.CONFIG.text, checkpoint=str(text)),
    train=config_lib.Train(sample_prompts=("a red circle",)),
  )


def moved(metadata, tmp_path) -> schema.Metadata:
  """Of a data set whose encoders are not where it says."""
  gone = {"autoencoder_path": str(tmp_path / "ae"), "text_path": str(tmp_path / "t")}
  return dataclasses.replace(metadata, **gone)


def test_what_the_config_names_goes_before_what_the_data_set_names(
  data, metadata, tmp_path
):
  ours = config(data / "autoencoder", data / "text")
  elsewhere = moved(metadata, tmp_path)
  path = encoders.autoencoder_path(ours, elsewhere, encoders.Named())
  assert path == str(data / "autoencoder")
  text, folder = encoders.text_place(ours, elsewhere, encoders.Named())
  assert folder == text.checkpoint == str(data / "text")
  encoders.check(ours, elsewhere)


def test_the_data_sets_own_stand_in_for_a_workdirs_path_that_is_gone(data, metadata):
  for one in (config(), config("/old/ae", "/old/text")):
    assert encoders.autoencoder_path(one, metadata, NAMED) == str(data / "autoencoder")
    text, folder = encoders.text_place(one, metadata, NAMED)
    assert text.checkpoint == "" and folder == str(data / "text")


def test_a_wrong_path_is_refused_where_someone_gave_it(metadata, tmp_path):
  with pytest.raises(ValueError, match=r"autoencoder.checkpoint='/new/ae' does not"):
    encoders.autoencoder_path(config("/new/ae"), metadata, NAMED)
  with pytest.raises(ValueError, match=r"text.checkpoint='/new/text' does not exist"):
    encoders.text_place(config(text="/new/text"), metadata, NAMED)
  elsewhere = moved(metadata, tmp_path)
  for one in (config(), config("/old/ae", "/old/text")):
    with pytest.raises(
      ValueError, match=rf"{tmp_path}/ae, is (also )?missing.*--config.autoenc"
    ):
      encoders.autoencoder_path(one, elsewhere, NAMED)
    with pytest.raises(
      ValueError, match=rf"{tmp_path}/t, is (also )?missing.*--config.text.check"
    ):
      encoders.text_place(one, elsewhere, NAMED)


def test_another_encoder_is_refused_by_its_path(data, metadata, tmp_path):
  other = shutil.copytree(data / "autoencoder", tmp_path / "other")
  description = json.loads((other / "autoencoder.json").read_text())
  description["latent_mean"][0] += 1
  (other / "autoencoder.json").write_text(json.dumps(description))
  with pytest.raises(ValueError, match=rf"checkpoint='{other}': .* made by the autoenc"):
    encoders.check(config(other), metadata)
  text = shutil.copytree(data / "text", tmp_path / "text")
  description = json.loads((text / "encoder.json").read_text())
  (text / "encoder.json").write_text(json.dumps(description | {"fingerprint": "0" * 64}))
  with pytest.raises(ValueError, match=rf"checkpoint='{text}': .* made by the text enc"):
    encoders.text_place(config(text=text), metadata, NAMED)


def test_training_with_prompts_refuses_before_its_first_step(metadata, tmp_path):
  mesh = tiny.mesh()
  with pytest.raises(ValueError, match=r"ae, is missing"):
    pictures.Sampler(config(), mesh, moved(metadata, tmp_path))
  for sample, message in (
    ({"height": 20}, r"height=20 must be a multiple of 8 pixels"),
    ({"frames": 41}, r"176 tokens, a sampling row holds 96"),
    ({"rows": 4}, r"config.sample.rows=4 does not divide"),
    ({"format": "png"}, r"format='png' holds one frame"),
  ):
    other = dataclasses.replace(config(), sample=dataclasses.replace(SAMPLE, **sample))
    with pytest.raises(ValueError, match=message):
      pictures.Sampler(other, mesh, metadata)
  pictures.Sampler(config(), mesh, metadata)


def test_the_workdir_says_what_its_config_names(tmp_path):
  assert encoders.named_in(tmp_path) == encoders.Named()
  tree = config_lib.to_dict(config("/old/ae", "/old/text"))
  (tmp_path / "config.json").write_text(json.dumps(tree))
  assert encoders.named_in(tmp_path) == NAMED
