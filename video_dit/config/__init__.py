"""Configs: frozen dataclasses, and the only reader of a ConfigDict.

A file of `configs/` returns a ConfigDict that holds the leaves it wants to differ
from the defaults of `sections.py`. `parse` turns it into `Config` once; below that line
nobody sees a ConfigDict, so a typo dies at start-up with the nearest right key.
"""

from video_dit.config.files import load
from video_dit.config.grid import Grid
from video_dit.config.ingest import Ingest
from video_dit.config.reading import (
  check_key,
  from_text,
  leaves,
  parse,
  parse_section,
  template,
  to_dict,
  to_text,
)
from video_dit.config.sections import (
  Autoencoder,
  Config,
  Data,
  Diffusion,
  DiT,
  Evaluate,
  Media,
  Mesh,
  Optimizer,
  Reconstruction,
  Sample,
  Text,
  Train,
)

__all__ = [
  "Autoencoder",
  "Config",
  "Data",
  "DiT",
  "Diffusion",
  "Evaluate",
  "Grid",
  "Ingest",
  "Media",
  "Mesh",
  "Optimizer",
  "Reconstruction",
  "Sample",
  "Text",
  "Train",
  "check_key",
  "from_text",
  "leaves",
  "load",
  "parse",
  "parse_section",
  "template",
  "to_dict",
  "to_text",
]
