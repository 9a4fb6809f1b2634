"""Several data sets in one run."""

import dataclasses
import shutil

import numpy as np
import pytest

from tests.data import clips
from video_dit import config
from video_dit.data import loader, reader, schema, writer

CONFIG = config.Config(
  name="test",
  objective="diffusion",
  seed=5,
  dit=config.DiT(patch=(1, 2, 2)),
  data=config.Data(rows=4, row_length=64, row_segments=16, row_text=48, threads=2),
)


def write(folder, start, num, *, validation=True, **changes):
  """A finished set of the clips from `start` on."""
  with writer.ShardWriter(folder, clips.metadata(**changes), shard_records=16) as w:
    for record, split in clips.records(num, start):
      w.write(record, split if validation else "train")
    w.finish()
  return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """80, 40 and 10 training clips; the last set has no others."""
  parent = tmp_path_factory.mktemp("sets")
  return [
    write(parent / "a", 0, 100),
    write(parent / "b", 100, 50),
    write(parent / "c", 150, 10, validation=False),
  ]


def weighted(*weights):
  return dataclasses.replace(
    CONFIG, data=dataclasses.replace(CONFIG.data, weights=weights)
  )


def counts(plan, dataset, epoch):
  """How often each record comes in an epoch."""
  found = plan.pieces.clip[plan.plan(epoch).order]
  return np.bincount(found, minlength=len(dataset))


def test_records_and_index_are_those_of_the_sets_in_turn(folders):
  dataset = reader.Dataset(folders)
  assert len(dataset) == len(dataset.index) == 130
  alone = [reader.Dataset(folder) for folder in folders]
  seen, number = [0, 0, 0], dataset.set_of()
  for i in range(len(dataset)):
    one = alone[number[i]]
    place = seen[number[i]]
    assert dataset[i].key == dataset.index.key[i].decode() == one[place].key
    np.testing.assert_array_equal(dataset[i].latent, one[place].latent)
    for name in ("t", "h", "w", "text_tokens"):
      assert getattr(dataset.index, name)[i] == getattr(one.index, name)[place]
    assert dataset.clip(i) == f"{folders[number[i]]}: clip {dataset[i].key}"
    seen[number[i]] += 1
  assert seen == [80, 40, 10]
  # Any thirteenth of them is a sample of all.
  for first in range(0, 130, 13):
    assert np.bincount(number[first : first + 13]).tolist() == [8, 4, 1]
  assert dataset.index.column("caption")[5] == dataset[5].caption


def test_an_epoch_has_every_clip_of_every_set_once(folders):
  dataset = reader.Dataset(folders)
  plan = loader.steps(dataset, CONFIG)
  for epoch in range(2):
    assert (counts(plan, dataset, epoch) == 1).all()


def test_weights_say_how_often_clips_come(folders):
  dataset = reader.Dataset(folders)
  plan = loader.steps(dataset, weighted(0.25, 1.0, 3.0))
  number = dataset.set_of()
  total = 0
  for epoch in range(4):
    found = counts(plan, dataset, epoch)
    total += found
    assert [found[number == i].sum() for i in range(3)] == [20, 40, 30]
    rows = len(plan.plan(epoch))
    assert sum(len(plan.plan(epoch).row(i)) for i in range(rows)) == 90
  assert [set(total[number == i].tolist()) for i in range(3)] == [{1}, {4}, {12}]
  assert plan.report()["pieces"] == 90


def test_steps_go_through_weighted_epochs_from_any_start(folders):
  dataset, settings = reader.Dataset(folders), weighted(0.25, 1.0, 3.0)
  iterator = loader.loader(dataset, settings)
  walked = [next(iterator) for _ in range(12)]
  jumped = next(loader.loader(reader.Dataset(folders), settings, start_step=11))
  np.testing.assert_array_equal(jumped.patches, walked[11].patches)
  np.testing.assert_array_equal(jumped.keys, walked[11].keys)


def test_copies_of_a_clip_have_noise_of_their_own(folders):
  dataset = reader.Dataset(folders[2])
  settings = dataclasses.replace(weighted(3.0), seed=1)
  plan = loader.steps(dataset, settings)
  batches = loader.Batches(dataset, settings, plan)
  rows = len(plan.plan(0))
  keys, latents = set(), set()
  for step in range(rows // 4):
    batch = batches[step]
    for row in range(4):
      for s in range(int(batch.segments[row].max())):
        keys.add(tuple(batch.keys[row, s].tolist()))
        latents.add(batch.patches[row][batch.segments[row] == s + 1].tobytes())
  assert len(keys) > 2 * len(latents)


def test_the_order_depends_on_the_weights(folders):
  dataset = reader.Dataset(folders)
  found = [
    loader.steps(dataset, settings).packing
    for settings in (CONFIG, weighted(1.0, 1.0, 2.0), weighted(1.0, 1.0, 0.5))
  ]
  assert len(set(found)) == 3


def test_held_out_clips_are_those_of_all_sets_that_have_some(folders):
  dataset = reader.held_out(folders)
  assert [one.folder for one in dataset.sets] == folders[:2]
  assert np.bincount(dataset.set_of()[:3]).tolist() == [2, 1]
  batches = loader.held_out(dataset, weighted(3.0, 0.1, 1.0))
  assert sum(int((batches[i].weights > 0).sum()) for i in range(len(batches))) == 30
  with pytest.raises(ValueError, match="no split 'validation'"):
    reader.held_out(folders[2:])


def test_damage_of_one_set_is_named_and_left_out(folders, tmp_path):
  hurt = shutil.copytree(folders[1], tmp_path / "hurt")
  shard = min(hurt.glob("*train*array_record*"))
  shard.write_bytes(bytes(len(shard.read_bytes())))
  dataset = reader.Dataset([folders[0], hurt])
  bad = [i for i in range(8) if loader.read(dataset, i) is None]
  assert bad and all(str(shard) in dataset.damaged[i] for i in bad)
  assert (dataset.set_of()[bad] == 1).all()


@pytest.mark.parametrize(
  ("name", "value"), [("autoencoder", "ae-2"), ("text", "t5-2"), ("time", 8)]
)
def test_sets_of_other_encoders_are_refused(folders, tmp_path, name, value):
  other = write(tmp_path / "other", 0, 10, **{name: value})
  first = getattr(clips.metadata(), name)
  with pytest.raises(ValueError, match=rf"other: made with {name}={value!r}.*{first!r}"):
    reader.Dataset([folders[0], other])


def test_weights_are_as_many_as_the_sets(folders):
  with pytest.raises(ValueError, match=r"2 weights for 3 data sets.*data\.path"):
    loader.steps(reader.Dataset(folders), weighted(1.0, 2.0))


def test_paths(folders):
  a, b, _ = map(str, folders)
  assert reader.set_folders(a, "latents") == folders[:1]
  assert reader.set_folders(f"{a},{b}", "latents") == folders[:2]
  with pytest.raises(ValueError, match=r"is named twice.*data\.weights"):
    reader.set_folders(f"{a},{a}/", "latents")
  with pytest.raises(ValueError, match=r"config\.data\.path is empty"):
    reader.set_folders("", "latents")


def test_a_home_is_found_in_each(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  assert [str(p) for p in reader.named("~/a,b,~/c")] == ["/home/me/a", "b", "/home/me/c"]


def test_a_folder_with_a_comma_in_its_name_is_one(tmp_path):
  folder = write(tmp_path / "cats, dogs" / "latents", 0, 5)
  assert reader.set_folders(str(folder.parent), "latents") == [folder]
  assert (folder / schema.PROVENANCE).is_file()
