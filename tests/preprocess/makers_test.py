"""Records hold their own clips' latents, whatever shares a batch with them."""

import types

import numpy as np
import pytest

from tests.models.autoencoder.inside_test import frozen
from tests.preprocess.plan_test import plan_of
from video_dit import config as config_lib
from video_dit.preprocess import batches, captions, makers


def _maker(tmp_path, autoencoder, shapes=()) -> makers.Latents:
  encoder = types.SimpleNamespace(
    width=2,
    fingerprint="text",
    encode=lambda texts: [np.ones((1, 2), np.float16) for _ in texts],
    is_cut=lambda text: False,
  )
  return makers.Latents(
    plan_of(tmp_path, shapes),
    types.SimpleNamespace(captions=lambda row: ([f"caption {row}"], [1.0])),
    autoencoder,
    captions.Captions(encoder),
    config_lib.Media(),
    autoencoder_path="autoencoder",
    text_path="text",
  )


def _made(maker, buffer, num):
  """The records of a batch of all clips, and their pixels in a buffer full of others."""
  rng = np.random.default_rng(0)
  batch = batches.Batch(
    indices=np.arange(num), buffer=buffer, size=num, is_exact=False, device=0
  )
  clips_BFHWC = rng.integers(256, size=(num, *buffer, 3), dtype=np.uint8)
  maker.begin([batch])
  return list(maker.records(batch, maker.encode(batch, clips_BFHWC))), clips_BFHWC


def test_a_clip_in_a_larger_buffer_is_encoded_as_by_itself(tmp_path):
  autoencoder = frozen("ours")
  maker = _maker(tmp_path, autoencoder, [(1, 8, 12), (3, 16, 8), (5, 16, 16)])
  records, clips_BFHWC = _made(maker, (5, 16, 16), 3)
  for record, clip_FHWC in zip(records, clips_BFHWC, strict=True):
    here = tuple(map(slice, (record.frames, record.height, record.width)))
    expected = autoencoder.encode(clip_FHWC[here])
    assert record.latent.shape == expected.shape
    np.testing.assert_allclose(record.latent, expected, rtol=2e-3, atol=2e-3)


def test_a_latent_beyond_float16_makes_no_record(tmp_path):
  maker = _maker(tmp_path, frozen("ours", std=1e-9), [(1, 8, 8)] * 2)
  assert _made(maker, (1, 8, 8), 2)[0] == [None, None]


@pytest.mark.parametrize(("name", "mixes"), [("ours", True), ("cogvideox", False)])
def test_only_causal_autoencoders_take_several_lengths_at_once(tmp_path, name, mixes):
  assert _maker(tmp_path, frozen(name)).rules.mixes_lengths is mixes
