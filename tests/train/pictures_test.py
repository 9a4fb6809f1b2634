"""Samples during training: as `sample` makes them, without a text encoder in memory."""

import dataclasses
import json

import jax
import numpy as np
from PIL import Image
import pytest

from tests import tiny
from video_dit import config as config_lib
from video_dit import interop
from video_dit.data import schema
from video_dit.generator import generator as generator_lib
from video_dit.train import pictures

PROMPTS = (tiny.PROMPTS[0], tiny.PROMPTS[1], tiny.PROMPTS[0])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny.run_once(tmp_path_factory)


@pytest.fixture(scope="module")
def config(workdir) -> config_lib.Config:
  found = config_lib.parse(json.loads((workdir / "config.json").read_text()))
  return dataclasses.replace(found, train=config_lib.Train(sample_prompts=PROMPTS))


@pytest.fixture(scope="module")
def metadata(workdir):
  return schema.Metadata.load(workdir.parent / "data" / "latents")


def test_clips_are_those_of_a_generator_with_its_text_encoder(
  workdir, config, metadata, tmp_path, monkeypatch
):
  mesh, sample = tiny.mesh(), dataclasses.replace(config.sample, frames=1)
  config = dataclasses.replace(config, sample=sample)  # images, whose files lose nothing
  generator = generator_lib.Generator.from_workdir(workdir, config, mesh)
  requests = pictures._requests(config)
  expected = {id(request): frames for request, frames in generator.generate(requests)}
  sampler = pictures.Sampler(config, mesh, metadata)
  monkeypatch.delattr(interop, "text_encoder")  # it is not loaded again
  for step in (1, 2):
    folder = tmp_path / str(step)
    folder.mkdir()
    found = sampler(mesh, generator.params, step, folder)
    assert [prompt for prompt, _ in found] == list(PROMPTS)
    for (_, path), request in zip(found, requests, strict=True):
      with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), expected[id(request)][0])


def test_no_weights_of_the_text_encoder_stay(config, metadata):
  def live() -> int:
    return sum(x.nbytes for x in jax.live_arrays())

  encoder = generator_lib.load_text_encoder(config, tiny.mesh(), metadata)
  weights = sum(x.nbytes for x in jax.tree.leaves(encoder.params))
  del encoder
  before = live()
  sampler = pictures.Sampler(config, tiny.mesh(), metadata)
  assert live() - before < weights / 10
  assert sampler._captions.encode([""])[0].shape == metadata.empty.shape


def test_a_prompt_that_no_row_holds_is_refused_before_training(config, metadata):
  data = dataclasses.replace(config.data, row_text=8)
  with pytest.raises(ValueError, match=r"text tokens, a row holds 8.*config.data.row_te"):
    pictures.Sampler(dataclasses.replace(config, data=data), tiny.mesh(), metadata)
