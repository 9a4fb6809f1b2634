"""The compiled program that turns the noise of a group of rows into latents."""

from flax import nnx
import jax
import jax.numpy as jnp

from video_dit import config as config_lib
from video_dit.diffusion import guidance as guidance_lib
from video_dit.diffusion import process as process_lib
from video_dit.diffusion import samplers
from video_dit.diffusion import times as times_lib
from video_dit.generator import rows as rows_lib
from video_dit.parallel import hosts, partition
from video_dit.parallel import mesh as mesh_lib


def shape(config: config_lib.Config, mesh: jax.sharding.Mesh) -> rows_lib.Shape:
  """The shape of a whole group of rows.

  Raises:
    ValueError: the rows or their length do not divide over the mesh.
  """
  found = rows_lib.Shape(
    rows=config.sample.rows,
    length=config.sample.row_length or config.data.row_length,
    segments=config.data.row_segments,
    text=config.data.row_text,
  )
  ways = partition.row_ways(mesh.shape)
  if found.rows % ways:
    raise ValueError(
      f"config.sample.rows={found.rows} does not divide over data x fsdp ="
      f" {ways}. Choose a multiple of {ways}."
    )
  if found.length % mesh.shape["context"]:
    raise ValueError(
      f"a sampling row of {found.length} tokens does not divide over"
      f" context={mesh.shape['context']}. Change config.sample.row_length."
    )
  return found


class Sampler:
  """Samples groups of rows; one compilation serves all sizes, lengths and prompts.

  Another number of rows is compiled for itself. A second one is made when a request has
  given frames, because their tokens have times of their own, and another when nothing is
  guided, which saves half the work. So do steps at noise levels outside of
  `sample.guidance_interval`.

  Args:
    config: sampler, steps, process and prediction.
    mesh: over whose `data` and `fsdp` axes the rows are spread, and whose `context`
      axis splits each row.
    graphdef: of the `DiT`, from `nnx.split`.

  Raises:
    ValueError: as `shape`.
  """

  def __init__(self, config: config_lib.Config, mesh, graphdef: nnx.GraphDef):
    self._config, self._mesh, self._graphdef = config, mesh, graphdef
    self.shape = shape(config, mesh)
    self.program = jax.jit(
      self._program,
      static_argnames=("guided", "has_given"),
      out_shardings=partition.replicated(mesh),
      compiler_options=mesh_lib.compiler_options(mesh),
    )

  def predict(self, params, *inputs, num_segments: int | None = None) -> jax.Array:
    """The model's prediction, in the run's dtype; for use inside jit.

    Args:
      params: of the model.
      *inputs: patches, times, segments, positions, text and its segments, as `DiT`
        takes them.
      num_segments: segments of a row, where times are per token.
    """
    model = nnx.merge(self._graphdef, params)
    dtype = jnp.dtype(self._config.train.compute_dtype)
    return model(*inputs, dtype=dtype, num_segments=num_segments)

  def __call__(self, params, group: rows_lib.Group) -> jax.Array:
    """Samples a group.

    Args:
      params: of the model.
      group: rows from `rows.assemble`.

    Returns:
      `(R, N, P)` float32 latent patches on every device.
    """
    guided = bool((group.batch.weights != 1).any())
    by_name = ["patches", "segments", "positions", "keys", "tokens", "weights"]
    by_name += ["text", "text_segments"]  # not `frames`, which sampling has no use for
    arrays = {name: getattr(group.batch, name) for name in by_name}
    arrays |= {
      "given": group.given,
      "negative_text": group.negative_text,
      "negative_segments": group.negative_segments,
    }
    tokens = {"patches", "segments", "positions", "given"}
    by_token = partition.tokens_sharding(self._mesh)
    by_row = partition.rows_sharding(self._mesh)
    arrays = {
      name: hosts.place(array, by_token if name in tokens else by_row)
      for name, array in arrays.items()
    }
    with jax.set_mesh(self._mesh):
      return self.program(
        params, arrays, guided=guided, has_given=bool(group.given.any())
      )

  def _program(self, params, arrays, *, guided: bool, has_given: bool) -> jax.Array:
    config = self._config
    segments_RN, positions_RN3 = arrays["segments"], arrays["positions"]
    scale_RN = times_lib.token_times(arrays["weights"], segments_RN)
    captions = (arrays["text"], arrays["text_segments"])
    negatives = (arrays["negative_text"], arrays["negative_segments"])
    both = jax.tree.map(lambda *x: jnp.stack(x), captions, negatives)

    def predict(x_RNP, times, caption):
      return self.predict(
        params,
        x_RNP,
        times,
        segments_RN,
        positions_RN3,
        *caption,
        num_segments=arrays["tokens"].shape[1] if has_given else None,
      )

    def denoise(x_RNP, times):
      if not guided:
        return predict(x_RNP, times, captions)
      interval = config.sample.guidance_interval
      times_RN = times if has_given else times_lib.token_times(times, segments_RN)
      scale = guidance_lib.within(scale_RN, times_RN, interval)
      guides = jnp.any((scale != 1) & (segments_RN > 0))
      num = 2 if interval == (0.0, 1.0) else 1 + guides

      def add(i, found):
        caption = jax.tree.map(lambda x: x[i], both)
        return found.at[i].set(predict(x_RNP, times, caption))

      # One after the other: the model is compiled once and takes the memory of one. The
      # second is not evaluated where nothing is guided at these times.
      like = jax.eval_shape(predict, x_RNP, times, captions)
      neither = jnp.zeros((2, *like.shape), like.dtype)
      neither = partition.constrain(neither, None, "rows", "tokens", None)
      with_caption, without = jax.lax.fori_loop(0, num, add, neither)
      return guidance_lib.guide(with_caption, without, jnp.where(guides, scale, 1.0))

    indices_RN, patch_dim = (
      times_lib.token_indices(segments_RN),
      arrays["patches"].shape[-1],
    )

    def noise(step) -> jax.Array:
      # Of a clip's seed alone: its row, its company and their number change nothing.
      drawn_RNP = times_lib.noise(
        arrays["keys"], segments_RN, indices_RN, 0, step, patch_dim
      )
      return partition.constrain(drawn_RNP, "rows", "tokens", None)

    prediction = config.diffusion.prediction
    process = process_lib.from_config(config.diffusion)
    times = samplers.schedule_times(
      config.sample.steps,
      shift=times_lib.segment_shift(arrays["tokens"], config.diffusion),
      start=samplers.start_time(prediction, process),
    )
    given = {"given": arrays["patches"], "given_RN": arrays["given"]} if has_given else {}
    return samplers.sample(
      denoise,
      noise(0),
      times,
      samplers.from_config(config.sample),
      process=process,
      prediction=prediction,
      segments_RN=segments_RN,
      fresh=lambda index: noise(index + 1),
      **given,
    )
