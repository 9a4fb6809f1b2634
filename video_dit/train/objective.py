"""Objectives: all that differs between training the DiT and the autoencoder.

The trainer knows neither: it takes an `Objective` and asks it for a model, for losses
and for batches.
"""

from collections.abc import Callable, Iterator
import dataclasses
import pathlib
from typing import Any

from flax import nnx
import jax

from video_dit.checkpoints.state import Params

Totals = dict[str, tuple[jax.Array, jax.Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums:
  """Totals of one batch. Those of several batches add up to those of all of them.

  Attributes:
    loss: float32, sum of weighted losses; this is what is differentiated.
    weight: sum of the weights; free of parameters.
    means: name to (total, weight) of further means.
    counts: name to amount.
  """

  loss: jax.Array
  weight: jax.Array
  means: Totals
  counts: dict[str, jax.Array]


Show = Callable[[jax.sharding.Mesh, Params, int, pathlib.Path], list]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """What a run trains.

  Attributes:
    build: makes the model from its random streams; it holds parameters only.
    loss: model, batch, seed, step -> `Sums`; seed and step are int32 scalars.
    layout: mesh -> sharding of each array of a batch, in a batch's structure.
    batches: mesh, first step -> global batches on the mesh, one a step, without end.
    data: fingerprint of the data set.
    facts: about the data set, for the report.
    shape_keys: dotted config keys that decide the state's shapes.
    weight: of the average step; each step's gradient is its total over this, so that a
      clip counts the same in a step of many clips as in one of few. None divides by the
      step's own weight.
    heldout: model, batch, level -> `Sums` of held-out data at one noise level.
    heldout_batches: mesh -> the held-out batches; None where there are no such data.
    levels: noise levels of `heldout`; only 0 where there is no noise.
    show: mesh, averaged weights, step, folder -> pictures as (caption, path).
    finish: mesh, averaged weights, workdir -> exports what the run was for, once; says
      what it did.
  """

  build: Callable[[nnx.Rngs], nnx.Module]
  loss: Callable[[Any, Any, jax.Array, jax.Array], Sums]
  layout: Callable[[jax.sharding.Mesh], Any]
  batches: Callable[[jax.sharding.Mesh, int], Iterator[Any]]
  data: str
  facts: dict[str, Any]
  shape_keys: tuple[str, ...]
  heldout: Callable[[Any, Any, jax.Array], Sums]
  weight: float | None = None
  heldout_batches: Callable[[jax.sharding.Mesh], Iterator[Any]] | None = None
  levels: tuple[float, ...] = (0.0,)
  show: Show | None = None
  finish: Callable[[jax.sharding.Mesh, Params, pathlib.Path], str] | None = None
