"""Held-out batches are laid out as a step's, and each level is measured on them all."""

import jax
import numpy as np
import pytest

from tests import tiny
from video_dit.data import reader
from video_dit.parallel import mesh as mesh_lib
from video_dit.trainer import heldout, task
from video_dit.trainer.sums import Sums


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  folder = tiny.run_once(tmp_path_factory).parent / "data" / "latents"
  return reader.Dataset(folder, "validation")


def test_a_device_holds_its_tokens_alone(dataset):
  mesh = mesh_lib.make(jax.devices(), (2, 2, 1, 2))
  num, batches = heldout.rows(dataset, tiny.CONFIG, mesh, 9)
  (batch,) = batches
  assert num == 1
  assert jax.tree.map(lambda x: x.sharding, batch) == task.rows_layout(mesh)
  rows, length = tiny.CONFIG.data.rows, tiny.CONFIG.data.row_length
  assert batch.patches.addressable_shards[0].data.shape[:2] == (rows // 4, length // 2)


def test_totals_of_all_batches_by_level(dataset):
  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))

  def measure(params, batch, level):
    clips = batch.weights.sum()
    means = {"level": (level * clips, clips)}
    return Sums(loss=params * clips, weight=clips, means=means, counts={})

  num, batches = heldout.rows(dataset, tiny.CONFIG, mesh, 1)
  found = heldout.ByLevel(measure, (0.25, 0.5), mesh)(
    jax.numpy.float32(3.0), [*batches] * (2 * num)
  )
  assert set(found) == {0.25, 0.5}
  for level, totals in found.items():
    np.testing.assert_array_equal(totals["loss"], [12.0, 4.0])
    np.testing.assert_array_equal(totals["level"], [4 * level, 4.0])
