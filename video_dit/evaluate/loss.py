"""The held-out loss at fixed noise levels, with the averaged weights."""

from flax import nnx

from video_dit.data import reader
from video_dit.generator import generator as generator_lib
from video_dit.parallel import hosts
from video_dit.trainer import diffusion, heldout, task


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

  Raises:
    ValueError: a batch does not divide over the mesh.
  """
  config, mesh = generator.config, generator.mesh
  task.check_mesh(config, mesh)
  graphdef, _ = generator_lib.abstract_model(
    config, generator.frozen.channels, generator.encoder.width
  )
  measure = heldout.ByLevel(
    lambda params, batch, level: diffusion.heldout(
      nnx.merge(graphdef, params), batch, level, config
    ),
    config.evaluate.times,
    mesh,
  )
  assert generator.params is not None
  rows = heldout.Rows(dataset, config, mesh, config.evaluate.batches)
  shown = hosts.bar(rows, total=len(rows), desc="held-out loss", unit="batch")
  found = measure(generator.params, shown)
  return {level: _mean(*totals["loss"]) for level, totals in found.items() if totals}


def _mean(total: float, weight: float) -> float:
  return float(total) / max(float(weight), 1e-9)
