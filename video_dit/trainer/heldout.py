"""The held-out loss by noise level: the same data and noise every time.

So two values of one run, in training or after it, differ by the weights alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np

from video_dit import config as config_lib
from video_dit.checkpoints.state import Params
from video_dit.data import loader, reader
from video_dit.data.batch import Batch
from video_dit.parallel import partition
from video_dit.trainer import task
from video_dit.trainer.sums import Sums

Totals = dict[str, np.ndarray]


class ByLevel:
  """Measures a loss at fixed noise levels; compiled once.

  Args:
    measure: parameters, batch, level -> `Sums`.
    levels: noise levels.
    mesh: over which parameters and batches lie.
  """

  def __init__(
    self,
    measure: Callable[[Params, Batch, jax.Array], Sums],
    levels: Sequence[float],
    mesh: jax.sharding.Mesh,
  ):
    everywhere = partition.replicated(mesh)
    self._mesh = mesh
    self._measure = jax.jit(measure, out_shardings=everywhere)
    self._levels = {x: jax.device_put(np.float32(x), everywhere) for x in levels}

  def __call__(self, params: Params, batches: Iterable[Batch]) -> dict[float, Totals]:
    """Sums over the batches.

    Returns:
      By level and name (total, weight), float64: of `loss` and of the further means.
    """
    found: dict[float, Totals] = {level: {} for level in self._levels}
    with jax.set_mesh(self._mesh):
      for batch in batches:
        for level, level_array in self._levels.items():
          sums = jax.device_get(self._measure(params, batch, level_array))
          for name, pair in {"loss": (sums.loss, sums.weight), **sums.means}.items():
            totals = found[level].get(name, np.zeros(2))
            found[level][name] = totals + np.asarray(pair, np.float64)
    return found


def rows(
  dataset: reader.Dataset, config: config_lib.Config, mesh: jax.sharding.Mesh, most: int
) -> tuple[int, Iterator[Batch]]:
  """The first batches of held-out latents, at most `most`: how many, and they themselves.

  They lie on the mesh, the next already there while one is measured.
  """
  share = loader.Share.of(partition.rows_sharding(mesh), config.data.rows)
  source = loader.held_out(dataset, config, share=share)
  num = min(len(source), most)
  host = (source[i] for i in range(num))
  return num, loader.prefetch_to_device(host, task.rows_layout(mesh), 1, share)
