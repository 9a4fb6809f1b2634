"""Statistics of the latents that an autoencoder makes of its training data."""

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

BATCHES = 64  # most batches that are looked at


def measure(
  config: config_lib.Config,
  build: Callable[[nnx.Rngs], Autoencoder],
  mesh: jax.sharding.Mesh,
  params: Params,
  batches: Iterable[Windows],
) -> tuple[np.ndarray, np.ndarray]:
  """Mean `(c,)` and covariance `(c, c)` of the latents' channels, float64.

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
    mean_NC = mean.reshape(-1, mean.shape[-1]).astype(jnp.float32)
    products_CC = jnp.einsum("nc,nd->cd", mean_NC, mean_NC, precision="highest")
    return jnp.mean(mean_NC, 0), products_CC / len(mean_NC)

  run = jax.jit(moments, out_shardings=partition.replicated(mesh))
  with jax.set_mesh(mesh):
    found = [jax.device_get(run(params, batch.clips)) for batch in batches]
  first_C, second_CC = (
    np.mean(np.asarray(x, np.float64), 0) for x in zip(*found, strict=True)
  )
  return first_C, second_CC - np.outer(first_C, first_C)
