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
import jax.numpy as jnp

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


Batches = Iterator[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """What a run trains.

  Attributes:
    build: makes the model from its random streams; it holds parameters only.
    loss: model, batch, seed, step -> `Sums`; seed and step are int32 scalars.
    layout: mesh -> sharding of each array of a batch, in a batch's structure.
    batches: mesh, first step -> global batches on the mesh, one a step, without end.
    data: fingerprint of the data set.
    heldout: model, batch, level -> Sums of the held-out set at one noise level.
    levels: the levels of `heldout`; one 0 where there is no noise.
    heldout_batches: mesh -> the held-out batches; empty where there are none.
    shape_keys: dotted config keys, or sections, that decide the state's shapes.
    show: averaged weights, folder -> pictures as (caption, path); None shows nothing.
    finish: averaged weights, workdir -> what was exported; None exports nothing.
  """

  build: Callable[[nnx.Rngs], nnx.Module]
  loss: Callable[[Any, Any, jax.Array, jax.Array], Sums]
  layout: Callable[[jax.sharding.Mesh], Any]
  batches: Callable[[jax.sharding.Mesh, int], Batches]
  data: str
  heldout: Callable[[Any, Any, jax.Array], Sums]
  levels: tuple[float, ...]
  heldout_batches: Callable[[jax.sharding.Mesh], Batches]
  shape_keys: tuple[str, ...]
  show: Callable[[Params, pathlib.Path], list[tuple[str, pathlib.Path]]] | None = None
  finish: Callable[[Params, pathlib.Path], str] | None = None


def add(a: Sums, b: Sums) -> Sums:
  """Totals of two batches together."""
  return jax.tree.map(jnp.add, a, b)
