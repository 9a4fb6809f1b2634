"""Clips from prompts: company, size and mesh change nothing but the speed."""

import dataclasses
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from video_dit import config as config_lib
from video_dit.checkpoints import state as state_lib
from video_dit.checkpoints import store as store_lib
from video_dit.diffusion import process as process_lib
from video_dit.diffusion import times as times_lib
from video_dit.generator import generator as generator_lib
from video_dit.generator import request as request_lib
from video_dit.generator import sampler as sampler_lib


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny.run_once(tmp_path_factory)


def load(workdir, mesh=None, **sample) -> generator_lib.Generator:
  config = config_lib.parse(json.loads((workdir / "config.json").read_text()))
  config = dataclasses.replace(
    config, sample=dataclasses.replace(config.sample, **sample)
  )
  return generator_lib.Generator.from_workdir(workdir, config, mesh or tiny.mesh())


@pytest.fixture(scope="module")
def generator(workdir):
  return load(workdir)


def ask(prompt=tiny.PROMPTS[0], **changes) -> request_lib.Request:
  size = {"height": 32, "width": 32, "frames": 9, "frames_per_second": 8.0}
  return request_lib.Request(prompt=prompt, **(size | changes))


def latents(generator, requests):
  """Latents of the requests in their order, which are not decoded."""
  seen = []

  def spy(latents_BFHWC):
    seen.extend(latents_BFHWC)
    return np.zeros((len(latents_BFHWC), 1, 1, 1, 3), np.uint8)

  generator.frozen.decode_batch = spy
  try:
    order = [id(request) for request, _ in generator.generate(requests)]
  finally:
    del generator.frozen.decode_batch
  by_request = dict(zip(order, seen, strict=True))
  return [by_request[id(request)] for request in requests]


MIXED = [
  ask(seed=1),
  ask(prompt="", frames=1, height=24, width=40, seed=2),
  ask(prompt=tiny.PROMPTS[1], frames=21, seed=3),
  ask(frames=5, height=48, width=16, seed=4, frames_per_second=12.0),
  ask(prompt=tiny.PROMPTS[1], seed=1, guidance=4.0),
]


def test_sizes_and_lengths_are_as_asked(generator):
  found = {id(r): frames for r, frames in generator.generate(MIXED)}
  for request in MIXED:
    frames_FHWC = found[id(request)]
    assert frames_FHWC.shape == (request.frames, request.height, request.width, 3)
    assert frames_FHWC.dtype == np.uint8


def test_weights_are_those_of_the_step_asked_for(workdir, generator, tmp_path):
  shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
  shutil.copy(workdir / "config.json", tmp_path)
  doubled = jax.tree.map(lambda x: 2 * x, generator.params)
  state = state_lib.TrainState(
    step=jax.numpy.int32(5), params=doubled, ema=doubled, opt={}
  )
  with store_lib.Store(tmp_path / "checkpoints", keep=2) as store:
    store.save(state, store_lib.Position(step=5, seed=0, data=""))
  for asked, step, weights in ((None, 5, doubled), (3, 3, generator.params)):
    found = generator_lib.Generator.from_workdir(
      tmp_path, generator.config, generator.mesh, step=asked
    )
    assert found.step == step
    jax.tree.map(np.testing.assert_array_equal, found.params, weights)
  with pytest.raises(ValueError, match=r"no checkpoint of step 4; there are \[3, 5\]"):
    generator_lib.Generator.from_workdir(
      tmp_path, generator.config, generator.mesh, step=4
    )


def test_one_compilation_serves_all_sizes(workdir):
  generator = load(workdir)
  for requests in (MIXED, MIXED[1:2], [ask(frames=13, seed=9)] * 20):
    assert len(latents(generator, requests)) == len(requests)
  assert generator.sampler.program._cache_size() == 1


def test_few_requests_take_few_rows(workdir):
  generator = load(workdir, rows=32)  # eight devices have at least one each
  rows = []

  def sampler(params, group):
    rows.append(len(group.batch.segments))
    return np.zeros_like(group.batch.patches)

  generator.sampler = sampler
  most = min(generator.shape.length // 2, 16)
  size = {"frames": 1, "height": 8, "width": 8 * most}
  request = ask(prompt="", **size)
  tokens = int(np.prod(generator.grid.tokens(request.height, request.width, 1)))
  fit = min(generator.shape.length // tokens, generator.shape.segments)
  for full_rows, found in ((0, [8]), (8, [16]), (16, [32]), (32, [32, 32])):
    rows.clear()
    latents(generator, [ask(prompt="", **size) for _ in range(full_rows * fit + 1)])
    assert rows == found


def test_a_clip_is_the_same_whatever_shares_its_row(generator):
  alone = latents(generator, MIXED[:1])[0]
  for company in (MIXED, MIXED[::-1], [ask(seed=i + 50) for i in range(23)] + MIXED):
    index = next(i for i, r in enumerate(company) if r is MIXED[0])
    together = latents(generator, company)[index]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_seed_and_prompt_and_guidance_matter(generator):
  first, same, seed, prompt, scale = latents(
    generator,
    [
      ask(seed=1),
      ask(seed=1),
      ask(seed=1 + 2**32),
      ask(prompt=tiny.PROMPTS[1], seed=1),
      ask(seed=1, guidance=5.0),
    ],
  )
  np.testing.assert_allclose(first, same, rtol=1e-5, atol=1e-5)
  for other in (seed, prompt, scale):
    assert np.abs(first - other).max() > 1e-3


def test_guidance_of_one_is_the_conditional_prediction_alone(workdir, generator):
  plain = latents(load(workdir, guidance=1.0), [ask(seed=1)])[0]
  # The second request makes the group a guided one.
  guided = latents(generator, [ask(seed=1, guidance=1.0), ask(seed=2)])[0]
  np.testing.assert_allclose(guided, plain, rtol=1e-5, atol=1e-5)


def test_guidance_leads_away_from_the_negative_prompt(generator):
  other = tiny.PROMPTS[1]
  empty, away, itself, plain = latents(
    generator,
    [
      ask(seed=1, guidance=4.0),
      ask(seed=1, guidance=4.0, negative=other),
      ask(seed=1, guidance=4.0, negative=tiny.PROMPTS[0]),
      ask(seed=1, guidance=1.0),
    ],
  )
  assert np.abs(away - empty).max() > 1e-3
  np.testing.assert_allclose(itself, plain, rtol=0, atol=1e-4)


def test_guidance_outside_of_its_interval_is_off(workdir, generator):
  given = np.zeros((5, 32, 32, 3), np.uint8)
  requests = [ask(seed=1, guidance=1.0), ask(seed=1, guidance=1.0, given_FHWC=given)]
  plain = latents(generator, requests[:1]) + latents(generator, requests[1:])
  # No step of the sampler starts at a noise level of 0.
  unguided = load(workdir, guidance=5.0, guidance_interval=(0.0, 0.0))
  requests = [dataclasses.replace(request, guidance=5.0) for request in requests]
  found = latents(unguided, requests[:1]) + latents(unguided, requests[1:])
  for one, other in zip(found, plain, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_what_guidance_does_not_ask_for_is_not_evaluated(workdir, monkeypatch):
  calls, predict = [], sampler_lib.Sampler.predict

  def counted(self, *args, **kwargs):
    jax.debug.callback(lambda: calls.append(1))
    return predict(self, *args, **kwargs)

  monkeypatch.setattr(sampler_lib.Sampler, "predict", counted)

  def count(**sample) -> int:
    calls.clear()
    latents(load(workdir, **sample), [ask(seed=1)])
    jax.effects_barrier()
    return len(calls)

  once, steps = count(guidance=1.0), tiny.CONFIG.sample.steps
  assert once > 0
  assert count() == 2 * once
  assert count(guidance_interval=(0.0, 0.0)) == once
  # Of the first step alone, which is at a noise level of 1.
  assert count(guidance_interval=(1.0, 1.0)) == once + once // steps


def test_company_that_is_guided_at_other_steps_changes_nothing(workdir):
  generator = load(workdir, guidance_interval=(0.7, 0.9))
  company = [ask(seed=2, frames=1), ask(seed=3, frames=21)]
  (alone,) = latents(generator, [ask(seed=1)])
  beside = latents(generator, [ask(seed=1), *company])[0]
  np.testing.assert_allclose(beside, alone, rtol=1e-5, atol=1e-5)


def test_given_frames_stay_and_the_rest_follows_them(generator):
  given = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
  free, other, held = latents(
    generator, [ask(seed=1), ask(seed=2), ask(seed=1, given_FHWC=given)]
  )
  np.testing.assert_allclose(held[:2], generator.frozen.encode(given), atol=1e-5)
  assert np.abs(held[2] - free[2]).max() > 1e-3
  # Company of a clip with given frames feels nothing of it.
  (alone,) = latents(generator, [ask(seed=2)])
  np.testing.assert_allclose(other, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", ["fsdp=2,tensor=2", "context=2,data=4"])
def test_the_mesh_changes_no_clip(workdir, generator, spec):
  other = load(workdir, tiny.mesh(spec))
  for a, b in zip(latents(generator, MIXED), latents(other, MIXED), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_heun_and_ddim_sample_too(workdir, generator):
  expected = latents(generator, [ask(seed=1)])[0]
  ddim = latents(load(workdir, sampler="ddim"), [ask(seed=1)])[0]
  np.testing.assert_allclose(ddim, expected, rtol=1e-5, atol=1e-5)
  for other in ({"sampler": "heun"}, {"sampler": "ddim", "eta": 0.5}):
    found = latents(load(workdir, **other), [ask(seed=1)])[0]
    assert np.isfinite(found).all() and np.abs(found - expected).max() > 1e-4


def test_noise_of_steps_is_a_clip_s_own_in_any_row(workdir):
  generator = load(workdir, sampler="ddim", eta=1.0, rows=16)
  given = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
  alone = latents(generator, MIXED[:1])[0]
  (held,) = latents(generator, [ask(seed=1, given_FHWC=given)])
  np.testing.assert_allclose(held[:2], generator.frozen.encode(given), atol=1e-5)
  # In the same number of rows, and in twice as many.
  for company in (MIXED[::-1], [*(ask(seed=i + 50) for i in range(23)), *MIXED]):
    index = next(i for i, r in enumerate(company) if r is MIXED[0])
    together = latents(generator, company)[index]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
  assert np.abs(latents(generator, [ask(seed=2)])[0] - alone).max() > 1e-3


def test_refusals_come_before_anything_is_compiled(workdir):
  generator = load(workdir)
  for request, message in (
    (ask(height=30), r"height=30 must be a multiple of 8 pixels. Nearest: 24 or 32"),
    (ask(frames=41), r"176 tokens, a sampling row holds 96.*config.sample.row_length"),
  ):
    with pytest.raises(ValueError, match=message):
      generator.check([request])
    with pytest.raises(ValueError, match=message):
      list(generator.generate([request]))
  assert list(generator.generate([])) == []
  assert generator.sampler.program._cache_size() == 0


def test_rows_must_divide_over_the_mesh(workdir):
  with pytest.raises(ValueError, match=r"config.sample.rows=4 .* Choose a multiple of 8"):
    load(workdir, rows=4)
  with pytest.raises(ValueError, match=r"row of 97 tokens does not divide .*context=2"):
    load(workdir, tiny.mesh("context=2"), row_length=97)


def test_another_autoencoder_is_refused_by_name(workdir, tmp_path):
  path = workdir.parent / "data" / "latents" / "provenance.json"
  text = path.read_text()
  provenance = json.loads(text)
  path.write_text(json.dumps(provenance | {"autoencoder": "0" * 32}))
  try:
    with pytest.raises(ValueError, match="made by the autoencoder with fingerprint '000"):
      load(workdir)
  finally:
    path.write_text(text)


def test_a_missing_checkpoint_is_named(workdir, tmp_path):
  config = config_lib.parse(json.loads((workdir / "config.json").read_text()))
  with pytest.raises(ValueError, match=r"checkpoints: contains no checkpoints"):
    generator_lib.Generator.from_workdir(tmp_path, config, tiny.mesh())


def test_another_checkpoint_than_the_newest_is_sampled_where_asked(
  workdir, generator, tmp_path
):
  run = shutil.copytree(workdir, tmp_path / "run")
  newer = jax.tree.map(lambda x: x + 1, generator.params)
  state = state_lib.TrainState(
    step=jnp.int32(9), params=newer, ema=jax.tree.map(jnp.copy, newer), opt={}
  )
  with store_lib.Store(run / "checkpoints", keep=2) as store:
    store.save(state, store_lib.Position(step=9, seed=0, data=""))
    store.wait()
  asked = generator_lib.Generator.from_workdir(
    run, generator.config, generator.mesh, step=tiny.STEP
  )
  jax.tree.map(np.testing.assert_array_equal, asked.params, generator.params)
  assert asked.step == tiny.STEP


def test_sampling_shifts_and_starts_as_training_noises(workdir, monkeypatch):
  given = {}

  def sample(denoise, noise, times, sampler, **options):
    given.update(options, times=np.asarray(times))
    return noise

  monkeypatch.setattr(sampler_lib.samplers, "sample", sample)
  config = config_lib.parse(json.loads((workdir / "config.json").read_text()))
  settings = {"process": "ddpm", "schedule": "cosine", "prediction": "noise"}
  config = dataclasses.replace(
    config, diffusion=dataclasses.replace(config.diffusion, **settings)
  )
  generator = generator_lib.Generator.from_workdir(workdir, config, tiny.mesh())
  monkeypatch.setattr(generator.sampler, "program", generator.sampler._program)
  latents(generator, [ask()])
  shift = 1.5 * np.sqrt(48 / 16)  # of the config, for 48 tokens
  start = 0.9871  # where alpha is 0.02
  even = start / (shift - (shift - 1) * start) * (1 - np.arange(4) / 3)
  expected = shift * even / (1 + (shift - 1) * even)
  np.testing.assert_allclose(given["times"][:, 0, 0], expected, rtol=1e-4)
  assert not given["process"].straight and given["prediction"] == "noise"


@pytest.mark.parametrize("name", ["flow", "ddpm"])
def test_ancestral_clips_have_the_deviation_that_follows_for_normal_data(workdir, name):
  """Given the best network for data N(0, 1/4), of which the chain is linear."""
  steps = 12
  generator = load(workdir, sampler="ddim", eta=1.0, steps=steps, guidance=1.0)
  diffusion = dataclasses.replace(generator.config.diffusion, process=name, shift=0.0)
  config = dataclasses.replace(generator.config, diffusion=diffusion)
  process = process_lib.from_config(diffusion)

  def gains(times):
    """Of the data and of the noise in x: their best estimates are these times x."""
    alpha, sigma = process.alpha(times), process.sigma(times)
    data = alpha / 4 / (alpha**2 / 4 + sigma**2)
    return data, (1 - alpha * data) / jnp.maximum(sigma, 1e-6)

  def predict(params, x_RNP, times_RS, segments_RN, *inputs, num_segments):
    times_RN = times_lib.token_times(times_RS, segments_RN)
    data, noise = (gain[..., None] * x_RNP for gain in gains(times_RN))
    return process.velocity(data, noise, times_RN)

  generator.sampler = sampler_lib.Sampler(config, generator.mesh, graphdef=None)
  generator.sampler.predict = predict
  values = np.stack(latents(generator, [ask(seed=i) for i in range(24)]))

  times, variance = jnp.linspace(1.0, 0.0, steps + 1), 1.0
  for now, then in itertools.pairwise(times):
    ratio = process.alpha(now) / process.alpha(then)
    fresh = process.sigma(then) ** 2 * (
      1 - (ratio * process.sigma(then) / process.sigma(now)) ** 2
    )
    kept = jnp.sqrt(process.sigma(then) ** 2 - fresh)
    data, noise = gains(now)
    variance = (process.alpha(then) * data + kept * noise) ** 2 * variance + fresh
  assert abs(values.mean()) < 0.01
  assert abs(values.std() / float(jnp.sqrt(variance)) - 1) < 0.015
  # One draw for all steps, or for all tokens, would make tokens or steps go together.
  apart = np.corrcoef(values[:, 0].ravel(), values[:, 1].ravel())[0, 1]
  assert abs(apart) < 0.03
