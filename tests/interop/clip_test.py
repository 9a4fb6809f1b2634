"""CLIP's text encoder and tokenizer give what transformers gives."""

import json

from flax import nnx
import jax
import numpy as np
import pytest

from tests.interop.encoders import leaves
from video_dit import interop
from video_dit.interop import clip as clip_format
from video_dit.interop import names, safetensors_file
from video_dit.interop.tensors import open_tensors
from video_dit.models.text import bpe, clip
from video_dit.models.text.bpe import ClipTokenizer

CONFIG = clip.ClipConfig(
  vocabulary=41, positions=9, width=20, depth=3, heads=4, mlp_width=28, activation="gelu"
)
SAID = {
  "model_type": "clip_text_model",
  "vocab_size": 41,
  "max_position_embeddings": 9,
  "hidden_size": 20,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "intermediate_size": 28,
  "hidden_act": "gelu",
}


def _write(folder, said, **changes):
  model = jax.jit(lambda: clip.ClipEncoder(CONFIG, rngs=nnx.Rngs(3)))()
  params = nnx.to_pure_dict(nnx.state(model))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype("f"), params)
  tensors = names.save_from(params, clip_format.table(CONFIG, "text_model."))
  for name, array in changes.items():
    tensors[name] = safetensors_file.Outgoing(array.shape, array.dtype, lambda a=array: a)
  safetensors_file.write_safetensors(folder, tensors, said)


@pytest.mark.parametrize("whole", [False, True])
def test_it_is_read_alone_and_out_of_a_whole_clip(whole, tmp_path):
  said, others = SAID, {}
  if whole:
    said = {"model_type": "clip", "text_config": SAID, "projection_dim": 4}
    others = {
      "vision_model.x": np.zeros(2, np.float32),
      "logit_scale": np.zeros((), np.float32),
      "text_model.embeddings.position_ids": np.arange(9)[None],
    }
  _write(tmp_path, said, **others)
  loaded = interop.load(tmp_path)
  assert (loaded.kind, loaded.licence) == ("clip_text", "MIT")
  assert (loaded.config, loaded.ignored) == (CONFIG, len(others))
  interop.save(loaded, tmp_path / "again")
  again = interop.load(tmp_path / "again")
  assert again.config == CONFIG
  for a, b in zip(*map(leaves, (loaded, again)), strict=True):
    np.testing.assert_array_equal(a, b)
  if not whole:
    a, b = open_tensors(tmp_path), open_tensors(tmp_path / "again")
    assert a.names == b.names


def test_a_token_feels_none_behind_it(tmp_path):
  _write(tmp_path, SAID)
  run = jax.jit(lambda model, ids: model(ids))
  model = interop.load(tmp_path).model
  ids = np.random.default_rng(1).integers(0, 41, (2, 9))
  other = ids.copy()
  other[:, 5:] = 40 - other[:, 5:]
  a, b = (np.asarray(run(model, x)) for x in (ids, other))
  np.testing.assert_array_equal(a[:, :5], b[:, :5])
  assert np.abs(a[:, 5:] - b[:, 5:]).min() > 0


@pytest.mark.parametrize(
  ("change", "told"),
  [
    ({"num_attention_heads": 3}, "num_attention_heads=3 does not divide hidden_size=20"),
    ({"hidden_act": "relu"}, "hidden_act='relu'; only 'quick_gelu' and 'gelu' are"),
    ({"hidden_size": "20"}, "hidden_size='20' must be a whole number"),
    ({"num_hidden_layers": 4}, "16 missing"),
  ],
)
def test_a_config_that_does_not_fit_is_refused(change, told, tmp_path):
  _write(tmp_path, {**SAID, **change})
  with pytest.raises(ValueError, match=told):
    interop.load(tmp_path)


@pytest.fixture
def vocabulary(tmp_path):
  """A tokenizer's folder: bytes, bytes that end words, and a few merges."""
  merges = ["t h", "th e</w>", "r e", "re d</w>", "o x</w>", "f ox</w>", "a a", "aa aa"]
  tokens = bpe._bytes_to_characters()
  tokens = tokens + [t + "</w>" for t in tokens] + [m.replace(" ", "") for m in merges]
  tokens += ["<|startoftext|>", "<|endoftext|>"]
  (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
  (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
  return tmp_path


def test_words_become_the_pieces_that_merge(vocabulary):
  tokenizer = ClipTokenizer.load(vocabulary)
  ids = json.loads((vocabulary / "vocab.json").read_text())
  start, end = ids["<|startoftext|>"], ids["<|endoftext|>"]
  expected = [start, ids["the</w>"], ids["red</w>"], ids["fox</w>"], end]
  assert tokenizer.encode("The  RED\nfox") == expected
  assert tokenizer.encode("") == [start, end] and tokenizer.length == 77
  odd = [start, ids["aaaa"], ids["a</w>"], ids["1</w>"], ids["2</w>"], ids["!"]]
  assert tokenizer.encode("aaaaa12!?") == [*odd, ids["?</w>"], end]
  assert (tokenizer.pad, tokenizer.end) == (end, end)
  assert len(tokenizer.encode("a" * 100_000)) == 25_004
  (vocabulary / "special_tokens_map.json").write_text('{"pad_token": "!"}')
  tokenizer = ClipTokenizer.load(vocabulary)
  assert tokenizer.pad == ids["!"]
  (vocabulary / "copy").mkdir()
  tokenizer.save(vocabulary / "copy")
  assert ClipTokenizer.load(vocabulary / "copy").files == tokenizer.files


def test_a_damaged_tokenizer_is_named(vocabulary):
  (vocabulary / "merges.txt").write_text("one two three\n")
  with pytest.raises(ValueError, match=r"vocab.json: cannot be read"):
    ClipTokenizer.load(vocabulary)
  (vocabulary / "merges.txt").unlink()
  with pytest.raises(ValueError, match=r"neither vocab.json and merges.txt nor"):
    ClipTokenizer.load(vocabulary)


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
@pytest.mark.parametrize("learned", [False, True])
def test_ids_of_the_peer(pad, learned, vocabulary):
  """Of Stable Diffusion's tokenizers: 1 and 2 or XL, and with learned words."""
  transformers = pytest.importorskip("transformers")
  settings = {"pad_token": pad}
  (vocabulary / "tokenizer_config.json").write_text(json.dumps(settings))
  theirs = transformers.CLIPTokenizer.from_pretrained(str(vocabulary))
  if learned:
    alone = transformers.AddedToken("RED", single_word=True)
    theirs.add_tokens(["<Toy>", alone, transformers.AddedToken("<X>", normalized=False)])
  theirs.save_pretrained(str(vocabulary / "saved"))
  saved = ClipTokenizer.load(vocabulary / "saved")
  ours = saved if learned else ClipTokenizer.load(vocabulary)
  assert (saved.pad, saved.vocabulary) == (theirs.pad_token_id, len(theirs))
  rng = np.random.default_rng(0)
  pool = [*map(chr, range(0x250)), *"éÉΣσς½²ﬁＡ猫🦊️‍'’`", "\u0301", "\u3000", "\x1c"]
  words = [
    "the",
    "RED",
    "fox",
    "'s",
    "'LL",
    "<|endoftext|>",
    "  ",
    "aaaaaaa",
    "!!!",
    "12",
    "<Toy>",
    "<tOY>",
    "<X>",
    "<x>",
    "<|StartOfText|>",
  ]
  for _ in range(500):
    parts = [*rng.choice(pool, 8), *rng.choice(words, 6)]
    text = "".join(rng.permutation(parts))
    expected = theirs(text)["input_ids"]
    assert ours.encode(text) == expected, ascii(text)
    assert saved.encode(text) == expected, ascii(text)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_hidden_states_of_the_peer(activation, tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.set_num_threads(1)
  torch.manual_seed(5)
  config = transformers.CLIPTextConfig(
    **{
      **SAID,
      "hidden_act": activation,
      "max_position_embeddings": 77,
      "eos_token_id": 40,
    }
  )
  theirs = transformers.CLIPTextModel(config).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(0.3 * torch.randn_like(parameter))
  theirs.save_pretrained(str(tmp_path))
  ids = np.random.default_rng(2).integers(0, 41, (2, 77))
  with torch.no_grad():
    expected = theirs.double()(torch.from_numpy(ids)).last_hidden_state.numpy()
  with jax.default_matmul_precision("highest"):
    got = np.asarray(interop.load(tmp_path).model(ids))
  error = np.abs(got - expected).max()
  print(f"{activation}: {error:.1e} of {np.sqrt((expected**2).mean()):.2f}")
  assert error < 1e-5
