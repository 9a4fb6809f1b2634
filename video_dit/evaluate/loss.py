"""The held-out loss at fixed noise levels, with the averaged weights."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from video_dit.data import loader, reader
from video_dit.diffusion import batch_loss
from video_dit.generator import generator as generator_lib
from video_dit.parallel import hosts, partition


def by_level(
  generator: generator_lib.Generator, dataset: reader.Dataset
) -> dict[float, float]:
  """Mean loss over held-out clips at each of `config.evaluate.times`.

  Every clip weighs the same and has the same noise in every run, and also in training's
  held-out loss. All its tokens are at exactly that level, unshifted.

  Args:
    generator: holds the weights.
    dataset: of the held-out latents; the first `config.evaluate.batches` batches count.

  Returns:
    Loss by noise level.
  """
  config = generator.config
  batches = loader.held_out(dataset, config)
  num = min(len(batches), config.evaluate.batches)
  levels = config.evaluate.times
  rows = partition.rows_sharding(generator.mesh)
  level_loss = jax.jit(
    _level_loss(generator), out_shardings=partition.replicated(generator.mesh)
  )
  totals = {level: [0.0, 0.0] for level in levels}
  with hosts.bar(total=num * len(levels), desc="held-out loss", unit="batch") as bar:
    for i in range(num):
      arrays = jax.tree.map(lambda x: jax.device_put(x, rows), batches[i])
      for level in levels:
        with jax.set_mesh(generator.mesh):
          loss, weight = level_loss(generator.params, arrays, jnp.float32(level))
        totals[level][0] += float(loss)
        totals[level][1] += float(weight)
        bar.update()
  return {level: loss / max(weight, 1e-9) for level, (loss, weight) in totals.items()}


def _level_loss(generator: generator_lib.Generator) -> Callable:
  """Params, batch, level -> the summed losses of its segments, and their weight."""

  def run(params, batch, level):
    predict = functools.partial(generator.sampler.predict, params)
    total, _, _ = batch_loss.held_out(predict, batch, level, generator.config.diffusion)
    return total, jnp.sum(batch.weights)

  return run
