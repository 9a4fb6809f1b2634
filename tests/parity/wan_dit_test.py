"""Wan's transformers give what diffusers and Wan's own code give.

Against stored outputs of both, packed; and against diffusers where it is installed.
"""

import dataclasses
import json

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.dit import wan_rows
from video_dit import interop
from video_dit.interop import names, wan_dit, wan_dit_names

_LENGTH = 12  # of the fixtures' texts, those filled up with zeros included


class _Case:
  """A fixture: its model read by us, inputs and outputs."""

  def __init__(self, folder):
    self.folder = folder
    self.loaded = interop.load(folder)
    self.sizes = self.loaded.config
    sizes = dataclasses.replace(self.sizes, text_length=_LENGTH)
    graph, _ = nnx.split(wan_dit.abstract(sizes))
    self.graph, self.params = graph, self.loaded.params
    self.model = nnx.merge(graph, self.params)
    inputs = np.load(folder.parent / "wan_dit" / "inputs.npz")
    self.inputs = {name: inputs[name] for name in inputs.files}

  def texts(self, name):
    """Captions without the zeros that fill them up."""
    return [text[np.abs(text).sum(-1) > 0] for text in self.inputs[name]]

  def row(self, which, *, texts=None):
    clips = list(self.inputs[f"x_{which}"])
    texts = self.texts(f"ctx_{which}") if texts is None else texts
    return clips, wan_rows.pack(self.model, clips, texts, tokens=27, text=27)

  def check(self, name, found):
    """At the peer's noise floor, as `compare.py` there measures it."""
    noise = json.loads((self.folder / "meta.json").read_text())["noise"][name]
    for file, key in (("outputs", "outputs"), ("outputs_ref64", "ref64")):
      expected = np.load(self.folder / f"{file}.npz")[name]
      assert np.shape(found) == expected.shape
      limit = noise[f"suggest_atol_vs_{key}"]
      np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=name)


@pytest.fixture(scope="module", params=["wan_dit", "wan_dit_native"])
def case(request, shared):
  return _Case(shared / "parity" / request.param)


@pytest.fixture(scope="module")
def diffusers_case(shared):
  return _Case(shared / "parity" / "wan_dit")


def _times(timesteps):
  return (np.asarray(timesteps, np.float64) / 1000).astype(np.float32)


def test_a_row_of_two_clips(case):
  clips, row = case.row("a")
  times = _times(case.inputs["t_a"])[None]
  out = wan_rows.run(case.graph, case.params, row, times)
  case.check("out_a", np.stack(wan_rows.unpack(case.model, np.asarray(out), clips)))


def test_zeros_that_are_stored_are_zeros_that_are_not(diffusers_case):
  case = diffusers_case
  clips, row = case.row("a", texts=list(case.inputs["ctx_a"]))
  times = _times(case.inputs["t_a"])[None]
  out = wan_rows.run(case.graph, case.params, row, times)
  case.check("out_a", np.stack(wan_rows.unpack(case.model, np.asarray(out), clips)))


def test_a_time_for_each_token(diffusers_case):
  case = diffusers_case
  clips, row = case.row("pertoken")
  times = np.append(_times(case.inputs["t_pertoken"]).reshape(-1), np.zeros(11))
  times = times[None].astype(np.float32)
  out = wan_rows.run(case.graph, case.params, row, times, num_segments=2)
  found = wan_rows.unpack(case.model, np.asarray(out), clips)
  case.check("out_pertoken", np.stack(found))


def test_loss_and_gradients(diffusers_case):
  case = diffusers_case
  _, row = case.row("a")
  targets = list(case.inputs["target_a"])
  target = wan_rows.pack(case.model, targets, case.texts("ctx_a"), tokens=27)["patches"]
  real = (row["segments"] > 0)[..., None]
  times = _times(case.inputs["t_a"])[None]

  def loss(params):
    out = wan_rows.run(case.graph, params, row, times)
    return jnp.sum(jnp.where(real, out - target, 0) ** 2) / np.size(case.inputs["x_a"])

  value, gradients = jax.jit(jax.value_and_grad(loss))(case.params)
  case.check("mse_a", np.asarray(value))
  sizes = case.sizes
  rules = wan_dit_names.table(sizes.depth, sizes.heads, sizes.patch, "diffusers")
  theirs = names.save_from(gradients, rules)
  wanted = [
    n for n in np.load(case.folder / "outputs.npz").files if n.startswith("grad/")
  ]
  assert len(wanted) == 10
  for name in wanted:
    case.check(name, theirs[name.removeprefix("grad/")].read())


_LIVE = {
  **{"patch_size": (1, 2, 3), "num_attention_heads": 3, "attention_head_dim": 14},
  **{"in_channels": 5, "out_channels": 5, "text_dim": 11, "freq_dim": 36},
  **{"ffn_dim": 50, "num_layers": 3, "qk_norm": "rms_norm_across_heads"},
  **{"cross_attn_norm": True, "eps": 1e-6, "rope_max_seq_len": 64},
}
# Extent, caption tokens and step of each clip.
_RAGGED = (((3, 4, 6), 5, 37), ((1, 6, 9), 512, 801), ((5, 2, 3), 1, 250))


@pytest.fixture(scope="module")
def live(tmp_path_factory):
  """A transformer of diffusers with random weights, and ours of its files."""
  torch = pytest.importorskip("torch")
  diffusers = pytest.importorskip("diffusers")
  torch.set_num_threads(1)
  torch.manual_seed(3)
  theirs = diffusers.WanTransformer3DModel(**_LIVE).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.copy_(parameter + 0.1 * torch.randn_like(parameter))
  folder = tmp_path_factory.mktemp("live")
  theirs.save_pretrained(folder, max_shard_size="40KB")
  return torch, theirs, interop.load(folder)


def _ragged():
  rng = np.random.default_rng(4)
  clips, texts = [], []
  for extent, count, _ in _RAGGED:
    clips.append(rng.normal(size=(5, *extent)).astype(np.float32))
    texts.append(rng.normal(size=(count, 11)).astype(np.float32))
  return clips, texts


@pytest.mark.parametrize("per_token", [False, True])
def test_diffusers_live_on_clips_of_any_sizes(live, per_token):
  torch, theirs, loaded = live
  clips, texts = _ragged()
  model = loaded.model
  row = wan_rows.pack(model, clips, texts, tokens=40)
  steps = [np.float32(step) for _, _, step in _RAGGED]
  if per_token:
    # The first frame of each clip is given, at time 0.
    steps = [
      np.where(np.arange(n) < n // extent[0], 0, step).astype(np.float32)
      for n, (extent, _, step) in zip(
        (np.count_nonzero(row["segments"] == i) for i in (1, 2, 3)), _RAGGED, strict=True
      )
    ]
    spare = np.zeros(np.count_nonzero(row["segments"] == 0))
    times, segments = _times(np.append(np.concatenate(steps), spare))[None], 3
  else:
    times, segments = _times(steps)[None], None
  graph, params = nnx.split(model)
  out = wan_rows.run(graph, params, row, times, num_segments=segments)
  found = wan_rows.unpack(model, np.asarray(out), clips)
  for clip, text, step, mine in zip(clips, texts, steps, found, strict=True):
    filled = np.zeros((1, 512, 11), np.float32)
    filled[0, : len(text)] = text
    with torch.no_grad():
      expected = theirs(
        torch.from_numpy(clip[None]),
        torch.from_numpy(np.atleast_1d(step) if not per_token else step[None]),
        torch.from_numpy(filled),
        return_dict=False,
      )[0][0].numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-4 * expected.std())


def test_diffusers_reads_what_we_write(live, tmp_path):
  torch, theirs, loaded = live
  (file,) = interop.save(loaded, tmp_path)
  again = type(theirs).from_config(json.loads((tmp_path / "config.json").read_text()))
  # As `from_pretrained` does where it has accelerate.
  from safetensors.torch import load_file

  again.load_state_dict(load_file(file), strict=True)
  state = again.state_dict()
  for name, tensor in theirs.state_dict().items():
    assert torch.equal(tensor, state[name]), name
  for key, value in theirs.config.items():
    if not key.startswith("_"):
      assert json.dumps(again.config[key]) == json.dumps(value), key
