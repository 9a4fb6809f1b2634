"""Statistics of an autoencoder's latents of its training data."""

from collections.abc import Callable, Iterable

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit import config as config_lib
from video_dit.checkpoints.state import Params
from video_dit.data.batch import Windows
from video_dit.models.autoencoder.frozen import to_unit
from video_dit.models.autoencoder.model import Autoencoder
from video_dit.parallel import partition

BATCHES = 64  # maximum number of batches


def measure(
  config: config_lib.Config,
  build: Callable[[nnx.Rngs], Autoencoder],
  mesh: jax.sharding.Mesh,
  params: Params,
  batches: Iterable[Windows],
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and deviation of each latent channel, `(c,)` float64 each.

  Args:
    config: `train.compute_dtype` is read.
    build: makes the model.
    mesh: over which the parameters and the batches are laid.
    params: of the model.
    batches: of windows.
  """
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(0))))

  def moments(params: Params, clips: jax.Array) -> tuple[jax.Array, jax.Array]:
    model = nnx.merge(graphdef, params)
    mean, _ = model.encode(to_unit(clips).astype(config.train.compute_dtype))
    mean, every = mean.astype(jnp.float32), (0, 1, 2, 3)
    return jnp.mean(mean, every), jnp.mean(jnp.square(mean), every)

  run = jax.jit(moments, out_shardings=partition.replicated(mesh))
  with jax.set_mesh(mesh):
    found = [jax.device_get(run(params, batch.clips)) for batch in batches]
  first, second = np.mean(np.asarray(found, np.float64), axis=0)
  # A channel that never varies keeps its scale.
  variance = np.maximum(second - np.square(first), 0.0)
  return first, np.where(variance > 1e-12, np.sqrt(variance), 1.0)
