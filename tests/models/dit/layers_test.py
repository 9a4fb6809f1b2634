"""Linear maps and rotations give the same in the form of each kind of device."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from video_dit.models.dit import layers, rotary


def _all(monkeypatch, run, *arguments):
  """What a function gives, and its gradients, in the form of a CPU, a GPU and a TPU."""
  found = []
  for device in ("cpu", "gpu", "tpu"):
    monkeypatch.setattr(layers, "one_cpu", lambda device=device: device == "cpu")
    for module in (layers, rotary):
      monkeypatch.setattr(module, "on_gpu", lambda device=device: device == "gpu")

    def total(*given):
      return sum(jnp.sum(jnp.sin(part)) for part in run(*given))

    gradients = jax.grad(total, argnums=range(len(arguments)))(*arguments)
    found.append((run(*arguments), gradients))
  first, *others = found
  for other in others:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), first, other)
  return first[0]


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_heads_and_their_gradients_are_the_same_in_all_forms(monkeypatch, parts, bias):
  linear = layers.Linear(6, 4 * parts * 5, (None, None), bias=bias, rngs=nnx.Rngs(0))
  if bias:
    linear.bias[...] = jnp.arange(4.0 * parts * 5)
  graph, state = nnx.split(linear)
  x_RND = jax.random.normal(jax.random.key(1), (2, 3, 6))

  def run(state, x_RND):
    return nnx.merge(graph, state).to_heads(x_RND, 4, parts)

  found = _all(monkeypatch, run, state, x_RND)
  assert [part.shape for part in found] == [(2, 3, 4, 5)] * parts
  # The parts of a head lie side by side in the whole width.
  whole = linear(x_RND).reshape(2, 3, 4, parts, 5)
  for number, part in enumerate(found):
    np.testing.assert_allclose(part, whole[:, :, :, number], atol=1e-5)


def test_what_heads_become_is_the_same_in_all_forms(monkeypatch):
  linear = layers.Linear(20, 6, (None, None), rngs=nnx.Rngs(0))
  linear.bias[...] = jnp.arange(6.0)
  graph, state = nnx.split(linear)
  x_RNAK = jax.random.normal(jax.random.key(1), (2, 3, 4, 5))

  def run(state, x_RNAK):
    return [nnx.merge(graph, state).from_heads(x_RNAK)]

  (found,) = _all(monkeypatch, run, state, x_RNAK)
  np.testing.assert_allclose(found, linear(x_RNAK.reshape(2, 3, 20)), atol=1e-5)


def test_rotations_are_the_same_in_all_forms(monkeypatch):
  dit = tiny.CONFIG.dit
  positions = jax.random.uniform(jax.random.key(0), (2, 3, 3), maxval=30.0)
  cosine, sine = rotary.rotation(positions, dit)
  shape = (2, 3, dit.heads, dit.width // dit.heads)
  x_RNAK = jax.random.normal(jax.random.key(1), shape)
  (found,) = _all(monkeypatch, lambda x: [rotary.rotate(x, cosine, sine)], x_RNAK)
  # A rotation keeps the length of each pair.
  pairs, turned = (jnp.stack(jnp.split(x, 2, axis=-1)) for x in (x_RNAK, found))
  np.testing.assert_allclose(
    jnp.linalg.norm(pairs, axis=0), jnp.linalg.norm(turned, axis=0), rtol=1e-5
  )


@pytest.mark.parametrize("fractions", [(0.0, 0.5, 0.5), (0.25, 0.375, 0.375), (0, 0, 1)])
@pytest.mark.parametrize("size", range(2, 66, 2))
def test_the_pairs_of_any_head_are_shared_out(size, fractions):
  dit = dataclasses.replace(
    tiny.CONFIG.dit, width=size, heads=1, rope_fractions=fractions
  )
  shares = rotary.pairs(dit)
  assert min(shares) >= 0 and sum(shares) == size // 2
  for share, fraction in zip(shares, fractions, strict=True):
    assert abs(share - fraction * size / 2) <= 1
