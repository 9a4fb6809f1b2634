"""The least objective: a line is fitted to points that are a function of the step.

python -m tests.train.line WORKDIR STEPS SECONDS    trains it, as a run to be killed
"""

from collections.abc import Container
import pathlib
import sys
import time

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit import config as config_lib
from video_dit.parallel import mesh as mesh_lib
from video_dit.parallel import partition
from video_dit.train.objective import Objective
from video_dit.trainer.sums import Sums

ROWS = 16


class Line(nnx.Module):
  """`x @ kernel + bias`, a matrix and a vector."""

  def __init__(self, rngs: nnx.Rngs):
    kernel = jax.random.normal(rngs.params(), (8, 8))
    self.kernel = nnx.Param(kernel, axes=("embed", "mlp"))
    self.bias = nnx.Param(jnp.zeros((8,)), axes=("mlp",))


def config(**changes) -> config_lib.Config:
  """Of a run of 7 steps; `changes` are of its `train` section."""
  train = {"steps": 7, "log_every": 2, "checkpoint_every": 3, "evaluate_every": 5}
  return config_lib.Config(
    name="line",
    objective="diffusion",
    optimizer=config_lib.Optimizer(learning_rate=0.05, warmup_steps=2),
    train=config_lib.Train(**(train | changes)),
  )


def objective(seconds: float = 0.0, nan_at: Container[int] = (), **changes) -> Objective:
  """Batches of `(x, weight)`; the loss also depends on the step's noise.

  Args:
    seconds: that each batch takes.
    nan_at: steps whose batches hold a value that is not finite.
    **changes: of the objective.
  """

  def loss(model: Line, batch, seed, step) -> Sums:
    x_RD, weight_R = batch
    key = jax.random.fold_in(jax.random.key(seed), step)
    # One draw for all rows, so that micro-batches draw what the whole batch draws.
    noise_1D = 0.01 * jax.random.normal(key, (1, 8))
    y_RD = x_RD @ model.kernel[...] + model.bias[...][None]
    error_R = jnp.mean(jnp.square(y_RD - 2 * x_RD + noise_1D), -1)
    total, weight = jnp.sum(weight_R * error_R), jnp.sum(weight_R)
    rows = jnp.float32(x_RD.shape[0])
    return Sums(
      loss=total,
      weight=weight,
      means={"loss/all": (total, weight)},
      counts={"tokens": rows, "model_flops": rows * 128},
    )

  def host(step: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(step)
    x_RD = rng.normal(size=(ROWS, 8)).astype(np.float32)
    if step in nan_at:
      x_RD[0, 0] = np.nan
    return x_RD, rng.uniform(0.5, 2, ROWS).astype(np.float32)

  def batches(mesh, step: int):
    while True:
      time.sleep(seconds)
      yield jax.device_put(host(step), partition.rows_sharding(mesh))
      step += 1

  def layout(mesh):
    return partition.rows_sharding(mesh), partition.rows_sharding(mesh)

  fields = {
    "build": Line,
    "loss": loss,
    "layout": layout,
    "batches": batches,
    "data": "points",
    "facts": {"points": ROWS},
    "model_keys": ("objective", "dit.width", "diffusion.prediction"),
    "heldout": lambda model, batch, level: loss(model, batch, 0, 0),
    "heldout_batches": lambda mesh: batches(mesh, 10**6),
  }
  return Objective(**(fields | changes))


if __name__ == "__main__":
  from video_dit.train import loop

  workdir, steps, seconds = sys.argv[1:]
  devices = mesh_lib.start("cpu:8,fsdp=2", config_lib.Mesh())
  done = loop.train(
    objective(float(seconds)),
    config(steps=int(steps), log_every=1, checkpoint_every=4),
    devices,
    pathlib.Path(workdir),
  )
  print("finished" if done else "to be continued")
