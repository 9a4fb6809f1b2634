"""The loader: batches are a function of the step, on any number of processes."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.data import clips
from video_dit import config
from video_dit.data import loader, patchify, reader, schema, writer

_CONFIG = config.Config(
  name="test",
  objective="diffusion",
  seed=5,
  dit=config.DiT(patch=(1, 2, 2)),
  data=config.Data(
    rows=4, row_length=64, row_segments=16, row_text=48, threads=2, caption_dropout=0.2
  ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A finished set of 120 clips, 24 of them for validation."""
  return clips.write(tmp_path_factory.mktemp("latents"), 120)


@pytest.fixture
def dataset(folder):
  """Its training split."""
  return reader.Dataset(folder)


def _with(**changes):
  return dataclasses.replace(_CONFIG, data=dataclasses.replace(_CONFIG.data, **changes))


def _take(iterator, num):
  return [next(iterator) for _ in range(num)]


def _share(process: int, processes: int) -> loader.Share:
  each = _CONFIG.data.rows // processes
  rows = tuple(range(process * each, (process + 1) * each))
  return loader.Share(rows=rows, total=_CONFIG.data.rows)


def _equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def _keys(batches):
  return [
    tuple(key) for b in batches for key in b.keys[b.tokens > 0].reshape(-1, 2).tolist()
  ]


def test_batches_start_at_any_step(dataset):
  walked = _take(loader.loader(dataset, _CONFIG), 9)
  for start in (1, 8):
    jumped = loader.loader(dataset, _CONFIG, start_step=start)
    _equal(next(jumped), walked[start])


def test_the_state_is_the_next_step(dataset):
  iterator = loader.loader(dataset, _CONFIG, start_step=4)
  _take(iterator, 2)
  state = iterator.get_state()
  assert state == {"next_index": 6}
  expected = next(iterator)
  again = loader.loader(dataset, _CONFIG)
  again.set_state(state)
  _equal(next(again), expected)


def test_threads_change_nothing(dataset):
  one = _take(loader.loader(dataset, _with(threads=1)), 6)
  many = _take(loader.loader(dataset, _with(threads=4, prefetch=6)), 6)
  for a, b in zip(one, many, strict=True):
    _equal(a, b)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_step(dataset, processes):
  whole = _take(loader.loader(dataset, _CONFIG), 3)
  shares = [
    _take(loader.loader(dataset, _CONFIG, share=_share(i, processes)), 3)
    for i in range(processes)
  ]
  for step, expected in enumerate(whole):
    parts = [share[step] for share in shares]
    _equal(jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts), expected)


def test_a_process_makes_the_rows_that_it_is_told(dataset):
  whole = next(loader.loader(dataset, _CONFIG))
  share = loader.Share(rows=(1, 3), total=4)
  some = next(loader.loader(dataset, _CONFIG, share=share))
  _equal(some, jax.tree.map(lambda array: array[[1, 3]], whole))


def test_an_epoch_has_every_clip_once(dataset):
  plan = loader.steps(dataset, _CONFIG)
  rows = len(plan.plan(0))
  batches = _take(loader.loader(dataset, _CONFIG, plan=plan), -(-rows // 4))
  first = jax.tree.map(lambda *arrays: np.concatenate(arrays)[:rows], *batches)
  expected = {(int(k[:8], 16), int(k[8:16], 16)) for k in dataset.index.key.tolist()}
  assert len(_keys([first])) == len(expected) == 96
  assert set(_keys([first])) == expected
  report = plan.report(0)
  assert report["fill"] == pytest.approx((first.segments > 0).mean())
  assert report["text_fill"] == pytest.approx(
    sum(dataset.index.text_tokens) / (rows * 48)
  )


def test_long_clips_are_split_when_asked(dataset):
  with pytest.raises(ValueError, match=r"clip [0-9a-f]{32} .*row_length=32"):
    loader.loader(dataset, _with(row_length=32))
  batch = next(loader.loader(dataset, _with(row_length=32, long="split", row_text=96)))
  assert batch.patches.shape == (4, 32, 12)


def test_the_runs_of_an_epoch_are_its_clips(dataset):
  settings = _with(row_length=12, long="split", caption_dropout=0.0)
  plan = loader.steps(dataset, settings)
  rows = len(plan.plan(0))
  batches = _take(loader.loader(dataset, settings, plan=plan), -(-rows // 4))
  first = jax.tree.map(lambda *arrays: np.concatenate(arrays)[:rows], *batches)
  found: dict[bytes, list] = {}
  for row, segment in zip(*first.tokens.nonzero(), strict=True):
    here = first.segments[row] == segment + 1
    text = first.text[row][first.text_segments[row] == segment + 1]
    run = first.frames[row][here], first.patches[row][here]
    found.setdefault(text.tobytes(), []).append(run)
  for i in range(len(dataset)):
    runs = sorted(found.pop(dataset[i].text.tobytes()), key=lambda run: run[0][0])
    frames, patches = (np.concatenate(arrays) for arrays in zip(*runs, strict=True))
    latent = dataset[i].latent
    np.testing.assert_array_equal(patches, patchify.patchify(latent, (1, 2, 2)))
    np.testing.assert_array_equal(np.unique(frames), np.arange(len(latent)))
  assert not found
  keys = _keys([first])
  assert len(keys) == len(set(keys)) == len(plan.pieces) > len(dataset)


def test_held_out_batches_have_every_clip_once_with_its_caption(folder):
  dataset = reader.Dataset(folder, "validation")
  batches = loader.held_out(dataset, _CONFIG)
  taken = [batches[i] for i in range(len(batches))]
  assert len(_keys(taken)) == len(set(_keys(taken))) == 24
  captions = sum((b.text_segments > 0).sum() for b in taken)
  assert captions == dataset.index.text_tokens.sum()
  assert all(b.patches.shape == taken[0].patches.shape for b in taken)
  other_seed = loader.held_out(dataset, dataclasses.replace(_CONFIG, seed=6))
  _equal(other_seed[0], taken[0])


def _write_one_bad(folder, field="latent", value=np.inf):
  """Six clips, of which the third cannot be used."""
  with writer.ShardWriter(folder, clips.metadata()) as w:
    for i, (record, _) in enumerate(clips.records(6)):
      if i == 2:
        getattr(record, field)[..., 0] = value
      w.write(record, "train")
    w.finish()
  return reader.Dataset(folder)


def _one_step(dataset):
  """The config of steps that have all rows of an epoch."""
  return _with(rows=len(loader.steps(dataset, _CONFIG).plan(0)))


@pytest.mark.parametrize(("field", "value"), [("latent", np.inf), ("text", np.nan)])
def test_a_bad_record_is_named_and_left_out(tmp_path, field, value):
  dataset = _write_one_bad(tmp_path, field, value)
  config = _one_step(dataset)
  batch = next(loader.loader(dataset, config))
  assert len(_keys([batch])) == 5
  assert np.isfinite(batch.patches).all() and np.isfinite(batch.text).all()
  assert list(dataset.damaged) == [2]
  assert clips.key(2) in dataset.damaged[2]
  del dataset.sets[0]._source  # it is not read again
  assert loader.read(dataset, 2) is None
  # Its place is kept, and all others are where they were planned to be.
  plan = loader.steps(dataset, config)
  pieces = plan.pieces
  for r, row in enumerate(plan.rows_for_step(0)):
    planned = [n for i, n in enumerate(pieces.tokens[row.pieces], 1) for n in [i] * n]
    assert batch.segments[r, : len(planned)].tolist() == planned
    used = pieces.clip[row.pieces] != 2
    assert (batch.weights[r, : len(used)] == used).all()


def test_a_record_that_cannot_be_used_ends_a_run_whose_processes_share_its_row(tmp_path):
  dataset = _write_one_bad(tmp_path)
  config = _one_step(dataset)
  plan = loader.steps(dataset, config)
  clips_of = [plan.pieces.clip[row.pieces] for row in plan.rows_for_step(0)]
  (bad,) = [i for i, numbers in enumerate(clips_of) if 2 in numbers]
  whole = loader.Share.whole(config.data.rows)

  def first(*shared: int):
    share = dataclasses.replace(whole, shared=frozenset(shared))
    return next(loader.loader(dataset, config, share=share))

  assert first(*set(whole.rows) - {bad}).weights.sum() == 5
  for _ in range(2):  # also where it is known already
    message = rf"{clips.key(2)} .*row {bad} of step 0, which several"
    with pytest.raises(reader.RecordError, match=message):
      first(bad)


class _Places:
  """How rows lie over devices, of which each process has two."""

  def __init__(self, *places):
    self.places = places

  def devices_indices_map(self, _):
    return {_Device(i, i // 2): (slice(*x),) for i, x in enumerate(self.places)}


@dataclasses.dataclass(frozen=True)
class _Device:
  number: int
  process_index: int


def test_a_share_knows_the_rows_that_others_make_too():
  apart = _Places((0, 2), (2, 4), (4, 6), (6, 8))
  assert loader.Share.of(apart, 8, 1) == loader.Share((4, 5, 6, 7), 8)
  across = _Places((0, 4), (4, 8), (0, 4), (4, 8))
  assert loader.Share.of(across, 8, 0) == loader.Share(
    tuple(range(8)), 8, frozenset(range(8))
  )
  partly = _Places((0, 2), (2, 4), (2, 4), (4, 6))
  assert [loader.Share.of(partly, 6, i).shared for i in range(2)] == [{2, 3}] * 2


def test_another_caption_that_is_not_finite_leaves_its_record_out_too(tmp_path):
  with writer.ShardWriter(tmp_path, clips.metadata(several=True)) as w:
    for i, (record, _) in enumerate(clips.records(3)):
      other = np.full((2, clips.TEXT_WIDTH), np.inf if i == 1 else 0.0, np.float16)
      w.write(record.with_captions(["other"], [other], [1.0, 1.0]), "train")
    w.finish()
  dataset = reader.Dataset(tmp_path)
  assert [loader.read(dataset, i) is None for i in range(3)] == [False, True, False]
  assert "text that is not finite" in dataset.damaged[1]


def test_a_set_of_which_over_a_hundredth_cannot_be_used_is_refused():
  class Damaged(list):
    """Records of which none can be read."""

    def __init__(self):
      super().__init__([None] * 1000)
      self.damaged: dict[int, str] = {}

    def __getitem__(self, i):
      raise reader.RecordError(f"record {i}")

  dataset = Damaged()
  assert all(loader.read(dataset, i) is None for i in range(10))
  with pytest.raises(reader.RecordError, match="11 of 1000 records cannot be used"):
    loader.read(dataset, 10)


def test_an_empty_caption_that_is_not_finite_is_refused(tmp_path):
  empty = np.full((1, clips.TEXT_WIDTH), np.inf, np.float16)
  with writer.ShardWriter(tmp_path, clips.metadata(empty=empty)) as w:
    w.write(next(clips.records(1))[0], "train")
    w.finish()
  with pytest.raises(ValueError, match=r"empty caption \(.*\) is not finite"):
    loader.steps(reader.Dataset(tmp_path), _CONFIG)


def test_other_kinds_and_sets_without_the_empty_caption_are_refused(dataset, tmp_path):
  with pytest.raises(ValueError, match=r"'latents' where 'pixels'"):
    loader.windows_loader(dataset, _CONFIG)
  metadata = clips.metadata(empty=None)
  with writer.ShardWriter(tmp_path, metadata) as w:
    w.write(next(clips.records(1))[0], "train")
    w.finish()
  bare = reader.Dataset(tmp_path)
  with pytest.raises(ValueError, match=r"empty caption.*caption_dropout=0"):
    loader.loader(bare, _CONFIG)
  loader.loader(bare, _with(caption_dropout=0.0))


def _write_pixels(folder, pixels) -> None:
  with writer.ShardWriter(folder, schema.Metadata(kind="pixels")) as w:
    for i, clip in enumerate(pixels):
      record = schema.PixelRecord(
        key=clips.key(i), clip=clip, caption="", frames_per_second=8.0
      )
      w.write(record, "train")
    w.finish()


def test_a_window_of_a_bad_record_is_of_another_in_any_row(tmp_path):
  _write_pixels(tmp_path, [np.full((1, 8, 8, 3), i, np.uint8) for i in range(4)])
  (shard,) = tmp_path.glob("pixels-train*")
  data = bytearray(shard.read_bytes())
  data[data.index(clips.key(2).encode())] ^= 255
  shard.write_bytes(data)
  settings = _with(window_frames=1, window_side=8, threads=1)
  for seed in range(6):  # the bad record comes first, last and between
    dataset = reader.Dataset(tmp_path)
    batch = next(loader.windows_loader(dataset, dataclasses.replace(settings, seed=seed)))
    found = batch.clips[:, 0, 0, 0, 0].tolist()
    assert len(found) == 4 and set(found) == {0, 1, 3}
  share = loader.Share((0, 1, 2, 3), 4, frozenset([0, 1, 2, 3]))
  with pytest.raises(reader.RecordError, match=r"row \d of step 0, which several"):
    next(loader.windows_loader(dataset, settings, share=share))


def test_windows_are_a_function_of_the_step_on_any_number_of_processes(tmp_path):
  draw = (np.random.default_rng(i).integers for i in range(7))
  _write_pixels(
    tmp_path,
    [each(0, 255, (3 + i, 12, 16, 3), np.uint8) for i, each in enumerate(draw)],
  )
  dataset, settings = reader.Dataset(tmp_path), _with(window_frames=5, window_side=8)
  walked = _take(loader.windows_loader(dataset, settings), 4)
  assert walked[0].clips.shape == (4, 5, 8, 8, 3)
  _equal(next(loader.windows_loader(dataset, settings, start_step=3)), walked[3])
  shares = [
    next(loader.windows_loader(dataset, settings, share=_share(i, 2))) for i in range(2)
  ]
  _equal(jax.tree.map(lambda *arrays: np.concatenate(arrays), *shares), walked[0])


def test_batches_go_to_the_devices_in_order(dataset):
  mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.NamedSharding(mesh, jax.P("data"))
  shardings = jax.tree.map(lambda _: sharding, next(loader.loader(dataset, _CONFIG)))
  hosts = _take(loader.loader(dataset, _CONFIG), 5)
  ahead = []

  def counted():
    for host in hosts:
      ahead.append(host)
      yield host

  for i, batch in enumerate(loader.prefetch_to_device(counted(), sharding, 2)):
    assert len(ahead) == min(i + 3, 5)
    assert batch.patches.sharding == sharding
    _equal(batch, hosts[i])
  assert i == 4
  each = loader.prefetch_to_device(iter(hosts), shardings, 1)
  assert next(each).keys.sharding == sharding
