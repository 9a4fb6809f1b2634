"""What Wan does to a prompt before it is tokenized."""

import html
import re

import ftfy


def clean(text: str) -> str:
  """Repairs wrong encodings, turns HTML entities to characters, and joins white space.

  Source: `prompt_clean` of diffusers' Wan pipeline, and `whitespace_clean` of Wan's own
  tokenizer, which do the same.
  """
  text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
  return re.sub(r"\s+", " ", text).strip()
