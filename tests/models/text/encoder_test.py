"""A caption's encoding is a function of the caption, and comes back from a folder."""

import dataclasses
import shutil

import numpy as np
import pytest

from video_dit import config
from video_dit.models.text import encoder as encoders
from video_dit.models.text import tokenizer as tokenizers

TEXT = config.Text(width=32, depth=2, heads=2, head_size=16, mlp_width=48, max_tokens=16)
CAPTIONS = [
  "a red circle moving left",
  "a blue circle moving left",
  "",
  "a red square and a blue circle moving left and right and left and right again, and",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("text")
  tokenizers.train_tokenizer(CAPTIONS, folder / encoders.TOKENIZER, 128)
  encoders.TextEncoder.load(TEXT, folder).save(folder)
  return folder


@pytest.fixture(scope="module")
def encoder(folder):
  return encoders.TextEncoder.load(TEXT, folder)


def test_each_caption_comes_out_without_padding(encoder):
  out = encoder.encode(CAPTIONS)
  for caption, vectors in zip(CAPTIONS, out, strict=True):
    assert vectors.shape == (len(encoder.tokens(caption)), encoder.width)
    assert vectors.dtype == np.float16
    assert abs(np.sqrt((vectors.astype(np.float32) ** 2).mean()) - 1) < 0.01
  assert len(out[2]) == 1


def test_company_does_not_matter(encoder):
  together = encoder.encode(CAPTIONS * 20)
  for i, caption in enumerate(CAPTIONS):
    (alone,) = encoder.encode([caption])
    np.testing.assert_array_equal(alone, together[i])
    np.testing.assert_array_equal(alone, together[-len(CAPTIONS) + i])


def test_captions_differ_where_their_words_do(encoder):
  red, blue = (v.astype(np.float32) for v in encoder.encode(CAPTIONS[:2]))
  difference = np.sqrt(((red - blue) ** 2).mean(-1))
  assert difference[1] > 0.8 and difference.argmax() == 1


def test_long_captions_are_cut_and_known_to_be(encoder):
  assert [encoder.is_cut(c) for c in CAPTIONS] == [False, False, False, True]
  ids = encoder.tokens(CAPTIONS[3])
  assert len(ids) == TEXT.max_tokens and ids[-1] == tokenizers.END


def test_lengths_are_few():
  lengths = {encoders.padded_length(n) for n in range(1, 227)}
  assert lengths == {16, 32, 64, 128, 256}
  assert all(n <= encoders.padded_length(n) < max(2 * n, 17) for n in range(1, 227))


def test_a_folder_gives_the_same_encoder(encoder, folder, tmp_path):
  drawn = tmp_path / "drawn"
  drawn.mkdir()
  shutil.copyfile(folder / encoders.TOKENIZER, drawn / encoders.TOKENIZER)
  again = encoders.TextEncoder.load(TEXT, drawn)
  assert again.random and encoder.random
  assert again.fingerprint == encoder.fingerprint
  encoder.save(tmp_path / "saved")
  assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == sorted(
    [encoders.TOKENIZER, encoders.WEIGHTS, encoders.DESCRIPTION]
  )
  saved = encoders.TextEncoder.load(TEXT, tmp_path / "saved")
  assert saved.fingerprint == encoder.fingerprint
  assert encoders.is_random(TEXT, tmp_path / "saved")
  named = dataclasses.replace(TEXT, checkpoint=str(tmp_path / "saved"))
  assert encoders.is_random(named, drawn) and not encoders.is_random(TEXT, drawn)
  np.testing.assert_array_equal(
    saved.encode(CAPTIONS[:1])[0], encoder.encode(CAPTIONS[:1])[0]
  )


def test_weights_may_come_from_a_checkpoint_folder(encoder, folder, tmp_path):
  shutil.copyfile(folder / encoders.TOKENIZER, tmp_path / encoders.TOKENIZER)
  text = dataclasses.replace(TEXT, checkpoint=str(folder), seed=7)
  assert encoders.TextEncoder.load(text, tmp_path).fingerprint == encoder.fingerprint


def test_the_fingerprint_tells_what_changed(encoder, folder, tmp_path):
  shorter = dataclasses.replace(TEXT, max_tokens=10)
  assert encoders.TextEncoder.load(shorter, folder).fingerprint != encoder.fingerprint
  params = {**encoder.params, "embedding": encoder.params["embedding"] + 1e-3}
  changed = encoders.TextEncoder(TEXT, encoder.tokenizer, params)
  assert changed.fingerprint != encoder.fingerprint
  half = dataclasses.replace(TEXT, dtype="bfloat16")
  rounded = encoders.TextEncoder(half, encoder.tokenizer, encoder.params)
  assert rounded.fingerprint != encoder.fingerprint
  model = tmp_path / encoders.TOKENIZER
  tokenizers.train_tokenizer([caption[::-1] for caption in CAPTIONS], model, 128)
  other = encoders.TextEncoder(TEXT, tokenizers.Tokenizer(model), encoder.params)
  assert other.fingerprint != encoder.fingerprint


def test_settings_that_name_weights_have_the_fingerprint_of_their_encoder(
  encoder, folder, tmp_path
):
  assert encoders.fingerprint(TEXT) is None
  saved = tmp_path / "saved"
  encoder.save(saved)
  for text in (TEXT, dataclasses.replace(TEXT, max_tokens=10)):
    named = dataclasses.replace(text, checkpoint=str(saved))
    expected = encoders.TextEncoder.load(named, saved).fingerprint
    assert encoders.fingerprint(named) == expected
  (saved / encoders.TOKENIZER).rename(tmp_path / "moved.model")
  named = dataclasses.replace(named, tokenizer=str(tmp_path / "moved.model"))
  assert encoders.fingerprint(named) == expected


def test_other_sizes_are_refused_by_name(folder):
  wider = dataclasses.replace(TEXT, mlp_width=64)
  with pytest.raises(ValueError, match="mlp_width=48, the config 64"):
    encoders.TextEncoder.load(wider, folder)


def test_what_is_missing_or_damaged_is_named(folder, tmp_path):
  with pytest.raises(ValueError, match=r"spiece.model: no such"):
    encoders.TextEncoder.load(TEXT, tmp_path)
  shutil.copytree(folder, tmp_path / "damaged")
  (tmp_path / "damaged" / encoders.WEIGHTS).write_bytes(b"damaged")
  with pytest.raises(ValueError, match=r"encoder.safetensors: cannot be read"):
    encoders.TextEncoder.load(TEXT, tmp_path / "damaged")
  (tmp_path / "damaged" / encoders.DESCRIPTION).write_text('{"width": 2')
  for read in (encoders.TextEncoder.load, lambda text, _: encoders.fingerprint(text)):
    text = dataclasses.replace(TEXT, checkpoint=str(tmp_path / "damaged"))
    with pytest.raises(ValueError, match=r"encoder.json: is not JSON.*Copy the folder"):
      read(text, tmp_path / "damaged")
  shutil.copyfile(folder / encoders.TOKENIZER, tmp_path / encoders.TOKENIZER)
  text = dataclasses.replace(TEXT, checkpoint=str(tmp_path / "nowhere"))
  with pytest.raises(ValueError, match=r"nowhere.*no encoder.json"):
    encoders.TextEncoder.load(text, tmp_path)
