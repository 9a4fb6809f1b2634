"""A tokenizer trained on captions knows their words, and no text is unknown to it."""

import itertools

import pytest

from video_dit.models.text import tokenizer as tokenizers

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle")
CAPTIONS = [
  f"a {c} {s} moving {d} on a {b} background"
  for c, s, d, b in itertools.product(COLOURS, SHAPES, ("left", "up"), ("black", "grey"))
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  path = tmp_path_factory.mktemp("text") / "spiece.model"
  tokenizers.train_tokenizer(CAPTIONS, path, 256)
  return tokenizers.Tokenizer(path)


def test_each_word_is_one_piece(tokenizer):
  assert len(tokenizer.encode(CAPTIONS[0])) == len(CAPTIONS[0].split()) + 1
  differing = {tuple(tokenizer.encode(f"a {c} circle")) for c in COLOURS}
  assert len(differing) == len(COLOURS)
  assert len({ids[0] for ids in differing}) == 1


def test_an_empty_text_is_the_end_alone(tokenizer):
  assert tokenizer.encode("") == tokenizer.encode(" ") == [tokenizers.END]


@pytest.mark.parametrize("text", ["Zoë's 猫 🐈 jumps", "purple", "<pad> </s> <unk>"])
def test_nothing_is_unknown(tokenizer, text):
  ids = tokenizer.encode(text)
  assert tokenizers.UNKNOWN not in ids and ids[-1] == tokenizers.END
  assert tokenizers.PAD not in ids and ids.count(tokenizers.END) == 1
  assert tokenizer.decode(ids) == text
  assert max(ids) < tokenizer.vocabulary


def test_training_is_deterministic_and_quiet(tokenizer, tmp_path, capfd):
  tokenizers.train_tokenizer(CAPTIONS, tmp_path / "again.model", 256)
  assert (tmp_path / "again.model").read_bytes() == tokenizer.model
  assert capfd.readouterr() == ("", "")
  assert [p.name for p in tmp_path.iterdir()] == ["again.model"]


@pytest.mark.parametrize("captions", [["x"], ["a video", "an image"], ["", "a\nb\tc"]])
def test_tiny_corpora_do(captions, tmp_path):
  tokenizers.train_tokenizer(captions, tmp_path / "m", 256)
  tokenizer = tokenizers.Tokenizer(tmp_path / "m")
  assert tokenizer.vocabulary <= 256 + 256
  assert tokenizer.decode(tokenizer.encode("anything")) == "anything"


def test_captions_without_text_are_refused(tmp_path):
  with pytest.raises(ValueError, match="no captions to train a tokenizer on"):
    tokenizers.train_tokenizer(["", " "], tmp_path / "m", 256)


def test_a_vocabulary_below_the_alphabet_is_refused(tmp_path):
  captions = ["".join(map(chr, range(0x4E00, 0x4E00 + 2000)))]
  with pytest.raises(ValueError, match=r"config.text.vocabulary=64 .* Choose a larger"):
    tokenizers.train_tokenizer(captions, tmp_path / "m", 64)


def test_what_is_no_tokenizer_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"absent: no such .* config.text.tokenizer"):
    tokenizers.Tokenizer(tmp_path / "absent")
  (tmp_path / "text").write_text("not a model")
  with pytest.raises(ValueError, match="text: not a SentencePiece model"):
    tokenizers.Tokenizer(tmp_path / "text")
