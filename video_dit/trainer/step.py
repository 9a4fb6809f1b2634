"""The trainer: sharded initialisation of a state, and the step that updates it.

A `Trainer` ties an objective, an optimiser and a mesh together and holds no arrays.
Parameters and optimiser are float32; the objective decides the dtype of the arithmetic.
"""

import dataclasses
from typing import Any, Generic, TypeVar, cast

import einops
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from video_dit import config as config_lib
from video_dit.checkpoints.state import Params, TrainState
from video_dit.parallel import mesh as mesh_lib
from video_dit.parallel import partition
from video_dit.trainer import optimizer
from video_dit.trainer.sums import Sums
from video_dit.trainer.task import Task

T = TypeVar("T", bound=Task)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class StepMetrics:
  """What one step measured; scalars, float32 but for the two of skipped steps, int32.

  Attributes:
    means: name to (total, weight); the mean is total over weight.
    counts: name to amount, such as tokens.
    learning_rate: of this step.
    skipped: 1 where gradient or new weights were not finite and nothing was updated.
    num_skipped: skipped steps of the whole run.
  """

  means: dict[str, tuple[jax.Array, jax.Array]]
  counts: dict[str, jax.Array]
  learning_rate: jax.Array
  skipped: jax.Array
  num_skipped: jax.Array


class Trainer(Generic[T]):
  """Makes, lays out and advances the state of one run.

  Args:
    objective: what is trained.
    config: of the run.
    mesh: over which state and batches are sharded.

  Raises:
    ValueError: the model holds more than parameters, or does not divide over the mesh.
  """

  def __init__(
    self,
    objective: T,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
  ):
    self.objective, self.config, self.mesh = objective, config, mesh
    shadow = nnx.eval_shape(lambda: objective.build(nnx.Rngs(config.seed)))
    parts: Any = nnx.split(shadow, nnx.Param, ...)
    self.graphdef, params, rest = parts
    if jax.tree.leaves(rest):
      names = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(rest)]
      raise ValueError(f"the model must hold parameters only, but has {names}")
    self.direction = optimizer.direction(config.optimizer, _num_axes(params))
    param_shardings = partition.shardings(params, mesh)
    self.replicated = partition.replicated(mesh)
    key_data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(config.seed)))
    shapes = jax.eval_shape(self._fresh, key_data)
    opt = optax.tree_map_params(
      self.direction,
      lambda _, sharding: sharding,
      shapes.opt,
      param_shardings,
      transform_non_params=lambda _: self.replicated,
    )
    self.shardings = TrainState(
      step=cast(Any, self.replicated),
      params=param_shardings,
      ema=param_shardings,
      opt=opt,
    )
    self.abstract = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      self.shardings,
    )
    self.step = jax.jit(
      self._step,
      in_shardings=(self.shardings, objective.layout(mesh)),
      out_shardings=(self.shardings, self.replicated),
      donate_argnums=(0,),
      compiler_options=mesh_lib.compiler_options(mesh),
    )

  def num_params(self) -> int:
    """Parameters of the model."""
    return sum(x.size for x in jax.tree.leaves(self.abstract.params))

  def init(self) -> TrainState:
    """A fresh state: every shard is made on its own device, the same on any mesh.

    Where the task has weights to start from, they are used.
    """
    if self.objective.initial is not None:
      params = self.objective.initial(self.mesh)
      params = jax.device_put(params, self.shardings.params)
      with jax.set_mesh(self.mesh):
        begin = jax.jit(self._begin, out_shardings=self.shardings, donate_argnums=0)
        return begin(params)
    # As NumPy arrays: an array on this host's device cannot be moved to other hosts'.
    key = np.asarray(jax.random.key_data(jax.random.key(self.config.seed)))
    with jax.set_mesh(self.mesh):
      fresh = jax.jit(self._fresh, out_shardings=self.shardings)
      return fresh(jax.device_put(key, self.replicated))

  def model(self, params: Params) -> Any:
    """The module around `params`."""
    return nnx.merge(self.graphdef, params)

  def _fresh(self, key_data: jax.Array) -> TrainState:
    model = self.objective.build(nnx.Rngs(jax.random.wrap_key_data(key_data)))
    return self._begin(nnx.to_pure_dict(nnx.state(model, nnx.Param)))

  def _begin(self, params: Params) -> TrainState:
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      ema=jax.tree.map(jnp.copy, params),
      opt=self.direction.init(params),
    )

  def _step(self, state: TrainState, batch: Any) -> tuple[TrainState, StepMetrics]:
    with jax.named_scope("gradient"):
      grads, sums = self._gradient(state.params, batch, state.step)
    with jax.named_scope("update"):
      return self._update(state, grads, sums)

  def _update(
    self, state: TrainState, grads: Params, sums: Sums
  ) -> tuple[TrainState, StepMetrics]:
    config = self.config
    grad_norm = optax.tree.norm(grads)
    updates, opt = self.direction.update(grads, state.opt, state.params)
    rate = optimizer.learning_rate(state.step, config.optimizer, config.train.steps)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    decay = optimizer.ema_decay(state.step, config.train.ema_decay)
    ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)

    # A finite gradient may still make an update that is not.
    finite = jnp.isfinite(grad_norm) & jnp.isfinite(optax.tree.norm(params))
    new, old = (params, ema, opt), (state.params, state.ema, state.opt)
    params, ema, opt = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    state = TrainState(step=state.step + 1, params=params, ema=ema, opt=opt)

    one = jnp.ones((), jnp.float32)
    means = {"loss": (sums.loss, sums.weight), "grad_norm": (grad_norm, one)}
    return state, StepMetrics(
      means=means | sums.means,
      counts=sums.counts,
      learning_rate=rate,
      skipped=1 - finite.astype(jnp.int32),
      num_skipped=state.step - optimizer.num_updates(opt),
    )

  def _gradient(self, params: Params, batch: Any, step: jax.Array) -> tuple[Params, Sums]:
    """Gradient of the whole batch's loss, computed one micro-batch at a time.

    Losses and weights are summed over the micro-batches and divided once, so that the
    result does not depend on how many there are; but for `reconstruction.noise`, whose
    unit is the deviation of a micro-batch.
    """
    seed = jnp.int32(self.config.seed)

    def total(params, micro):
      sums = self.objective.loss(self.model(params), micro, seed, step)
      return sums.loss, sums

    def gradient(micro):
      (_, sums), grads = jax.value_and_grad(total, has_aux=True)(params, micro)
      return grads, sums

    parts = self.config.train.accumulate
    if parts == 1:
      grads, sums = gradient(batch)
    else:

      def add(so_far, micro):
        return jax.tree.map(jnp.add, so_far, gradient(micro)), None

      micros = micro_batches(batch, parts, self.mesh)
      zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], micros)),
      )
      (grads, sums), _ = jax.lax.scan(add, zeros, micros)
    grads = jax.lax.with_sharding_constraint(grads, self.shardings.params)
    weight = sums.weight if self.objective.weight is None else self.objective.weight
    return jax.tree.map(lambda g: g / weight, grads), sums


def micro_batches(batch: Any, parts: int, mesh: jax.sharding.Mesh) -> Any:
  """Splits a batch's rows into `parts` micro-batches, stacked in a new first axis.

  Every device keeps its own rows, and a micro-batch takes neighbours of each: rows that
  `data.balance_rows` gave equal work run at once.
  """
  ways = partition.row_ways(mesh.shape)
  form = "(ways parts r) ... -> parts (ways r) ..."
  return jax.tree.map(lambda x: einops.rearrange(x, form, ways=ways, parts=parts), batch)


def _num_axes(params: nnx.State) -> dict[str, Any]:
  """For each parameter its number of named axes; a stack's layer axis has no name."""

  def count(_, variable):
    return len(variable.get_metadata().get("axes") or ())

  return nnx.to_pure_dict(nnx.map_state(count, params))
