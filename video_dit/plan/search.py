"""Tries meshes, remat policies, `context` modes and block sizes, and ranks them.

Plans that fit come first, by seconds per token.
"""

from collections.abc import Callable, Iterator
import dataclasses
import itertools
import math
from typing import Any, get_args, get_type_hints

import jax

from video_dit import config as config_lib
from video_dit.parallel import local, partition
from video_dit.plan import devices, run
from video_dit.plan import mix as mix_lib

_AXES = ("fsdp", "tensor", "context")
_POLICIES = ("attention", "dots", "block", "none", "offload")


def search(
  request: run.Request, tries: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
  """Plans the training step in many ways.

  Args:
    request: its given axes are kept.
    tries: the most plans; likely ones come first.
    say: called with each choice.

  Returns:
    The plans, each with its `choice`: those that fit, by seconds per token, then
    the others.

  Raises:
    ValueError: a clip is longer than a row, the config divides over no mesh with the
      given axes, or nothing that was tried can be planned.
  """
  if request.config.objective == "diffusion":
    mix_lib.of(request.config, request.clips)
  count = request.topology.count
  if request.topology.platform == "tpu":
    count = devices.mesh_of(request.topology, {}, config_lib.Mesh()).size
  found: list[dict[str, Any]] = []
  choices = itertools.islice(_choices(request, count), tries)
  for axes, changes in choices:
    words = [f"{axis}={size}" for axis, size in axes.items()]
    words += [f"{key}={value}" for key, value in changes.items()]
    name = " ".join(words)
    say(f"trying {name}")
    dit = dataclasses.replace(request.config.dit, **changes)
    config = dataclasses.replace(request.config, dit=dit)
    tried = dataclasses.replace(request, config=config, axes=axes, stages=("train",))
    try:
      plan = run.plan(tried)
    except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
      plan = {"fits": False, "error": str(error).partition("\n")[0] or repr(error)}
    found.append({"choice": name} | plan)
  if not found:
    given = ", ".join(f"{axis}={size}" for axis, size in request.axes.items())
    dit = request.config.dit
    raise ValueError(
      f"no mesh of {count} devices with {given or 'any axes'} suits the config: fsdp must"
      f" divide dit.width={dit.width}, tensor dit.heads={dit.heads}, context"
      f" data.row_length={request.config.data.row_length}, and data x fsdp"
      f" data.rows={request.config.data.rows} unless it is larger. Give other axes, or"
      " none."
    )
  if all("error" in plan for plan in found):
    raise ValueError(f"no way of {len(found)} can be planned: {found[0]['error']}")
  return sorted(found, key=_order)


def _order(plan: dict[str, Any]) -> tuple[bool, float]:
  seconds = plan.get("step_seconds", math.inf) / plan.get("tokens_per_step", 1)
  return not plan["fits"], seconds


def _choices(
  request: run.Request, count: int
) -> Iterator[tuple[dict[str, int], dict[str, Any]]]:
  """Meshes and settings of the model, likely ones first.

  By formula all `context` modes are alike: the config's own is taken.
  """
  config = request.config
  policies: list[dict[str, Any]]
  if config.objective == "diffusion":
    policies = [{"remat": policy} for policy in _POLICIES if policy in _values("remat")]
  else:
    policies = [{}]
  for axes in _meshes(request, count):
    ways: list[dict[str, Any]] = [{}]
    if axes["context"] > 1 and not run.is_by_formula(request.topology):
      ways = [{"context": way} for way in _values("context") if way != "auto"]
    for number, (policy, way) in enumerate(itertools.product(policies, ways)):
      yield axes, policy | way
      if number == 0 and _has_blocks(request):
        for kernel in _values("attention"):
          if kernel.startswith("splash_"):  # as `auto`, with other blocks
            yield axes, policy | way | {"attention": kernel}


def _has_blocks(request: run.Request) -> bool:
  """Whether attention uses the kernel whose block size may be changed."""
  config = request.config
  return (
    config.objective == "diffusion"
    and request.topology.platform == "tpu"
    and config.dit.attention == "auto"
    and config.data.row_length > local.SHORT
  )


def _values(name: str) -> list[str]:
  """The possible values of a setting of the transformer."""
  return list(get_args(get_type_hints(config_lib.DiT)[name]))


def _meshes(request: run.Request, count: int) -> list[dict[str, int]]:
  """Meshes over all devices that the config divides over; few axes first."""
  config = request.config
  found = []
  divisors = [n for n in range(1, count + 1) if count % n == 0]
  for fsdp, tensor, context in itertools.product(divisors, repeat=3):
    inner = fsdp * tensor * context
    sizes = {"fsdp": fsdp, "tensor": tensor, "context": context}
    if count % inner or any(request.axes.get(a, sizes[a]) != sizes[a] for a in _AXES):
      continue
    data = count // inner
    if request.axes.get("data", data) != data:
      continue
    ways = partition.row_ways(sizes | {"data": data})
    if config.data.rows > ways and config.data.rows % ways:
      continue
    if config.objective == "diffusion":
      if config.dit.heads % tensor or config.dit.width % fsdp:
        continue
      if config.data.row_length % context:
        continue
    elif tensor > 1 or context > 1:
      continue
    found.append(sizes)

  def unlikely(sizes: dict[str, int]) -> tuple:
    # Sharding the state is cheap; splitting rows or heads moves activations.
    split = sizes["tensor"] * sizes["context"]
    return (
      split,
      sizes["tensor"],
      abs(math.log2(sizes["fsdp"] * split / min(count, 16))),
    )

  return sorted(found, key=unlikely)
