"""Samplers follow the exact path of a known distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit import config
from video_dit.diffusion import multistep, predictions, samplers, times
from video_dit.diffusion import process as processes

PROCESSES = {"flow": processes.flow(), "ddpm": processes.ddpm("linear")}
PROCESSES["cosine"] = processes.ddpm("cosine")
MEAN, DEVIATION = 1.5, 0.5
NOISE = jax.random.normal(jax.random.key(0), (2, 6, 4))


def gaussian(process, kind):
  """The best network for data that are N(MEAN, DEVIATION^2): known in closed form."""

  def denoise(x, t):
    alpha, sigma = process.alpha(t), process.sigma(t)
    variance = (alpha * DEVIATION) ** 2 + sigma**2
    gain = processes.trail(alpha * DEVIATION**2 / variance, x)
    x0 = MEAN + gain * (x - processes.trail(alpha, x) * MEAN)
    x0, noise = predictions.to_sample_and_noise(process, "sample", x0, x, t)
    return predictions.target(process, kind, x0, noise, t)

  return denoise


def run(sampler, steps, *, process="flow", kind="velocity", shift=1.0):
  p, start = PROCESSES[process], samplers.start_time(kind, PROCESSES[process])

  @jax.jit
  def compiled(noise):
    schedule = samplers.schedule_times(steps, shift=shift, start=start)
    return samplers.sample(
      gaussian(p, kind), noise, schedule, sampler, process=p, prediction=kind
    )

  return compiled(NOISE)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(
  ("name", "kind"),
  [("euler", kind) for kind in predictions.KINDS]
  + [("heun", "velocity"), ("heun", "noise"), ("ddim", "noise")]
  + [("unipc", kind) for kind in predictions.KINDS]
  + [("dpmpp_2m", "velocity")],
)
def test_noise_becomes_data(process, kind, name):
  sampler = samplers.from_config(config.Sample(sampler=name))
  out = run(sampler, 64, process=process, kind=kind)
  np.testing.assert_allclose(out, MEAN + DEVIATION * NOISE, rtol=0, atol=0.06)


def test_heun_is_of_second_order_and_euler_of_first():
  exact = MEAN + DEVIATION * NOISE

  def error(sampler, n):
    return float(jnp.abs(run(sampler, n) - exact).max())

  assert 1.7 < error(samplers.euler, 16) / error(samplers.euler, 32) < 2.4
  assert 3.2 < error(samplers.heun, 16) / error(samplers.heun, 32) < 5.0


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc"])
@pytest.mark.parametrize("process", PROCESSES)
def test_earlier_steps_save_evaluations(process, sampler):
  exact = MEAN + DEVIATION * NOISE

  def error(name, steps):
    sampler = samplers.from_config(config.Sample(sampler=name))
    return float(jnp.abs(run(sampler, steps, process=process) - exact).max())

  assert error(sampler, 20) < 0.7 * error("euler", 40)


@pytest.mark.parametrize(
  ("sampler", "eta"),
  [(samplers.euler, 0.0), *((samplers.DDIM(eta=eta), eta) for eta in (0.0, 0.5, 1.0))],
  ids=["euler", "ddim", "half", "ddpm"],
)
def test_a_step_is_that_of_the_ddim_paper(sampler, eta):
  p = PROCESSES["ddpm"]
  now, then = (samplers.Moment(t, t) for t in (jnp.float32(0.6), jnp.float32(0.4)))
  x0, noise, fresh = (jax.random.normal(jax.random.key(i), (2, 3)) for i in range(3))
  x = p.add_noise(x0, noise, now.tokens)
  found = sampler(lambda x, at: (x0, noise), x, now, then, p, lambda: fresh)
  bar, bar_then = (float(p.alpha(at.tokens)) ** 2 for at in (now, then))
  # Equation 16, then equation 12.
  deviation = eta * np.sqrt((1 - bar_then) / (1 - bar)) * np.sqrt(1 - bar / bar_then)
  predicted = (x - np.sqrt(1 - bar) * noise) / np.sqrt(bar)
  towards = np.sqrt(1 - bar_then - deviation**2) * noise
  expected = np.sqrt(bar_then) * predicted + towards + deviation * fresh
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_step_on_the_flow_follows_its_velocity():
  x0, noise = NOISE[:1], NOISE[1:]
  now, then = (samplers.Moment(t, t) for t in (jnp.float32(0.6), jnp.float32(0.4)))
  for sampler in (samplers.euler, samplers.heun, samplers.DDIM()):
    x = 0.4 * x0 + 0.6 * noise
    found = sampler(lambda x, at: (x0, noise), x, now, then, PROCESSES["flow"])
    np.testing.assert_allclose(found, x - 0.2 * (noise - x0), rtol=1e-5, atol=1e-6)


def test_a_step_of_heun_that_ends_in_the_data_is_euler_s():
  now, then = (samplers.Moment(t, t) for t in (jnp.float32(0.5), jnp.float32(0.0)))

  def estimate(x, at):
    end = at.tokens == 0  # where no network is trained
    return jnp.where(end, 1e3, 0.5 * x), jnp.where(end, -1e3, x)

  a, b = (
    way(estimate, NOISE, now, then, PROCESSES["flow"])
    for way in (samplers.heun, samplers.euler)
  )
  np.testing.assert_array_equal(a, b)


def test_heun_evaluates_the_network_once_in_its_last_step():
  calls, process = [], PROCESSES["flow"]

  def denoise(x, t):
    jax.debug.callback(lambda t: calls.append(float(t)), t, ordered=True)
    return gaussian(process, "velocity")(x, t)

  times, kind = samplers.schedule_times(3), "velocity"
  found = samplers.sample(
    denoise, NOISE, times, samplers.heun, process=process, prediction=kind
  )
  jax.effects_barrier()
  np.testing.assert_allclose(calls, np.array([3, 2, 2, 1, 1]) / 3, rtol=1e-6)
  np.testing.assert_allclose(found, run(samplers.heun, 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_start_from_noise_does_not_multiply_the_networks_error(process):
  p = PROCESSES[process]
  assert all(samplers.start_time(k, p) == 1.0 for k in ("velocity", "sample"))
  start = samplers.start_time("noise", p)
  alpha = 0.0063 if process == "ddpm" else 0.02
  assert float(p.alpha(jnp.float32(start))) == pytest.approx(alpha, rel=0.05)
  exact = gaussian(p, "noise")
  for shift in (1.0, 4.0):
    found = samplers.sample(
      lambda x, t: exact(x, t) + 0.1 * jnp.sin(7 * x + 11 * t),
      NOISE,
      samplers.schedule_times(30, shift=shift, start=start),
      samplers.euler,
      process=p,
      prediction="noise",
    )
    assert float(found.std()) < 1.4 * DEVIATION


def test_a_straight_path_needs_one_step():
  x0 = jnp.full(NOISE.shape, 0.7)
  out = samplers.sample(
    lambda x, t: NOISE - x0,
    NOISE,
    samplers.schedule_times(1),
    samplers.euler,
    process=PROCESSES["flow"],
    prediction="velocity",
  )
  np.testing.assert_allclose(out, x0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES)
def test_ancestral_sampling_keeps_the_distribution(process):
  noise = jax.random.normal(jax.random.key(1), (8, 2048, 1))

  def fresh(i):
    return jax.random.normal(jax.random.fold_in(jax.random.key(2), i), noise.shape)

  p = PROCESSES[process]
  out = samplers.sample(
    gaussian(p, "velocity"),
    noise,
    samplers.schedule_times(100),
    samplers.DDIM(eta=1.0),
    process=p,
    prediction="velocity",
    fresh=fresh,
  )
  assert abs(out.mean() - MEAN) < 0.02 and abs(out.std() - DEVIATION) < 0.03


def test_ancestral_sampling_asks_for_noise():
  with pytest.raises(ValueError, match="pass `fresh`"):
    run(samplers.DDIM(eta=0.5), 2)


@pytest.mark.parametrize("sampler", [samplers.euler, multistep.UniPC()])
def test_each_segment_follows_its_own_schedule(sampler):
  segments_RN = jnp.int32([[1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 2, 2]])
  shift_RS = jnp.float32([[1.0, 5.0], [2.0, 3.0]])
  schedule = samplers.schedule_times(6, shift=shift_RS)
  assert schedule.shape == (7, 2, 2)
  p = PROCESSES["flow"]

  def denoise(x, times_RS):  # gets the time of each segment, not of each token
    assert times_RS.shape == (2, 2)
    times_RN = times.token_times(times_RS, segments_RN)
    return gaussian(p, "velocity")(x, times_RN)

  together = samplers.sample(
    denoise,
    NOISE,
    schedule,
    sampler,
    process=p,
    prediction="velocity",
    segments_RN=segments_RN,
  )
  alone = run(sampler, 6, shift=5.0)
  np.testing.assert_allclose(together[0, 3:5], alone[0, 3:5], rtol=0, atol=1e-6)
  alone = run(sampler, 6, shift=2.0)
  np.testing.assert_allclose(together[1, :2], alone[1, :2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", predictions.KINDS)
def test_given_tokens_stay_and_are_told_to_be_clean(kind):
  given_RN = jnp.arange(6)[None] < jnp.int32([[2], [0]])
  given = jnp.full(NOISE.shape, 9.0)
  p = PROCESSES["flow"]

  def denoise(x, times_RN):
    assert times_RN.shape == (2, 6)
    clean = jnp.where(given_RN[..., None], jnp.abs(x - 9.0) + times_RN[..., None], 0.0)
    out = gaussian(p, kind)(x, times_RN) + 1e6 * clean.max()
    # What the network says of them is not asked for.
    return jnp.where(given_RN[..., None], 77.0, out)

  ways = samplers.euler, samplers.heun, samplers.DDIM(), multistep.UniPC()
  for sampler in ways:
    end = samplers.sample(
      denoise,
      NOISE,
      samplers.schedule_times(5, start=samplers.start_time(kind, p)),
      sampler,
      process=p,
      prediction=kind,
      given=given,
      given_RN=given_RN,
    )
    assert (end[0, :2] == 9).all()
    assert (jnp.abs(end[0, 2:]) < 9).all()
    alone = run(sampler, 5, kind=kind)[1]
    np.testing.assert_allclose(end[1], alone, rtol=0, atol=1e-6)


def test_the_network_is_traced_once_for_any_number_of_steps():
  calls = []

  def denoise(x, t):
    calls.append(t.shape)
    return x

  p = PROCESSES["flow"]
  samplers.sample(
    denoise,
    NOISE,
    samplers.schedule_times(50),
    samplers.euler,
    process=p,
    prediction="velocity",
  )
  assert len(calls) == 1


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_schedules_of_any_length_end_in_the_data(shift):
  for steps in (1, 2, 41, 47, 55, 82, 107):  # of which divisions by XLA end above 0
    found = np.asarray(samplers.schedule_times(steps, shift=shift))
    assert found[0] == 1.0 and found[-1] == 0.0 and (np.diff(found) < 0).all()


def test_schedules_run_from_noise_to_data():
  np.testing.assert_allclose(samplers.schedule_times(4), [1.0, 0.75, 0.5, 0.25, 0.0])
  shifted = samplers.schedule_times(4, shift=3.0, start=0.999)
  assert shifted[-1] == 0 and (jnp.diff(shifted) < 0).all()
  assert float(shifted[0]) == pytest.approx(0.999)  # whatever the shift
  with pytest.raises(ValueError, match=r"sample.steps=0: at least 1"):
    samplers.schedule_times(0)
