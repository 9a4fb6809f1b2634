"""Objectives: everything that differs between training the DiT and the autoencoder.

A `Task` is what the trainer knows of it; an `Objective` is a task with its data.
"""

from collections.abc import Callable, Iterator
import dataclasses
import pathlib
from typing import Any

import jax

from video_dit.checkpoints.state import Params
from video_dit.data.steps import Steps
from video_dit.trainer.sums import Sums
from video_dit.trainer.task import Task

Show = Callable[[jax.sharding.Mesh, Params, int, pathlib.Path], list]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(Task):
  """What a run trains, and on which data.

  Attributes:
    batches: mesh, first step -> global batches on the mesh, one a step, without end.
    data: fingerprint of the data set.
    steps: the rows of every step; None where clips are not packed.
    facts: about the data set, for the report.
    model_keys: dotted config keys that decide what weights there are and what they mean.
    heldout: model, batch, level -> `Sums` of held-out data at one noise level.
    heldout_batches: mesh -> the held-out batches; None without held-out data.
    levels: noise levels of `heldout`; only 0 where there is no noise.
    show: mesh, averaged weights, step, folder -> pictures as (caption, path).
    finish: mesh, averaged weights, workdir -> exports what the run was for, once; says
      what it did.
  """

  batches: Callable[[jax.sharding.Mesh, int], Iterator[Any]]
  data: str
  steps: Steps | None = None
  facts: dict[str, Any]
  model_keys: tuple[str, ...]
  heldout: Callable[[Any, Any, jax.Array], Sums]
  heldout_batches: Callable[[jax.sharding.Mesh], Iterator[Any]] | None = None
  levels: tuple[float, ...] = (0.0,)
  show: Show | None = None
  finish: Callable[[jax.sharding.Mesh, Params, pathlib.Path], str] | None = None
