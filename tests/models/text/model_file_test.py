"""Model files of SentencePiece are read as SentencePiece itself reads them."""

import io

import pytest
import sentencepiece

from video_dit.models.text import model_file


def _train(**settings) -> bytes:
  made = io.BytesIO()
  words = ["a red boat at dawn", "two blue birds over a field", "snow in the dark"]
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(words),
    model_writer=made,
    minloglevel=2,
    hard_vocab_limit=False,
    **settings,
  )
  return made.getvalue()


@pytest.mark.parametrize(
  "settings",
  [
    {"vocab_size": 40, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    {"vocab_size": 300, "byte_fallback": True, "user_defined_symbols": ["<mask>"]},
    {"vocab_size": 60, "model_type": "bpe", "unk_id": 3, "pad_id": 0},
  ],
  ids=["t5", "bytes", "bpe"],
)
def test_pieces_and_kinds(settings):
  content = _train(**settings)
  theirs = sentencepiece.SentencePieceProcessor(model_proto=content)
  ours = model_file.read(content, "here")
  ids = range(theirs.get_piece_size())
  assert [piece.piece for piece in ours.pieces] == [theirs.id_to_piece(i) for i in ids]
  assert [piece.score for piece in ours.pieces] == [theirs.get_score(i) for i in ids]
  control = [piece.type == model_file.CONTROL for piece in ours.pieces]
  assert control == [theirs.is_control(i) for i in ids]
  given = [p.piece for p in ours.pieces if p.type == model_file.USER_DEFINED]
  assert given == settings.get("user_defined_symbols", [])
  trainer = ours.trainer_spec
  assert trainer.unk_id == theirs.unk_id()
  assert trainer.byte_fallback == settings.get("byte_fallback", False)
  is_bpe = settings.get("model_type") == "bpe"
  assert (trainer.model_type != model_file.UNIGRAM) == is_bpe
  # The table of NFKC, which is what models are trained with.
  assert len(ours.normalizer_spec.precompiled_charsmap) > 100_000


def test_damage_is_named():
  with pytest.raises(ValueError, match=r"here: not a SentencePiece model .*again"):
    model_file.read(_train(vocab_size=40)[:-7], "here")
