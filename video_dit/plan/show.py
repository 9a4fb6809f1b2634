"""A plan as text for a terminal."""

from collections.abc import Iterator
from typing import Any

GB = 1e9
_MEMORY = (
  ("parameters", "parameters"),
  ("optimizer", "optimiser"),
  ("ema", "averaged weights"),
  ("batch", "batch"),
  ("activations", "activations"),
  ("temporaries", "temporaries"),
  ("code", "program"),
  ("other", "outputs and padding"),
  ("other_encoder", "the other encoder"),
)
_SECONDS = {
  "matrix": "matrix products",
  "kernel": "attention kernels",
  "vector": "elementwise",
  "collective": "collectives, not hidden",
  "copy": "copies, not hidden",
  "host": "host transfers, not hidden",
}


def lines(plan: dict[str, Any]) -> Iterator[str]:
  """The lines of a plan."""
  axes = ", ".join(f"{axis}={size}" for axis, size in plan["mesh"].items())
  yield f"{plan['config']} on {plan['topology']}: {plan['chips']} chips, mesh {axes}"
  if "clips_in_a_row" in plan:
    yield (
      f"  {plan['rows']} rows of {plan['row_length']:,} tokens a step, each"
      f" {plan['clips_in_a_row']} clips; remat {plan['remat']}; by"
      f" {plan['estimated_by']}"
    )
  yield from (f"  note: {note}" for note in plan.get("notes", ()))
  if "memory" in plan:
    yield ""
    yield from _training(plan)
  if "sampler" in plan:
    yield ""
    yield from _sampler(plan["sampler"])
  if "encoder" in plan:
    yield ""
    yield from _encoder(plan["encoder"])


def _training(plan: dict[str, Any]) -> Iterator[str]:
  yield f"training step of {plan['parameters']:,} parameters"
  yield from _memory(plan)
  if "step_seconds" in plan:
    yield f"  step              {plan['step_seconds']:10.3f} s"
    if "mfu" in plan:
      yield f"  MFU               {plan['mfu']:10.1%}"
      yield (
        f"  tokens            {plan['tokens_per_second']:10,.0f} a second,"
        f" {plan['tokens_per_second_per_chip']:,.0f} a chip"
      )
    yield from _times(plan)
    yield from _collectives(plan)
    yield (
      f"  FLOPs a device    {plan['flops'] / 1e12:10.4g} T,"
      f" {plan['kernel_flops'] / 1e12:.4g} T of them in kernels;"
      f" {_bytes(plan['bytes'])} of memory traffic"
    )
    if "model_flops" in plan:
      yield f"  model FLOPs       {plan['model_flops'] / 1e12:10.4g} T a step"
    cost = f", {plan['cost']:,.0f} in all" if "cost" in plan else ""
    yield (
      f"  the whole run     {plan['days']:10.2f} days,"
      f" {plan['chip_hours']:,.0f} chip-hours{cost}"
    )
  host = plan["host_memory"]
  yield (
    f"  host memory       {host['total'] / GB:10.1f} GB on {host['hosts']:g} hosts each"
    f" (checkpoint {host['checkpoint_copy'] / GB:.1f}, batches"
    f" {host['batches'] / GB:.2f}, offloaded {host['offloaded'] / GB:.1f}, process"
    f" {host['process'] / GB:.1f})"
  )
  yield f"  checkpoint        {_bytes(plan['checkpoint_bytes']):>13}"
  if plan.get("not_estimated"):
    yield f"  not estimated: {', '.join(plan['not_estimated'][:8])}"
  yield from _remedies(plan)


def _remedies(figures: dict[str, Any]) -> Iterator[str]:
  if figures.get("remedies"):
    yield ""
    yield "DOES NOT FIT"
    yield from (f"  {line}" for line in figures["remedies"])


def _memory(figures: dict[str, Any]) -> Iterator[str]:
  memory = figures["memory"]
  for key, name in _MEMORY:
    if abs(memory.get(key, 0)) >= 500:  # what is shown has three decimals of a MB
      yield f"  {name:<18}{_bytes(memory[key]):>13}"
  fits = "fits" if figures["fits"] else "DOES NOT FIT"
  yield (
    f"  {'memory in all':<18}{_bytes(memory['total']):>13} of"
    f" {_bytes(memory['available'])}: {fits}"
  )
  if memory.get("host"):
    yield f"  {'on the host':<18}{_bytes(memory['host']):>13}"


def _bytes(size: float) -> str:
  """A size with its unit, powers of ten."""
  unit, name = (GB, "GB") if abs(size) >= 1e8 else (1e6, "MB")
  return f"{size / unit:.3f} {name}"


def _times(figures: dict[str, Any]) -> Iterator[str]:
  for kind, seconds in sorted(figures["seconds"].items(), key=lambda item: -item[1]):
    yield f"    {_SECONDS.get(kind, kind):<28}{seconds:9.4f} s"


def _collectives(figures: dict[str, Any]) -> Iterator[str]:
  for part in figures["collectives"]:
    yield (
      f"    {part['axes']:<12} {part['kind']:<15} {part['count']:7.0f} times"
      f" {_bytes(part['bytes']):>11} {part['seconds']:8.4f} s,"
      f" {part['exposed']:.4f} s not hidden"
    )


def _sampler(figures: dict[str, Any]) -> Iterator[str]:
  yield f"sampler: {figures['clips']} clips of {figures['tokens_of_a_clip']:,} tokens"
  yield from _memory(figures)
  if "seconds_of_a_group" in figures:
    yield f"  all of them       {figures['seconds_of_a_group']:10.3f} s"
    yield f"  clips             {figures['clips_per_second']:10.3f} a second"
    yield from _times(figures)
  yield from _remedies(figures)


def _encoder(figures: dict[str, Any]) -> Iterator[str]:
  clip = figures["clip"]
  size = f"{clip['frames']} frames of {clip['height']}x{clip['width']}"
  yield f"encoders: clips of {size}"
  for name in ("autoencoder", "text"):
    yield f"  {name}: {figures[name]['what']}"
    yield from (f"  {line}" for line in _memory(figures[name]))
  if "clips_per_second" in figures:
    yield (
      f"  clips             {figures['clips_per_second']:10.3f} a second,"
      f" {figures['tokens_per_second']:,.0f} tokens a second"
    )
  yield from _remedies(figures)


def ranking(found: list[dict[str, Any]]) -> Iterator[str]:
  """The lines of a search: those that fit, fastest first, then those that do not."""
  yield f"{'step s':>9} {'MFU':>7} {'GB a device':>11}  mesh, remat, rows"
  for plan in found:
    memory = f"{plan['memory']['total'] / GB:11.2f}" if "memory" in plan else f"{'':>11}"
    step = f"{plan['step_seconds']:9.3f}" if "step_seconds" in plan else f"{'-':>9}"
    mfu = f"{plan['mfu']:7.1%}" if "mfu" in plan else f"{'-':>7}"
    why = "" if plan.get("fits") else f"  ({plan.get('error') or 'does not fit'})"
    rows = f" rows={plan['rows']}" if "rows" in plan else ""
    yield f"{step} {mfu} {memory}  {plan['choice']}{rows}{why}"
