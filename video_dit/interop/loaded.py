"""A published model as read: its parameters, its sizes and where they came from."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from flax import nnx
import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A model with its parameters.

  Attributes:
    kind: of the model, like `umt5` or `wan_autoencoder`.
    model: holds its parameters.
    config: its sizes, a frozen dataclass.
    naming: whose names the tensors had: `transformers`, `diffusers`, `native`.
    licence: of the published weights of this kind; None where it is not known.
    files: that were read.
    dtypes: in which the files hold the tensors.
    tensors: that were read.
    ignored: tensors that were deliberately not read, like those of a decoder.
    published: content of its `config.json`, empty where it had none.
  """

  kind: str
  model: nnx.Module
  config: Any
  naming: str
  licence: str | None
  files: tuple[pathlib.Path, ...]
  dtypes: tuple[np.dtype, ...]
  tensors: int
  ignored: int = 0
  published: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def params(self) -> dict:
    """The parameters, a pure dictionary."""
    return nnx.to_pure_dict(nnx.state(self.model))

  @property
  def parameters(self) -> int:
    """Number of values in the parameters."""
    return sum(x.size for x in jax.tree.leaves(self.params))
