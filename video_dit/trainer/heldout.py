"""The held-out loss by noise level: the same data and noise every time.

So two values of one run, in training or after it, differ by the weights alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import grain
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

    A batch's sums are fetched when the next one is already under way, so that the device
    always has work, and no more than two batches wait for it.

    Returns:
      By level and name (total, weight), float64: of `loss` and of the further means.
    """
    found: dict[float, Totals] = {level: {} for level in self._levels}
    last: dict[float, Sums] = {}
    with jax.set_mesh(self._mesh):
      for batch in batches:
        sums = {x: self._measure(params, batch, at) for x, at in self._levels.items()}
        _add(found, jax.device_get(last))
        last = sums
      _add(found, jax.device_get(last))
    return found


def _add(found: dict[float, Totals], sums: Mapping[float, Sums]) -> None:
  """Adds the sums of a batch by level, as float64."""
  for level, one in sums.items():
    for name, pair in {"loss": (one.loss, one.weight), **one.means}.items():
      totals = found[level].get(name, np.zeros(2))
      found[level][name] = totals + np.asarray(pair, np.float64)


class Rows:
  """The first batches of held-out latents: planned once, read anew in every pass.

  Threads read ahead, as in training. The batches lie on the mesh, the next already there
  while one is measured.

  Args:
    dataset: of held-out latents.
    config: of the run.
    mesh: over which the batches are laid.
    most: the largest number of batches.

  Raises:
    ValueError: a clip that no row holds.
  """

  def __init__(
    self,
    dataset: reader.Dataset,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
    most: int,
  ):
    self._layout = task.rows_layout(mesh)
    self._share = loader.Share.of(partition.rows_sharding(mesh), config.data.rows)
    self._source = loader.held_out(dataset, config, share=self._share)
    self._num = min(len(self._source), most)
    threads = config.data.threads
    self._options = grain.ReadOptions(
      num_threads=threads, prefetch_buffer_size=max(threads, config.data.prefetch)
    )

  def __len__(self) -> int:
    return self._num

  def __iter__(self) -> Iterator[Batch]:
    some = grain.MapDataset.source(self._source)[: self._num]
    host = iter(some.to_iter_dataset(self._options))
    return loader.prefetch_to_device(host, self._layout, 1, self._share)
