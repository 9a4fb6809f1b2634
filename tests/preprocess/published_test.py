"""Latents by a published autoencoder, and what a config must say of it."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.preprocess.files import moving
from video_dit import interop
from video_dit.data import reader, schema
from video_dit.generator import generator
from video_dit.media import decode, write
from video_dit.preprocess import run


@pytest.fixture(scope="module")
def wan(config, shared):
  """The config with the published layout's autoencoder in the place of our own."""
  arch = dataclasses.replace(
    config.autoencoder,
    checkpoint=str(shared / "parity" / "wan21_vae"),
    channels=16,
    space=8,
    time=4,
  )
  media = dataclasses.replace(config.media, max_pixels=16 * 32, max_frames=5)
  return dataclasses.replace(config, autoencoder=arch, media=media)


def test_clips_go_through_wans_autoencoder_and_back(wan, tmp_path):
  (tmp_path / "in").mkdir()
  for seed in range(2):
    path = tmp_path / "in" / f"{seed}.mp4"
    write.write_video(path, moving(5, 16, 32, seed), 8.0)
    path.with_suffix(".txt").write_text(f"clip {seed}")
  outcome = run.preprocess(wan, tmp_path / "in", tmp_path / "out")
  assert outcome.made.written == 2

  frozen = interop.autoencoder(wan.autoencoder.checkpoint)
  metadata = schema.Metadata.load(outcome.folder)
  assert metadata.autoencoder == frozen.fingerprint
  assert (metadata.channels, metadata.space, metadata.time) == (16, 8, 4)
  data = reader.Dataset(outcome.folder, "train")
  records = sorted((data[i] for i in range(len(data))), key=lambda r: r.caption)
  assert [record.caption for record in records] == ["clip 0", "clip 1"]
  clips = [
    np.stack(
      list(decode.frames(tmp_path / "in" / f"{seed}.mp4", wan.media, size=(16, 32)))
    )
    for seed in range(2)
  ]
  expected = frozen.encode_batch(np.stack(clips))
  latents = np.stack([record.latent for record in records])
  assert latents.shape == (2, 2, 2, 4, 16)
  np.testing.assert_allclose(latents, expected, rtol=2e-3, atol=2e-3)

  # What samples and evaluates finds the same autoencoder by the data set's metadata.
  data = dataclasses.replace(wan.data, path=str(tmp_path / "out"))
  found, _ = generator.load_encoders(dataclasses.replace(wan, data=data), None)
  pixels = found.decode_batch(latents)
  assert pixels.shape == (2, 5, 16, 32, 3)
  assert pixels.std() > 1  # weights are random: it is no picture of the clip


def test_a_clip_of_any_length_is_streamed_by_two_programs(wan, shared):
  frozen = interop.autoencoder(wan.autoencoder.checkpoint)
  loaded = interop.load(wan.autoencoder.checkpoint)
  clip_FHWC = moving(17, 16, 32, 0)

  @jax.jit
  def whole(model, x_BFHWC):
    return model.encode(x_BFHWC)[0]

  mean = whole(loaded.model, (clip_FHWC / 127.5 - 1)[None].astype(np.float32))[0]
  expected = (np.asarray(mean) - frozen.mean) / frozen.std
  latent = frozen.encode(clip_FHWC)
  assert latent.shape == (5, 2, 4, 16)
  np.testing.assert_allclose(latent, expected, rtol=0, atol=2e-5)
  image = frozen.encode(clip_FHWC[:1])
  np.testing.assert_array_equal(image, latent[:1])
  assert frozen._encode._cache_size() == 2
  with pytest.raises(ValueError, match=r"18 frames of 16x32 is off the autoencoder's"):
    frozen.encode(moving(18, 16, 32, 0))


def test_a_config_that_says_other_sizes_is_told_what_to_pass(wan, tmp_path, shared):
  path = str(shared / "parity" / "wan22_vae")
  wrong = dataclasses.replace(wan.autoencoder, checkpoint=path, patch=1)
  with pytest.raises(
    ValueError,
    match=r"channels=16, space=8, but .* has channels=48, space=16\."
    r" Pass --config\.autoencoder\.channels=48 --config\.autoencoder\.space=16"
    r" --config\.autoencoder\.patch=4, or",
  ):
    config = dataclasses.replace(wan, autoencoder=wrong)
    run.preprocess(config, tmp_path, tmp_path / "out")
