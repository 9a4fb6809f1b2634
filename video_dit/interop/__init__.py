"""Formats and names of others' weights: published checkpoints in, and back out.

loaded = interop.load("checkpoints/umt5-xxl", dtype="bfloat16")
loaded.kind, loaded.config, loaded.parameters
interop.save(loaded, "copy/umt5-xxl")
"""

from video_dit.interop.autoencoders import (
  abstract_autoencoder,
  autoencoder,
  autoencoder_fingerprint,
)
from video_dit.interop.loaded import Loaded
from video_dit.interop.registry import load, save
from video_dit.interop.tensors import Tensors, open_tensors
from video_dit.interop.text_encoders import (
  abstract_text_encoder,
  is_published,
  text_encoder,
  text_fingerprint,
  text_tokenizer,
)
from video_dit.interop.transformers import transformer_weights, with_transformer

__all__ = [
  "Loaded",
  "Tensors",
  "abstract_autoencoder",
  "abstract_text_encoder",
  "autoencoder",
  "autoencoder_fingerprint",
  "is_published",
  "load",
  "open_tensors",
  "save",
  "text_encoder",
  "text_fingerprint",
  "text_tokenizer",
  "transformer_weights",
  "with_transformer",
]
