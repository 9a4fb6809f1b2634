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
    return clips, wan_rows.pack(self.model, clips, texts, spare=3)

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
  times = np.append(_times(case.inputs["t_pertoken"]).reshape(-1), np.zeros(3))
  times = times[None].astype(np.float32)
  out = wan_rows.run(case.graph, case.params, row, times, num_segments=2)
  found = wan_rows.unpack(case.model, np.asarray(out), clips)
  case.check("out_pertoken", np.stack(found))


def test_loss_and_gradients(diffusers_case):
  case = diffusers_case
  _, row = case.row("a")
  targets = list(case.inputs["target_a"])
  target = wan_rows.pack(case.model, targets, case.texts("ctx_a"), spare=3)["patches"]
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
