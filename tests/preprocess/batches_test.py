"""Few shapes, little waste, every wanted clip in exactly one batch."""

import dataclasses
import math

import numpy as np
import pytest

from tests.preprocess.plan_test import plan_of
from video_dit.media import resize
from video_dit.preprocess import batches as batches_lib
from video_dit.preprocess import buffers


def _sizes(num: int, grid: int, max_pixels: int) -> list[tuple[int, int]]:
  """Sizes of images as they come: any aspect ratio, large and small."""
  rng = np.random.default_rng(0)
  aspect = np.exp(rng.normal(0, 0.45, num)) ** 0.5
  side = np.exp(rng.uniform(math.log(64), math.log(2000), num))
  return [
    resize.target_size(
      max(grid, int(s / a)), max(grid, int(s * a)), max_pixels=max_pixels, grid=grid
    )
    for s, a in zip(side, aspect, strict=True)
  ]


def _rules(**changes) -> batches_lib.Rules:
  return batches_lib.Rules(**({"grid": 16, "mixes_lengths": True} | changes))


@pytest.mark.parametrize("mixes", [True, False])
def test_hundreds_of_sizes_share_a_few_shapes(tmp_path, mixes):
  sizes = _sizes(400, 16, 256 * 256)
  rng = np.random.default_rng(1)
  shapes = [(int(rng.choice([1, 1, 5, 17])), *size) for size in sizes]
  plan = plan_of(tmp_path, shapes)
  made = batches_lib.plan(plan, np.ones(len(plan), bool), _rules(mixes_lengths=mixes))
  needed = sum(math.prod(shape) for shape in shapes)
  wasted = 1 - needed / sum(batch.pixels for batch in made)
  assert wasted < 0.1
  kinds = {batch.buffer[1:] for batch in made}
  assert len(set(sizes)) > 100 and len(kinds) < 50
  assert len({(*batch.buffer[1:], batch.size) for batch in made}) < 3 * len(kinds)


def _wasted(tmp_path, shapes, **changes) -> float:
  plan = plan_of(tmp_path, shapes)
  made = batches_lib.plan(plan, np.ones(len(plan), bool), _rules(**changes))
  return batches_lib.wasted(plan, made)


@pytest.mark.parametrize("mixes", [True, False])
def test_several_devices_waste_no_more_than_one(tmp_path, mixes):
  images = [(1, *size) for size in _sizes(300, 16, 256 * 256)]
  videos = [(frames, 256, 256) for frames in (5, 9, 13) for _ in range(24)]
  rare = [(frames, 240, 250 // 16 * 16) for frames in (5, 9, 13)]
  for shapes in (images, videos + rare):
    alone = _wasted(tmp_path, shapes, mixes_lengths=mixes)
    assert _wasted(tmp_path, shapes, mixes_lengths=mixes, devices=8) <= alone < 0.1


def test_devices_share_the_work_evenly_and_the_shapes(tmp_path):
  shapes = [(17, *size) for size in _sizes(300, 16, 256 * 256)]
  plan = plan_of(tmp_path, shapes)
  made = batches_lib.plan(plan, np.ones(len(plan), bool), _rules(devices=4))
  laid = batches_lib.over_devices(made, 4)
  assert sorted(b.indices[0] for b in laid) == sorted(b.indices[0] for b in made)
  work, kinds = np.zeros(4), [set() for _ in range(4)]
  for batch in laid:
    # None is given work while another one would have been done long before.
    assert work[batch.device] <= work.min() + max(b.pixels for b in made)
    work[batch.device] += batch.pixels
    kinds[batch.device].add((batch.buffer[1:], batch.size))
  assert work.max() < 1.1 * work.min()
  assert sum(map(len, kinds)) <= len(set.union(*kinds)) + 3


def test_few_clips_are_enough_for_all_devices(tmp_path):
  plan = plan_of(tmp_path, [(9, 32, 48)] * 8)
  made = batches_lib.plan(plan, np.ones(8, bool), _rules(devices=8))
  assert {b.device for b in batches_lib.over_devices(made, 8)} == set(range(8))


@pytest.mark.parametrize("mixes", [True, False])
def test_every_wanted_clip_lies_in_one_batch_that_holds_it(tmp_path, mixes):
  rng = np.random.default_rng(0)
  shapes = [
    (int(rng.choice([1, 5, 9])), *(16 * rng.integers(1, 5, 2)).tolist())
    for _ in range(90)
  ]
  plan = plan_of(tmp_path, shapes)
  wanted = rng.uniform(size=len(plan)) < 0.8
  seen = []
  for batch in batches_lib.plan(plan, wanted, _rules(mixes_lengths=mixes, devices=2)):
    held = np.array([plan.shape(i) for i in batch.indices])
    assert (held <= np.array(batch.buffer)[None]).all()
    assert batch.is_exact <= (held[:, 1:] == np.array(batch.buffer[1:])[None]).all()
    assert len(batch.indices) <= batch.size
    assert mixes or (held[:, 0] == batch.buffer[0]).all()
    seen.extend(batch.indices)
  assert sorted(seen) == np.flatnonzero(wanted).tolist()


def test_a_clip_runs_in_the_same_shape_whatever_was_made_before(tmp_path):
  shapes = [(9, *size) for size in _sizes(60, 16, 128 * 128)]
  plan = plan_of(tmp_path, shapes)

  def shapes_of(wanted):
    batches = batches_lib.plan(plan, wanted, _rules())
    return {i: (b.buffer, b.size, b.is_exact) for b in batches for i in b.indices}

  whole = shapes_of(np.ones(len(plan), bool))
  rest = shapes_of(np.arange(len(plan)) % 3 == 0)
  assert rest and all(whole[i] == shape for i, shape in rest.items())


def test_clips_of_one_size_fill_their_buffer(tmp_path):
  plan = plan_of(tmp_path, [(9, 32, 48)] * 40)
  made = batches_lib.plan(plan, np.ones(40, bool), _rules())
  assert all(b.is_exact and b.buffer == (9, 32, 48) for b in made)
  assert {b.size for b in made} == {8} and len(made) == 5


def test_hosts_share_the_work_evenly_and_wholly(tmp_path):
  shapes = [(17, *size) for size in _sizes(300, 16, 256 * 256)]
  plan = plan_of(tmp_path, shapes)
  made = batches_lib.plan(plan, np.ones(len(plan), bool), _rules())
  shares = [batches_lib.share(made, host, 3) for host in range(3)]
  indices = sorted(int(i) for share in shares for b in share for i in b.indices)
  assert indices == list(range(len(plan)))
  work = [sum(b.pixels for b in share) for share in shares]
  assert max(work) < 1.05 * min(work)


def test_the_largest_work_is_shared_first():
  batches = [
    batches_lib.Batch(indices=np.array([i]), buffer=(n, 16, 16), size=1, is_exact=True)
    for i, n in enumerate([1, 1, 1, 1, 4])
  ]
  shares = [batches_lib.share(batches, host, 2) for host in range(2)]
  assert sorted(sum(b.buffer[0] for b in share) for share in shares) == [4, 4]


def test_clips_of_one_shape_follow_their_files_and_their_places_in_them(tmp_path):
  plan = plan_of(tmp_path, [(9, 32, 48)] * 4)
  places = {"line": np.array([2, 1, 2, 1]), "first_frame": np.array([0, 9, 9, 0])}
  plan = dataclasses.replace(plan, **places)
  (batch,) = batches_lib.plan(plan, np.ones(4, bool), _rules())
  assert batch.indices.tolist() == [3, 1, 0, 2]


def test_few_clips_are_enough_for_all_devices_of_all_hosts(tmp_path):
  plan = plan_of(tmp_path, [(9, 32, 48)] * 8)
  made = batches_lib.plan(plan, np.ones(8, bool), _rules(devices=2, hosts=4))
  assert len(made) == 8


def test_thousands_of_sizes_are_still_chosen_from_quickly():
  rng = np.random.default_rng(0)
  sizes_N2 = 16 * rng.integers(4, 120, (2500, 2))
  buffers_N2 = buffers.choose(sizes_N2, np.ones(2500, int), 16)
  assert (buffers_N2 >= sizes_N2).all()
  assert sizes_N2.prod(axis=1).sum() > 0.9 * buffers_N2.prod(axis=1).sum()


def test_no_clips(tmp_path):
  plan = plan_of(tmp_path, [])
  assert batches_lib.plan(plan, np.zeros(0, bool), _rules()) == []
