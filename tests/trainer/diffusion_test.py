"""The DiT's objective: given frames, weights, and the count of its work."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit import config as config_lib
from video_dit.data.batch import Batch
from video_dit.models.dit import flops
from video_dit.trainer import diffusion

_CONFIG = config_lib.Config(
  name="test",
  objective="diffusion",
  dit=config_lib.DiT(width=8, depth=2, heads=2, mlp_ratio=2.0, patch=(1, 1, 1)),
  train=config_lib.Train(compute_dtype="float32"),
)
_SPANS = ((3, 2), (1, 4), (5, 1))  # latent frames and tokens a frame of the segments


def _batch(rows: int = 1) -> Batch:
  """Rows of the same three segments with keys of their own, and two padding tokens."""
  rng = np.random.default_rng(0)
  frames, segments = [], []
  for number, (count, each) in enumerate(_SPANS, 1):
    frames += [frame for frame in range(count) for _ in range(each)]
    segments += [number] * (count * each)
  frames, segments = [*frames, 0, 0], [*segments, 0, 0]
  tokens = [count * each for count, each in _SPANS]

  def tile(values, dtype):
    return np.tile(np.asarray(values, dtype), (rows, 1))

  return Batch(
    patches=rng.normal(size=(rows, len(frames), 4)).astype(np.float32),
    segments=tile(segments, np.int32),
    positions=np.zeros((rows, len(frames), 3), np.float32),
    frames=tile(frames, np.int32),
    keys=rng.integers(2**32, size=(rows, 3, 2), dtype=np.uint32),
    tokens=tile(tokens, np.int32),
    weights=tile([1, 1, 1], np.float32),
    text=np.zeros((rows, 4, 5), np.float32),
    text_segments=tile([1, 1, 2, 0], np.int32),
  )


def test_given_frames_are_whole_and_first_and_leave_one():
  batch, rows = _batch(400), 400
  given_RN = np.asarray(_given_tokens(batch, 0, 0, 0.5))
  assert not given_RN[:, -2:].any()  # padding
  counts = {1: [], 2: [], 3: []}
  for number, (frames, each) in enumerate(_SPANS, 1):
    inside = given_RN[:, batch.segments[0] == number].reshape(rows, frames, each)
    whole = inside.any(-1)
    assert (inside == whole[..., None]).all()
    num = whole.sum(1)
    assert all(row[:n].all() for row, n in zip(whole, num, strict=True))
    counts[number] = num
  assert set(counts[1]) == {0, 1, 2} and set(counts[2]) == {0}
  assert set(counts[3]) == {0, 1, 2, 3, 4}
  for number in (1, 3):
    assert 0.4 < (counts[number] > 0).mean() < 0.6


def test_half_of_the_clips_with_given_frames_have_one():
  batch = _batch(800)
  given_RN = np.asarray(_given_tokens(batch, 0, 0, 1.0))
  num = given_RN[:, batch.segments[0] == 3].sum(1)  # of five frames, one token each
  shares = np.bincount(num, minlength=6)[1:] / 800
  np.testing.assert_allclose(shares, [0.5 + 0.125, 0.125, 0.125, 0.125, 0], atol=0.05)


def test_given_frames_of_a_later_run_are_its_own_first():
  batch = _batch(8)
  later = dataclasses.replace(batch, frames=batch.frames + 7 * (batch.segments == 1))
  found = [np.asarray(_given_tokens(b, 0, 0, 1.0)) for b in (batch, later)]
  np.testing.assert_array_equal(*found)
  assert found[0][:, batch.segments[0] == 1].any()


class _Probe:
  """A model that returns what it saw: the noisy patches, and remembers its times."""

  def __call__(self, patches, times, *_, dtype, num_segments=None):
    self.patches, self.times, self.num_segments = patches, times, num_segments
    return jnp.zeros_like(patches)


@functools.partial(jax.jit, static_argnums=1)
def _loss(batch: Batch, config: config_lib.Config, seed: int = 1, step: int = 2):
  """The sums, and what the model saw."""
  model = _Probe()
  sums = diffusion.loss(model, batch, seed, step, config)
  return sums, model.patches, model.times


def _noise(batch: Batch, patches, times_RS) -> np.ndarray:
  """What was added to the batch, `(R, N, P)`; of the padding, nothing that counts."""
  at_RN = np.maximum(batch.segments - 1, 0)
  times_RN1 = np.take_along_axis(np.asarray(times_RS), at_RN, 1)[..., None]
  return (np.asarray(patches) - (1 - times_RN1) * batch.patches) / times_RN1


def _losses(batch: Batch, noise_RNP) -> np.ndarray:
  """The mean of each segment's error, `(R, S)`, where the velocity is said to be 0."""
  error_RN = np.square(noise_RNP - batch.patches).mean(-1)
  inside = [batch.segments[0] == number for number in (1, 2, 3)]
  return np.stack([error_RN[:, tokens_N].mean(1) for tokens_N in inside], 1)


_given_tokens = jax.jit(diffusion.given_tokens)


def test_given_tokens_stay_clean_and_have_time_0_and_no_loss():
  config = dataclasses.replace(
    _CONFIG, diffusion=config_lib.Diffusion(given_probability=1.0)
  )
  batch = _batch(4)
  sums, patches, times_RN = jax.device_get(_loss(batch, config))
  given_RN = np.asarray(_given_tokens(batch, 1, 2, 1.0))
  assert given_RN.any()
  np.testing.assert_array_equal(patches[given_RN], batch.patches[given_RN])
  assert (times_RN[given_RN] == 0).all()
  assert (times_RN[~given_RN & (batch.segments > 0)] > 0).all()
  # A change of a given token's data changes the loss of no token.
  changed = np.where(given_RN[..., None], batch.patches + 9, batch.patches)
  other, _, _ = _loss(dataclasses.replace(batch, patches=changed), config)
  assert float(other.loss) == pytest.approx(float(sums.loss), rel=1e-6)


@pytest.mark.parametrize("std", [0.0, 1.0])
def test_each_step_and_seed_gives_a_clip_other_times_and_noise(std):
  config = dataclasses.replace(_CONFIG, diffusion=config_lib.Diffusion(time_std=std))
  batch = _batch(4)

  def seen(seed, step):
    _, patches, times_RS = _loss(batch, config, seed, step)
    noise = _noise(batch, patches, times_RS)[batch.segments > 0]
    return np.asarray(times_RS), noise.ravel()

  times, noise = seen(1, 2)
  for seed, step in ((1, 3), (2, 2)):
    other_times, other_noise = seen(seed, step)
    assert (times != other_times).all()
    assert np.abs(np.corrcoef(noise, other_noise)[0, 1]) < 0.2


def test_larger_clips_are_trained_at_noisier_times():
  settings = config_lib.Diffusion(shift=2.0, shift_tokens=6, max_shift=9.0)
  config = dataclasses.replace(_CONFIG, diffusion=settings)
  batch = _batch(2)
  plain = dataclasses.replace(config, diffusion=dataclasses.replace(settings, shift=0.0))
  _, _, times_RS = jax.device_get(_loss(batch, config))
  _, _, plain_RS = jax.device_get(_loss(batch, plain))
  shift_RS = 2.0 * np.sqrt(batch.tokens / 6)
  expected_RS = shift_RS * plain_RS / (1 + (shift_RS - 1) * plain_RS)
  assert len(set(shift_RS[0])) > 1 and shift_RS.min() > 1
  np.testing.assert_allclose(times_RS, expected_RS, rtol=1e-5)


def test_whether_frames_are_given_says_nothing_of_the_time():
  settings = config_lib.Diffusion(time_std=0.0, shift=0.0, given_probability=0.5)
  config = dataclasses.replace(_CONFIG, diffusion=settings)
  batch = _batch(400)
  _, _, times_RN = jax.device_get(_loss(batch, config))
  times_RN = times_RN[:, batch.segments[0] == 3]  # of five frames, the last never given
  assert abs(np.corrcoef(times_RN[:, 4], times_RN[:, 0] == 0)[0, 1]) < 0.2


def test_each_quarters_loss_is_the_mean_of_its_segments():
  batch = _batch(40)
  sums, patches, times_RS = jax.device_get(_loss(batch, _CONFIG))
  losses_RS = _losses(batch, _noise(batch, patches, times_RS))
  for low in (0.0, 0.25, 0.5, 0.75):
    inside = (times_RS >= low) & (times_RS < low + 0.25)
    total, weight = sums.means[f"loss/{low:.2f}-{low + 0.25:.2f}"]
    assert weight == inside.sum() > 0
    assert float(total) == pytest.approx(losses_RS[inside].sum(), rel=1e-3)
  assert float(sums.loss) == pytest.approx(losses_RS.sum(), rel=1e-3)


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_products_are_in_the_dtype_of_the_config(name):
  config = dataclasses.replace(_CONFIG, train=config_lib.Train(compute_dtype=name))
  seen = []

  def model(patches, *_, dtype, num_segments=None):
    seen.append(jnp.dtype(dtype).name)
    return jnp.zeros_like(patches)

  jax.eval_shape(lambda b: diffusion.loss(model, b, 0, 0, config).loss, _batch())
  jax.eval_shape(lambda b: diffusion.heldout(model, b, 0.5, config).loss, _batch())
  assert seen == [name, name]


def test_halves_of_a_batch_add_up_to_it():
  batch = _batch(4)
  whole, _, _ = _loss(batch, _CONFIG)
  first, second = (
    _loss(Batch(**{k: v[rows] for k, v in vars(batch).items()}), _CONFIG)[0]
    for rows in (slice(0, 2), slice(2, 4))
  )
  added = jax.tree.map(jnp.add, first, second)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), added, whole)
  assert float(whole.weight) == 12 and float(whole.counts["clips"]) == 12
  quartiles = [w for name, (_, w) in whole.means.items() if name.startswith("loss/")]
  assert sum(map(float, quartiles)) == 12
  tokens, room = whole.means["fill"]
  assert float(tokens) / float(room) == pytest.approx(15 / 17)


def test_the_held_out_loss_is_at_the_level_asked_for_with_noise_that_stays():
  batch = _batch(2)

  @jax.jit
  def heldout(level):
    model = _Probe()
    return (
      diffusion.heldout(model, batch, level, _CONFIG).loss,
      model.patches,
      model.times,
    )

  found = []
  for level in (0.25, 0.75):
    loss, patches, times_RS = jax.device_get(heldout(jnp.float32(level)))
    np.testing.assert_array_equal(times_RS, np.full((2, 3), level, np.float32))
    noise = _noise(batch, patches, times_RS)
    assert float(loss) == pytest.approx(_losses(batch, noise).sum(), rel=1e-4)
    found.append(noise[batch.segments > 0])
  np.testing.assert_allclose(*found, atol=1e-5)


def test_work_grows_with_the_squares_of_the_segments():
  def work(tokens, text):
    return flops.forward_flops(
      _CONFIG.dit,
      patch_dim=4,
      text_width=5,
      tokens_S=np.asarray(tokens, float),
      text_tokens_S=np.asarray(text, float),
    )

  token = 2 * 4 * 8 * 2 + 2 * (2 * 8 * 24 + 2 * 8 * 8 + 2 * 2 * 8 * 8 + 2 * 2 * 8 * 16)
  assert work([11], [0]) - work([10], [0]) == token + 2 * 4 * 8 * (121 - 100)
  # One segment of 20 tokens does more attention than two of 10, and one time less.
  pairs = 2 * 4 * 8 * (400 - 200)
  segment = 2 * 8 * (256 + 5) + 6 * 64 + 2 * 12 * 64
  assert work([20, 0], [0, 0]) - work([10, 10], [0, 0]) == pairs - segment
  caption = 2 * 5 * 8 + 2 * 4 * 64
  assert work([3], [7]) - work([3], [0]) == 7 * caption + 2 * 4 * 8 * 21
  sizes = {"patch_dim": 4, "text_width": 5}
  arrays = {"tokens_S": np.ones(2), "text_tokens_S": np.ones(2)}
  assert flops.train_flops(_CONFIG.dit, **sizes, **arrays) == 3 * work([1, 1], [1, 1])
