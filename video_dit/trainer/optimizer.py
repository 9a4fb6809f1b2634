"""AdamW by hand: clip, Adam's direction, decay of matrices, and the learning rate.

    g   <- g min(1, clip_norm / |g|)
    u   <- Adam(g) + weight_decay * w    (matrices only)
    w   <- w - learning_rate(step) u

The learning rate is a function of the step, not a state of the optimiser.
"""

import jax
import jax.numpy as jnp
import optax

from video_dit import config as config_lib


def direction(config: config_lib.Optimizer, axes) -> optax.GradientTransformation:
  """Clipping, Adam and decay: all of AdamW but the learning rate.

  Args:
    config: of the optimiser.
    axes: for each parameter its number of dimensions, stacked layers not counted; decay
      is for those of two and more.
  """
  clip = optax.identity()
  if config.clip_norm:
    clip = optax.clip_by_global_norm(config.clip_norm)
  decay = optax.add_decayed_weights(
    config.weight_decay, mask=jax.tree.map(lambda ndim: ndim > 1, axes)
  )
  return optax.chain(clip, _adam(config), decay)


def _adam(config: config_lib.Optimizer) -> optax.GradientTransformation:
  """Adam in float32, with moments stored in `moments_dtype` between steps."""
  adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon)
  if config.moments_dtype == "float32":
    return adam

  def cast(state, dtype):
    mu, nu = (
      jax.tree.map(lambda x: x.astype(dtype), tree) for tree in (state.mu, state.nu)
    )
    return state._replace(mu=mu, nu=nu)

  def init(params):
    return cast(adam.init(params), config.moments_dtype)

  def update(grads, state, params=None):
    updates, state = adam.update(grads, cast(state, jnp.float32), params)
    return updates, cast(state, config.moments_dtype)

  return optax.GradientTransformation(init, update)


def learning_rate(step: jax.Array, config: config_lib.Optimizer, steps: int) -> jax.Array:
  """Learning rate of one step: warm-up, then constant or half a cosine.

  Args:
    step: int32, from 0; step 0 already learns.
    config: of the optimiser.
    steps: of the run; the cosine ends there at `final_fraction`.

  Returns:
    A float32 scalar.
  """
  done = jnp.asarray(step, jnp.float32) + 1
  warm = jnp.minimum(1.0, done / config.warmup_steps) if config.warmup_steps else 1.0
  if config.schedule == "constant":
    return jnp.asarray(config.learning_rate * warm, jnp.float32)
  span = max(1, steps - config.warmup_steps)
  progress = jnp.clip((done - config.warmup_steps) / span, 0.0, 1.0)
  cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
  fraction = config.final_fraction + (1 - config.final_fraction) * cosine
  return config.learning_rate * warm * fraction


def ema_decay(step: jax.Array, greatest: float) -> jax.Array:
  """Decay of the moving average at `step`: (1 + step) / (10 + step), capped."""
  step = jnp.asarray(step, jnp.float32)
  return jnp.minimum(greatest, (1 + step) / (10 + step))


def num_updates(opt) -> jax.Array:
  """Updates that Adam has made; steps beyond these were skipped."""
  return optax.tree.get(opt, "count")
