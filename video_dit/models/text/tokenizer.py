"""SentencePiece tokenizer with T5's layout of ids: 0 pads, 1 ends, 2 is unknown."""

from collections.abc import Iterable
import io
import os
import pathlib

import sentencepiece

from video_dit import files

PAD, END, UNKNOWN = 0, 1, 2
# With one piece for each byte, no text is ever unknown.
BYTES = 256


class Tokenizer:
  """Text to ids.

  Attributes:
    model: the bytes of the SentencePiece model.
    vocabulary: number of ids.
    pad, end: ids.
    length: ids of every text; None where lengths differ.
  """

  pad, end = PAD, END
  length: int | None = None

  def __init__(self, model_file: str | os.PathLike[str]):
    """Reads a SentencePiece model.

    Raises:
      ValueError: there is no such file, it is not a SentencePiece model, or its ids for
        padding and the end are not T5's.
    """
    path = pathlib.Path(model_file)
    if not path.is_file():
      raise ValueError(
        f"{path}: no such SentencePiece model. Set config.text.tokenizer to one, or"
        " leave it empty and run preprocess, which trains one on the captions."
      )
    self.model = path.read_bytes()
    self._pieces = sentencepiece.SentencePieceProcessor()
    try:
      self._pieces.LoadFromSerializedProto(self.model)
    except RuntimeError as e:
      raise ValueError(f"{path}: not a SentencePiece model ({e}).") from e
    if (self._pieces.pad_id(), self._pieces.eos_id()) != (PAD, END):
      raise ValueError(
        f"{path}: pads with id {self._pieces.pad_id()} and ends with"
        f" {self._pieces.eos_id()}, but T5 has {PAD} and {END}. Train it with those."
      )
    self.vocabulary = self._pieces.get_piece_size()

  @property
  def files(self) -> dict[str, bytes]:
    """Content of the tokenizer's file, by its usual name."""
    return {"spiece.model": self.model}

  def encode(self, text: str) -> list[int]:
    """Ids of a text, the end included; an empty text is the end alone."""
    return [*self._pieces.encode(text), END]

  def decode(self, ids: Iterable[int]) -> str:
    """The text of ids, without padding and end."""
    return self._pieces.decode([i for i in ids if i not in (PAD, END)])


def train_tokenizer(
  captions: Iterable[str], path: str | os.PathLike[str], vocabulary: int
) -> None:
  """Trains a SentencePiece model; the same captions in the same order give the same one.

  It uses byte-pair encoding: a word that occurs often becomes one piece. (A unigram
  model takes its pieces from what several words share, and so spells out the words of
  a small corpus.)

  Args:
    captions: texts; empty ones are skipped.
    path: the model file to write.
    vocabulary: most ids, besides those of single bytes; fewer where the captions have
      too few words.

  Raises:
    ValueError: no caption has any text, or the vocabulary is too small for the
      captions' characters.
  """
  lines = [" ".join(caption.split()) for caption in captions]
  lines = [line for line in lines if line]
  if not lines:
    raise ValueError(
      f"{path}: there are no captions to train a tokenizer on. Give captions, or a"
      " SentencePiece model as config.text.tokenizer."
    )
  characters = len(set("".join(lines)))
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      model_type="bpe",
      vocab_size=vocabulary + BYTES,
      hard_vocab_limit=False,
      byte_fallback=True,
      # Rare characters of large alphabets are left to their bytes.
      character_coverage=1.0 if characters <= vocabulary // 2 else 0.9995,
      pad_id=PAD,
      eos_id=END,
      unk_id=UNKNOWN,
      bos_id=-1,
      max_sentence_length=1 << 20,
      num_threads=1,
      minloglevel=3,
    )
  except RuntimeError as e:
    raise ValueError(
      f"config.text.vocabulary={vocabulary} is too small for {len(lines)} captions with"
      f" {characters} different characters. Choose a larger one. ({e})"
    ) from e
  files.write(path, model.getvalue())
