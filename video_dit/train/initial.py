"""The weights of an earlier run that `config.train.initial` names: a new run's first."""

from collections.abc import Callable
import pathlib
import re

from flax import nnx
import jax

from video_dit import config as config_lib
from video_dit.checkpoints.state import Params
from video_dit.checkpoints.store import Store
from video_dit.data import reader, schema
from video_dit.generator import generator as generator_lib
from video_dit.parallel import hosts
from video_dit.train import workdir as workdir_lib
from video_dit.train.objective import Objective

# Of an objective's `model_keys`: what weights may be moved to, and learn again.
_MOVED = ("diffusion.schedule", "dit.rope_", "dit.text_length", "dit.norm_epsilon")


def weights(
  config: config_lib.Config, objective: Objective
) -> Callable[[jax.sharding.Mesh], Params]:
  """How to read the weights that a run starts from; what does not fit is refused now.

  Args:
    config: of the new run.
    objective: of the new run.

  Returns:
    A function of the mesh: the earlier run's averaged weights, laid over it.

  Raises:
    ValueError: there is no such run or checkpoint, or it is of another model.
  """
  where = f"config.train.initial={config.train.initial!r}"
  folder, step = _parse(config.train.initial)
  earlier = workdir_lib.begun(folder)
  if earlier is None:
    raise ValueError(
      f"{where}: is not the workdir of a run that has saved a checkpoint. Name one, and"
      " with :STEP behind it one of its checkpoints; published transformers are named by"
      " config.dit.checkpoint."
    )
  _check(where, earlier, config, objective.model_keys)
  _, shapes = nnx.split(nnx.eval_shape(lambda: objective.build(nnx.Rngs(0))))
  with Store(folder / "checkpoints") as store:
    step = store.existing(step)
    differences = store.differences(nnx.to_pure_dict(shapes), step)
  if differences:
    raise ValueError(
      f"{where}: its weights do not fit the latents or captions of this data set:"
      f" {'; '.join(differences[:8])}. Preprocess with the encoders of that run."
    )
  _report(earlier, config)

  def read(mesh: jax.sharding.Mesh) -> Params:
    hosts.say(f"starting from the averaged weights of {folder} at step {step}")
    with Store(folder / "checkpoints") as store:
      return store.restore_ema(generator_lib.abstract_params(shapes, mesh), step)

  return read


def _parse(text: str) -> tuple[pathlib.Path, int | None]:
  """`WORKDIR[:STEP]`."""
  found = re.fullmatch(r"(.+):(\d+)", text)
  path = pathlib.Path(found[1] if found else text).expanduser()
  return path, int(found[2]) if found else None


def _check(where: str, earlier, config: config_lib.Config, model_keys) -> None:
  """Refuses a run of another model, or of one that returns something else."""
  old, new = dict(config_lib.leaves(earlier)), dict(config_lib.leaves(config))
  keys = [key for key in model_keys if not key.startswith(_MOVED)]
  wrong = [key for key in keys if old[key] != new[key]]
  if wrong:
    differences = ", ".join(f"{k}: {old[k]!r} there, {new[k]!r} here" for k in wrong)
    raise ValueError(
      f"{where}: is a run of a different model ({differences}). Choose another, or the"
      " config of that run."
    )


def _report(earlier: config_lib.Config, config: config_lib.Config) -> None:
  """Says what the weights have learnt otherwise, and will have to learn again."""
  old, new = dict(config_lib.leaves(earlier)), dict(config_lib.leaves(config))
  for key in new:
    if (
      config.objective == "diffusion" and key.startswith(_MOVED) and old[key] != new[key]
    ):
      hosts.say(
        f"config.{key} was {old[key]!r} in config.train.initial, now {new[key]!r}"
      )
  if config.objective != "diffusion":
    return
  try:
    before, after = (
      schema.Metadata.load(reader.set_folders(c.data.path, "latents")[0])
      for c in (earlier, config)
    )
  except (ValueError, OSError):  # The earlier run's data may be gone.
    return
  for name, a, b in (
    ("autoencoder", before.autoencoder, after.autoencoder),
    ("text encoder", before.text, after.text),
  ):
    if a != b:
      hosts.say(
        f"config.train.initial has learnt the {name} {a}; this data set is of {b}"
      )
