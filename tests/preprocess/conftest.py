"""A folder of tiny media, a tiny autoencoder, and the config that goes with them."""

import dataclasses
import pathlib
import shutil

from flax import nnx
import numpy as np
import pytest

from tests import tiny
from tests.models.autoencoder import inside_test
from tests.preprocess import files
from video_dit import config as config_lib
from video_dit.models.autoencoder import model, store
from video_dit.preprocess import run

CONFIG = dataclasses.replace(
  tiny.CONFIG,
  autoencoder=dataclasses.replace(tiny.CONFIG.autoencoder, space=8, patch=4),
  text=dataclasses.replace(tiny.CONFIG.text, vocabulary=64, max_tokens=16),
  media=config_lib.Media(
    frames_per_second=8.0,
    max_pixels=32 * 32,
    max_frames=9,
    validation_fraction=0.0,
    timeout_seconds=60.0,
    workers=1,
    shard_records=2,
  ),
  data=config_lib.Data(row_length=64, row_text=64, row_segments=8),
)


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory) -> pathlib.Path:
  """Folder of an exported autoencoder with random weights."""
  folder = tmp_path_factory.mktemp("models") / "autoencoder"
  arch = CONFIG.autoencoder
  made = nnx.eval_shape(lambda: model.Autoencoder(arch, rngs=nnx.Rngs(0)))
  # As initialised, latents would not tell what lies around them, in the clip or beyond.
  store.export(folder, arch, inside_test.weights(made), np.zeros(4), np.ones(4))
  return folder


@pytest.fixture(scope="session")
def media(tmp_path_factory) -> pathlib.Path:
  """The folder that `files.write_media` writes; not to be changed."""
  folder = tmp_path_factory.mktemp("media") / "in"
  files.write_media(folder)
  return folder


@pytest.fixture(scope="session")
def config(autoencoder) -> config_lib.Config:
  """The config of the tests."""
  arch = dataclasses.replace(CONFIG.autoencoder, checkpoint=str(autoencoder))
  return dataclasses.replace(CONFIG, autoencoder=arch)


@pytest.fixture(scope="module")
def done(config, media, tmp_path_factory):
  """A finished run and its folder; not to be changed."""
  folder = tmp_path_factory.mktemp("run") / "out"
  return run.preprocess(config, media, folder), folder


@pytest.fixture(scope="module")
def pixels(config):
  """The config that keeps pixels, where the encoders make no difference."""
  return dataclasses.replace(config, objective="reconstruction")


@pytest.fixture(scope="module")
def done_pixels(pixels, media, tmp_path_factory):
  """A finished run of pixels, and its folder; not to be changed."""
  folder = tmp_path_factory.mktemp("run") / "out"
  return run.preprocess(pixels, media, folder), folder


@pytest.fixture
def copy(done_pixels, tmp_path):
  """A copy of the finished run's folder."""
  shutil.copytree(done_pixels[1], tmp_path / "out")
  return tmp_path / "out"
