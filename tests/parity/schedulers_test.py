"""Our processes and samplers take the steps of diffusers and of DiT.

The folders of fixtures tell for each output how far float32 code may be from the peer
in float32 and in float64.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit.diffusion import multistep, predictions, samplers, times
from video_dit.diffusion import process as processes


class Fixture:
  """One folder of inputs, a peer's outputs, and the tolerances."""

  def __init__(self, folder):
    self.inputs = np.load(folder / "inputs.npz")
    self._outputs = np.load(folder / "outputs.npz")
    self._exact = np.load(folder / "outputs_ref64.npz")
    self._noise = json.loads((folder / "meta.json").read_text())["noise"]

  def __getitem__(self, name):
    return self._outputs[name]

  def check(self, name, got):
    got, tolerance = np.asarray(got), self._noise[name]
    for peer, key in ((self._outputs, "outputs"), (self._exact, "ref64")):
      np.testing.assert_allclose(
        got,
        peer[name],
        rtol=0,
        atol=tolerance[f"suggest_atol_vs_{key}"],
        err_msg=f"{name} against {key}",
      )


@pytest.fixture(scope="module")
def diffusers(shared):
  return Fixture(shared / "parity" / "schedulers")


@pytest.fixture(scope="module")
def dit(shared):
  return Fixture(shared / "parity" / "dit_diffusion")


def toys(scale):
  """The fixtures' networks; `scale` turns our time into the peer's time step."""
  return {
    "lin": lambda x, t: 0.3 * x,
    "tdep": lambda x, t: 0.3 * x * jnp.cos(scale(t) / 1000) + 0.05,
  }


def run(denoise, x, schedule, sampler, process, prediction):
  """Every state: those on the way of steps by themselves, the last one of all steps."""

  def sample(x, times):
    return samplers.sample(
      denoise, x, times, sampler, process=process, prediction=prediction
    )

  @jax.jit
  def compiled(x, schedule):
    states = [x]
    for i in range(len(schedule) - 2):
      states.append(sample(states[-1], schedule[i : i + 2]))
    return jnp.stack([*states, sample(x, schedule)])

  return compiled(jnp.asarray(x), jnp.asarray(schedule, jnp.float32))


def flow_schedule(name):
  if name == "fm_euler_shift3_sigmas":
    return np.asarray(samplers.schedule_times(7, shift=3.0))
  # The class's default: the table ends at the shifted 1/1000, and is shifted again.
  shift = {"fm_euler_shift1": 1.0, "fm_euler_shift3": 3.0}[name]
  last = float(times.shift_times(jnp.float32(1e-3), shift))
  even = jnp.asarray(np.linspace(1.0, last, 7), jnp.float32)
  return np.append(times.shift_times(even, shift), 0.0)


@pytest.mark.parametrize("toy", ["lin", "tdep"])
@pytest.mark.parametrize(
  "name", ["fm_euler_shift1", "fm_euler_shift3", "fm_euler_shift3_sigmas"]
)
def test_flow_matching_euler(diffusers, name, toy):
  schedule = flow_schedule(name)
  diffusers.check(f"{name}/sigmas", schedule)
  denoise = toys(lambda t: t * 1000)[toy]
  x, process = diffusers.inputs["x0"], processes.flow()
  states = run(denoise, x, schedule, samplers.euler, process, "velocity")
  diffusers.check(f"{name}/{toy}/traj", states)


MULTISTEP = {"unipc": multistep.UniPC(), "dpmpp": multistep.UniPC(corrector=False)}


def steps_of(schedule, numbers):
  """The whole step that the peer names at a time: it cuts some that are whole, too."""
  schedule, numbers = np.float32(schedule)[:-1], np.float32(numbers)
  return lambda t: jnp.asarray(numbers)[jnp.abs(jnp.asarray(schedule) - t).argmin()]


def watched(denoise, x, schedule, sampler, process, prediction):
  """Every state of a sampler that has a past."""
  states = []

  def watch(x, t):
    jax.debug.callback(lambda x: states.append(np.array(x)), x, ordered=True)
    return denoise(x, t)

  x, schedule = jnp.asarray(x), jnp.asarray(schedule, jnp.float32)
  end = samplers.sample(
    watch, x, schedule, sampler, process=process, prediction=prediction
  )
  jax.effects_barrier()
  return np.stack([*states, end])


@pytest.mark.parametrize("toy", ["lin", "tdep"])
@pytest.mark.parametrize(
  ("name", "sampler"), [("unipc_flow3_wan", "unipc"), ("dpmpp2m_flow3", "dpmpp")]
)
def test_flow_with_a_past(diffusers, name, sampler, toy):
  schedule = diffusers[f"{name}/sigmas"]
  denoise = toys(steps_of(schedule, diffusers[f"{name}/timesteps"]))[toy]
  x, way = diffusers.inputs["x0"], MULTISTEP[sampler]
  states = watched(denoise, x, schedule, way, processes.flow(), "velocity")
  diffusers.check(f"{name}/{toy}/traj", states)


@pytest.mark.parametrize("shift", ["3.0", "5.0"])
@pytest.mark.parametrize("sampler", MULTISTEP)
def test_wans_own_samplers(shared, sampler, shift):
  wan = Fixture(shared / "parity" / "wan_schedulers_native")
  name = f"{sampler}_shift{shift}"
  x, schedule = wan.inputs["x0"], wan[f"{name}/sigmas"]
  denoise = toys(steps_of(schedule, wan[f"{name}/timesteps"]))["tdep"]
  states = watched(denoise, x, schedule, MULTISTEP[sampler], processes.flow(), "velocity")
  wan.check(f"{name}/tdep/traj", states)


@pytest.mark.parametrize("toy", ["lin", "tdep"])
@pytest.mark.parametrize(
  ("name", "sampler"), [("unipc_eps_sd", "unipc"), ("dpmpp2m_sd", "dpmpp")]
)
def test_ddpm_with_a_past(diffusers, name, sampler, toy):
  process = processes.variance_preserving(scaled_linear())
  schedule = np.append((diffusers[f"{name}/timesteps"] + 1) / 1000, 0.0)
  denoise = toys(lambda t: t * 1000 - 1)[toy]
  x, way = diffusers.inputs["x0"], MULTISTEP[sampler]
  states = watched(denoise, x, schedule, way, process, "noise")
  diffusers.check(f"{name}/{toy}/traj", states)


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("steps", [1, 2, 20, 50])
def test_unipc_against_the_installed_peer(steps, shift):
  """At the peer's times, which lead to 0.001 and from there to 0."""
  torch = pytest.importorskip("torch")
  peers = pytest.importorskip("diffusers")
  peer = peers.UniPCMultistepScheduler(
    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
  )
  peer.set_timesteps(steps)
  x = np.random.default_rng(steps).normal(size=(2, 5)).astype(np.float32)
  state = torch.from_numpy(x)
  for sigma, t in zip(peer.sigmas, peer.timesteps, strict=False):
    out = torch.sin(2 * state) * torch.cos(3 * sigma) + 0.2
    state = peer.step(out, t, state, return_dict=False)[0]
  found = samplers.sample(
    lambda x, t: jnp.sin(2 * x) * jnp.cos(3 * t) + 0.2,
    jnp.asarray(x),
    jnp.asarray(peer.sigmas.numpy()),
    multistep.UniPC(),
    process=processes.flow(),
    prediction="velocity",
  )
  np.testing.assert_allclose(found, state.numpy(), rtol=0, atol=2e-5)


def test_flow_noise(diffusers):
  x0, noise = diffusers.inputs["an_x"], diffusers.inputs["an_noise"]
  at = jnp.asarray(diffusers["fm_shift3/scale_noise_t"] / 1000)
  diffusers.check("fm_shift3/scale_noise", processes.flow().add_noise(x0, noise, at))


def scaled_linear():
  return np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2


def zero_terminal(betas, snr_shift=1.0):
  """Betas whose last step has no signal (arXiv:2305.08891, algorithm 1)."""
  alpha_bar = np.cumprod(1 - betas)
  alpha_bar = alpha_bar / (snr_shift + (1 - snr_shift) * alpha_bar)
  root = np.sqrt(alpha_bar)
  root = (root - root[-1]) * root[0] / (root[0] - root[-1])
  return 1 - root**2 / np.append(1.0, root[:-1]) ** 2


# Betas, prediction, and the time of the last state (the peer's last step may stop short).
DDIM = {
  "ddim_linear_leading": (processes.betas("linear"), "noise", 0.0),
  "ddim_sd_leading_offset1": (scaled_linear(), "noise", 1e-3),
}
ZERO_TERMINAL = {
  "ddim_sd_trailing_v_zsnr": zero_terminal(scaled_linear()),
  "cogvideox_ddim": zero_terminal(scaled_linear(), 3.0),
}


@pytest.mark.parametrize("toy", ["lin", "tdep"])
@pytest.mark.parametrize("name", DDIM)
def test_ddim(diffusers, name, toy):
  betas, prediction, last = DDIM[name]
  diffusers.check(f"{name}/alphas_cumprod", np.cumprod(1 - betas))
  process = processes.variance_preserving(betas)
  schedule = np.append((diffusers[f"{name}/timesteps"] + 1) / 1000, last)
  denoise = toys(lambda t: t * 1000 - 1)[toy]
  x = diffusers.inputs["x0"]
  states = run(denoise, x, schedule, samplers.DDIM(), process, prediction)
  diffusers.check(f"{name}/{toy}/traj", states)


@pytest.mark.parametrize("toy", ["lin", "tdep"])
@pytest.mark.parametrize("name", ZERO_TERMINAL)
def test_ddim_from_no_signal(diffusers, name, toy):
  """The peer goes down by 142 steps but asks the network at others: each step alone."""
  betas = ZERO_TERMINAL[name]
  diffusers.check(f"{name}/alphas_cumprod", np.cumprod(1 - betas))
  process = processes.variance_preserving(betas)
  n, states = diffusers[f"{name}/timesteps"], diffusers[f"{name}/{toy}/traj"]
  schedule = np.stack([n + 1, np.maximum(n + 1 - 1000 // 7, 0)]) / 1000
  network = toys(lambda t: t * 1000 - 1)[toy]

  def denoise(x, t):
    return network(x, processes.trail(t, x))

  ddim = samplers.DDIM()
  after = run(denoise, states[:-1], schedule, ddim, process, "velocity")[-1]
  diffusers.check(f"{name}/{toy}/traj", np.concatenate([states[:1], after]))


@pytest.mark.parametrize(
  ("name", "betas"),
  [
    ("ddpm_linear", processes.betas("linear")),
    ("ddpm_scaled", scaled_linear()),
    ("ddpm_cos", processes.betas("cosine")),
  ],
)
def test_ddpm_tables_and_noise(diffusers, name, betas):
  diffusers.check(f"{name}/betas", betas)
  process = processes.variance_preserving(betas)
  every = jnp.arange(1, 1001, dtype=jnp.float32) / 1000
  diffusers.check(f"{name}/alphas_cumprod", jnp.square(process.alpha(every)))
  x0, noise, n = (diffusers.inputs[k] for k in ("an_x", "an_noise", "an_t"))
  at = jnp.float32(n + 1) / 1000
  diffusers.check(f"{name}/add_noise", process.add_noise(x0, noise, at))
  diffusers.check(f"{name}/velocity", process.velocity(x0, noise, at))


def test_dit_tables(dit):
  for ours, theirs in (("linear", "linear"), ("cosine", "squaredcos_cap_v2")):
    dit.check(f"betas/{theirs}/1000", processes.betas(ours))
  every = jnp.arange(1, 1001, dtype=jnp.float32) / 1000
  process = processes.ddpm("linear")
  alpha, sigma = process.alpha(every), process.sigma(every)
  for name, got in (
    ("alphas_cumprod", alpha**2),
    ("alphas_cumprod_prev", process.alpha(every - 1e-3) ** 2),
    ("sqrt_recip_alphas_cumprod", 1 / alpha),
    ("sqrt_recipm1_alphas_cumprod", sigma / alpha),
    ("log_one_minus_alphas_cumprod", 2 * jnp.log(sigma)),
  ):
    dit.check(f"tables/linear1000/{name}", got)


def test_dit_noise(dit):
  x0, noise, n = (dit.inputs[k] for k in ("x0", "noise", "t"))
  got = processes.ddpm("linear").add_noise(x0, noise, jnp.float32(n + 1) / 1000)
  dit.check("q_sample", got)


def dit_network(x, t):
  """The fixture's network of noise (or, for `xstart`, of the sample)."""
  return 0.3 * x + 0.1 * jnp.cos(processes.trail(t * 1000 - 1, x) / 100)


def dit_state(dit, process):
  """Noised inputs and their times."""
  now = jnp.float32(dit.inputs["t"] + 1) / 1000
  return process.add_noise(dit.inputs["x0"], dit.inputs["noise"], now), now


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("name", ["default", "cosine", "xstart"])
def test_dit_ddim_step(dit, name, eta):
  process = processes.ddpm("cosine" if name == "cosine" else "linear")
  kind = "sample" if name == "xstart" else "noise"
  x, now = dit_state(dit, process)

  def denoise(x, t):  # the peer clips the sample, and takes the noise from that
    out = dit_network(x, t)
    return jnp.clip(predictions.to_sample_and_noise(process, kind, out, x, t)[0], -1, 1)

  end = samplers.sample(
    denoise,
    x,
    jnp.stack([now, now - 1e-3]),
    samplers.DDIM(eta),
    process=process,
    prediction="sample",
    fresh=lambda i: jnp.asarray(dit.inputs["step_noise"])[i],
  )
  dit.check(f"ddim_step/{name}/eta{eta}", end)


@pytest.mark.parametrize(
  ("name", "schedule"), [("default", "linear"), ("cosine", "cosine")]
)
def test_dit_predictions(dit, name, schedule):
  """The sample that DiT reads from predicted noise."""
  process = processes.ddpm(schedule)
  x, now = dit_state(dit, process)
  x0, _ = predictions.to_sample_and_noise(process, "noise", dit_network(x, now), x, now)
  dit.check(f"p_mean_variance/{name}/clip0/pred_xstart", x0)
