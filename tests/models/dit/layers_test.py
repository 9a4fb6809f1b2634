"""Linear maps give the same in the form of a single CPU as in that of other devices."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit.models.dit import layers


def _both(monkeypatch, run, *arguments):
  """What a function gives, and its gradients, in either form."""
  found = []
  for alone in (True, False):
    monkeypatch.setattr(layers, "one_cpu", lambda alone=alone: alone)

    def total(*given):
      return sum(jnp.sum(jnp.sin(part)) for part in run(*given))

    gradients = jax.grad(total, argnums=range(len(arguments)))(*arguments)
    found.append((run(*arguments), gradients))
  return found


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_heads_and_their_gradients_are_those_of_the_other_form(monkeypatch, parts, bias):
  linear = layers.Linear(6, 4 * parts * 5, (None, None), bias=bias, rngs=nnx.Rngs(0))
  if bias:
    linear.bias[...] = jnp.arange(4.0 * parts * 5)
  graph, state = nnx.split(linear)
  x_RND = jax.random.normal(jax.random.key(1), (2, 3, 6))

  def run(state, x_RND):
    return nnx.merge(graph, state).to_heads(x_RND, 4, parts)

  (ours, ours_back), (others, others_back) = _both(monkeypatch, run, state, x_RND)
  assert [part.shape for part in ours] == [(2, 3, 4, 5)] * parts
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    (ours, ours_back),
    (others, others_back),
  )
  # The parts of a head lie side by side in the whole width.
  whole = linear(x_RND).reshape(2, 3, 4, parts, 5)
  for number, part in enumerate(ours):
    np.testing.assert_allclose(part, whole[:, :, :, number], atol=1e-5)


def test_what_heads_become_is_the_same_in_the_other_form(monkeypatch):
  linear = layers.Linear(20, 6, (None, None), rngs=nnx.Rngs(0))
  linear.bias[...] = jnp.arange(6.0)
  graph, state = nnx.split(linear)
  x_RNAK = jax.random.normal(jax.random.key(1), (2, 3, 4, 5))

  def run(state, x_RNAK):
    return [nnx.merge(graph, state).from_heads(x_RNAK)]

  ours, others = _both(monkeypatch, run, state, x_RNAK)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, others)
  np.testing.assert_allclose(ours[0][0], linear(x_RNAK.reshape(2, 3, 20)), atol=1e-5)
