"""Captions that are known beforehand: encoded once, without the encoder's weights."""

from collections.abc import Sequence

import numpy as np

from video_dit.models.text import encoder as text_lib


class Encoded(text_lib.TextEncoder):
  """What an encoder makes of some captions; holds none of its weights.

  Args:
    encoder: encodes them now.
    captions: all that will be asked for.
  """

  def __init__(self, encoder: text_lib.TextEncoder, captions: Sequence[str]):
    self.text, self.tokenizer, self.random = (
      encoder.text,
      encoder.tokenizer,
      encoder.random,
    )
    self.width, self.max_tokens = encoder.width, encoder.max_tokens
    self._mark = encoder.fingerprint
    self.params = {}
    captions = list(dict.fromkeys(captions))
    self._encodings = dict(zip(captions, encoder.encode(captions), strict=True))

  def encode(self, captions: list[str]) -> list[np.ndarray]:
    """As the encoder does; each must be one of those given in the beginning."""
    return [self._encodings[caption] for caption in captions]
