"""Names of sample files, and what is written into them."""

import json
import re
import unicodedata

from video_dit.generator import records
from video_dit.generator import request as request_lib

_LONGEST = 48  # characters of a prompt in a file's name


def slug(prompt: str) -> str:
  """Lower-case words of the prompt, joined by hyphens, in plain letters and digits."""
  plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode()
  words = re.findall(r"[a-z0-9]+", plain.lower())
  text = ""
  for word in words:
    longer = f"{text}-{word}" if text else word[:_LONGEST]
    if len(longer) > _LONGEST:
      break
    text = longer
  return text or "clip"


def name(index: int, request: request_lib.Request, form: str) -> str:
  """File name of a sample: number, prompt, seed; an image is always png."""
  suffix = "png" if request.frames == 1 else form
  return f"{index:04d}_{slug(request.prompt)}_seed{request.seed}.{suffix}"


def metadata(sample: records.Sample) -> dict[str, str]:
  """What is recorded in the file itself where its format allows."""
  return {
    "title": sample.prompt,
    "prompt": sample.prompt,
    "seed": str(sample.seed),
    "comment": json.dumps(sample.settings()),
  }
