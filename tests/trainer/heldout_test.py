"""Held-out batches are laid out as a step's, and each level is measured on them all."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from tests import tiny
from video_dit import config as config_lib
from video_dit.data import loader, reader
from video_dit.parallel import mesh as mesh_lib
from video_dit.trainer import heldout, task
from video_dit.trainer.sums import Sums


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  folder = tiny.run_once(tmp_path_factory).parent / "data" / "latents"
  return reader.Dataset(folder, "validation")


def test_a_device_holds_its_tokens_alone(dataset):
  mesh = mesh_lib.make(jax.devices(), (2, 2, 1, 2))
  found = heldout.Rows(dataset, tiny.CONFIG, mesh, 9)
  (batch,) = found
  assert len(found) == 1
  assert jax.tree.map(lambda x: x.sharding, batch) == task.rows_layout(mesh)
  rows, length = tiny.CONFIG.data.rows, tiny.CONFIG.data.row_length
  assert batch.patches.addressable_shards[0].data.shape[:2] == (rows // 4, length // 2)


def test_totals_of_all_batches_by_level(dataset):
  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))

  def measure(params, batch, level):
    clips = batch.weights.sum()
    means = {"level": (level * clips, clips)}
    return Sums(loss=params * clips, weight=clips, means=means, counts={})

  rows = heldout.Rows(dataset, tiny.CONFIG, mesh, 1)
  found = heldout.ByLevel(measure, (0.25, 0.5), mesh)(
    jax.numpy.float32(3.0), [*rows] * (2 * len(rows))
  )
  assert set(found) == {0.25, 0.5}
  for level, totals in found.items():
    np.testing.assert_array_equal(totals["loss"], [12.0, 4.0])
    np.testing.assert_array_equal(totals["level"], [4 * level, 4.0])


def _two_batches() -> config_lib.Config:
  """One row a batch, which holds one of the two clips."""
  data = {"rows": 1, "row_length": 48, "balance_rows": 1}
  return dataclasses.replace(
    tiny.CONFIG, data=dataclasses.replace(tiny.CONFIG.data, **data)
  )


def test_every_pass_reads_the_same_batches_in_threads_of_its_own(dataset, monkeypatch):
  mesh = mesh_lib.make(jax.devices()[:1], (1, 1, 1, 1))
  source, threads = loader.held_out(dataset, _two_batches()), []
  expected = [source[i] for i in range(len(source))]
  assert len(expected) == 2
  rows, one = (heldout.Rows(dataset, _two_batches(), mesh, most) for most in (9, 1))
  read = loader.read

  def spied(*args):
    threads.append(threading.current_thread())
    return read(*args)

  monkeypatch.setattr(loader, "read", spied)
  monkeypatch.delattr(loader, "held_out")  # the plan is made already
  for _ in range(2):
    for found, wanted in zip(rows, expected, strict=True):
      jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert len(threads) == 4 and threading.main_thread() not in threads
  assert len([*one]) == 1


def test_sums_are_fetched_when_the_next_batch_is_under_way(monkeypatch):
  mesh = mesh_lib.make(jax.devices()[:1], (1, 1, 1, 1))
  events, get = [], jax.device_get

  def fetch(tree):
    if tree:
      events.append(f"fetch {len(tree)}")
    return get(tree)

  def batches():
    for i in range(3):
      events.append(f"read {i}")
      yield jax.numpy.float32(i)

  def measure(params, batch, level):
    return Sums(loss=params * batch + level, weight=batch, means={}, counts={})

  by_level = heldout.ByLevel(measure, (0.25, 0.5), mesh)
  monkeypatch.setattr(heldout.jax, "device_get", fetch)
  found = by_level(jax.numpy.float32(3.0), batches())
  assert events == ["read 0", "read 1", "fetch 2", "read 2", "fetch 2", "fetch 2"]
  np.testing.assert_array_equal(found[0.5]["loss"], [3 * 3 + 3 * 0.5, 3])
