r"""One training step of the same transformer, ours and PyTorch's, in one run.

    python -m tests.benchmarks.step
    python -m tests.benchmarks.step --mesh=gpu --dtype=bfloat16 --width=1152 --depth=28 \
        --heads=9 --rows=1 --row_length=32768 --row_segments=64 --remat=attention \
        --unroll=1 --grid=4,32,32 --patch_dim=64 --text_width=2048 --text_tokens=20 \
        --noturns

Clips of many sizes are packed into rows. All sides have the same weights and the same
clips, and do the whole step: noise, loss, gradient, clipping, AdamW, moving average.

    ours           the trainer's step, packed rows
    ours_padded    the same, one clip a row as long as the longest clip
    torch          a plain PyTorch DiT on the packed rows: attention under a mask; flash
                   attention over the segments (`varlen_attn`) on a GPU in bfloat16
    torch_padded   the same, padded
    compiled       `torch`, through torch.compile

Each side runs in a process of its own, and the processes take turns, so that all have the
same neighbours; with --noturns one ends before the next begins, for models that fill the
memory. A side's time is the best of its rounds. `data tokens` are tokens of clips, never
padding. FLOPs are the model's (models/dit/flops.py), attention's those of the segments
alone, recomputation never counted. MFU is against the device's peak, on a CPU against the
rate of one large matrix product, measured in the same run.

PyTorch's sides need torch: in this environment, or in another's --torch_python.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
import numpy as np

from tests.benchmarks import step_clips, step_sides

_SIDES = ("ours", "ours_padded", "torch", "torch_padded", "compiled")

_WIDTH = flags.DEFINE_integer("width", 192, "Of the transformer.")
_DEPTH = flags.DEFINE_integer("depth", 3, "Of the transformer.")
_HEADS = flags.DEFINE_integer("heads", 4, "Of the transformer.")
_REMAT = flags.DEFINE_string("remat", "none", "Our config.dit.remat.")
_UNROLL = flags.DEFINE_integer("unroll", 3, "Our config.dit.unroll.")
_PATCH = flags.DEFINE_integer("patch_dim", 48, "Numbers of a patch.")
_TEXT = flags.DEFINE_integer("text_width", 64, "Of the captions' encodings.")
_TOKENS = flags.DEFINE_integer("text_tokens", 10, "Of a caption, on average.")
_ROWS = flags.DEFINE_integer("rows", 16, "Packed rows of a step.")
_LENGTH = flags.DEFINE_integer("row_length", 96, "Tokens of a row.")
_SEGMENTS = flags.DEFINE_integer("row_segments", 6, "Most clips of a row.")
_GRID = flags.DEFINE_list("grid", ["5", "4", "4"], "Largest clip: frames, rows, columns.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of the matrix products.")
_MESH = flags.DEFINE_string("mesh", "cpu:1", "Ours; torch takes CUDA where this is gpu.")
_THREADS = flags.DEFINE_integer("threads", os.cpu_count() or 1, "Of torch on a CPU.")
_ROUNDS = flags.DEFINE_integer("rounds", 6, "Measured rounds of each side.")
_STEPS = flags.DEFINE_integer("steps", 2, "Steps of a round.")
_TURNS = flags.DEFINE_bool("turns", True, "Sides take turns.")
_RUN = flags.DEFINE_list("sides", list(_SIDES), "What to measure.")
_TORCH = flags.DEFINE_string("torch_python", sys.executable, "A Python with torch.")
_JSON = flags.DEFINE_string("json", "", "Write the figures to this file, too.")
_WORKER = flags.DEFINE_string("worker", "", "For the processes that this one starts.")
_FOLDER = flags.DEFINE_string("folder", "", "For the processes that this one starts.")


def _settings() -> step_sides.Settings:
  return step_sides.Settings(
    width=_WIDTH.value,
    depth=_DEPTH.value,
    heads=_HEADS.value,
    remat=_REMAT.value,
    unroll=_UNROLL.value,
    patch_dim=_PATCH.value,
    text_width=_TEXT.value,
    dtype=_DTYPE.value,
    mesh=_MESH.value,
    threads=_THREADS.value,
  )


def _mix() -> step_clips.Mix:
  frames, rows, columns = map(int, _GRID.value)
  return step_clips.Mix(
    rows=_ROWS.value,
    row_length=_LENGTH.value,
    row_segments=_SEGMENTS.value,
    grid=(frames, rows, columns),
    patch_dim=_PATCH.value,
    text_width=_TEXT.value,
    text_tokens=_TOKENS.value,
  )


def _work() -> None:
  """Runs one side: facts when it is ready, then rounds as they are asked for."""
  side, folder = _WORKER.value, pathlib.Path(_FOLDER.value)
  layout = "padded" if side.endswith("_padded") else "packed"
  if side.startswith("ours"):
    step, facts = step_sides.ours(layout, folder, _settings())
  else:
    compiled = side == "compiled"
    step, facts = step_sides.theirs(layout, folder, _settings(), compiled)
  start = time.perf_counter()
  step()
  facts["first_seconds"] = time.perf_counter() - start
  step()
  print(json.dumps(facts), flush=True)
  for line in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(line)):
      step()
    print(json.dumps((time.perf_counter() - start) / int(line)), flush=True)


class _Side:
  """A process that steps when asked."""

  def __init__(self, name: str, folder: pathlib.Path):
    python = sys.executable if name.startswith("ours") else _TORCH.value
    given = [f for f in sys.argv[1:] if not f.startswith(("--sides", "--json"))]
    command = [python, "-m", "tests.benchmarks.step", *given]
    command += [f"--worker={name}", f"--folder={folder}"]
    env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    self.name, self.seconds = name, []
    self._process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    self.facts = self._read()

  def _read(self):
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f"{self.name} ended with status {self._process.wait()}")
    return json.loads(line)

  def round(self) -> None:
    """One round of steps, timed there."""
    self._process.stdin.write(f"{_STEPS.value}\n")
    self._process.stdin.flush()
    self.seconds.append(self._read())

  def end(self) -> None:
    """Lets the process end."""
    self._process.stdin.close()
    self._process.wait()


def _has_torch() -> bool:
  return not subprocess.call(
    [_TORCH.value, "-c", "import torch"], stderr=subprocess.DEVNULL
  )


def _measure(folder: pathlib.Path) -> list[_Side]:
  names = [name for name in _SIDES if name in _RUN.value]
  if any(not name.startswith("ours") for name in names) and not _has_torch():
    print("torch is not installed: name a Python that has it with --torch_python")
    names = [name for name in names if name.startswith("ours")]
  sides: list[_Side] = []
  for name in names:
    try:
      side = _Side(name, folder)
    except RuntimeError as error:
      print(f"{name}: left out ({error})")
      continue
    sides.append(side)
    if not _TURNS.value:
      for _ in range(_ROUNDS.value):
        side.round()
      side.end()
  if _TURNS.value:
    for _ in range(_ROUNDS.value):
      for side in sides:
        side.round()
    for side in sides:
      side.end()
  return sides


def _figures(clips: step_clips.Clips, flops: float, sides: list[_Side]) -> dict[str, Any]:
  peak = next((s.facts["peak"] for s in sides if s.facts.get("peak")), None)
  data_tokens = float(clips.tokens.sum())
  found = {}
  for side in sides:
    best = min(side.seconds)
    found[side.name] = side.facts | {
      "seconds": best,
      "median_seconds": float(np.median(side.seconds)),
      "tokens_per_second": data_tokens / best,
      "flops_per_second": flops / best,
      "mfu": flops / best / peak if peak else None,
    }
  rates = {name: side["tokens_per_second"] for name, side in found.items()}
  ratios: dict[str, float] = {}
  if mine := rates.get("ours"):
    ratios = {f"ours / {name}": mine / rates[name] for name in rates if name != "ours"}
    theirs = [rate for name, rate in rates.items() if not name.startswith("ours")]
    if theirs:
      ratios["ours / best of torch"] = mine / max(theirs)
  return {
    "settings": dataclasses.asdict(_settings()) | dataclasses.asdict(_mix()),
    "clips": len(clips.tokens),
    "data_tokens": data_tokens,
    "fill": clips.fill,
    "flops": flops,
    "peak_flops": peak,
    "sides": found,
    "ratios": ratios,
  }


def _show(figures: dict[str, Any]) -> None:
  print(
    f"{figures['clips']} clips, {figures['data_tokens']:,.0f} data tokens, fill"
    f" {figures['fill']['packed']:.1%} packed and {figures['fill']['padded']:.1%} padded,"
    f" {figures['flops'] / 1e9:,.1f} GFLOP a step"
  )
  for name, side in figures["sides"].items():
    print(
      f"{name:13} {side['seconds']:8.4f} s (median {side['median_seconds']:.4f})"
      f" {side['tokens_per_second']:10,.0f} data tokens/s"
      f" {side['flops_per_second'] / 1e12:7.3f} TFLOP/s"
      + (f"  MFU {side['mfu']:.1%}" if side["mfu"] else "")
      + (f"  prediction apart by {side['apart']:.0e}" if "apart" in side else "")
    )
  for name, ratio in figures["ratios"].items():
    print(f"{name:24} {ratio:.2f}")


def main(argv: list[str]) -> None:
  """Prints a line for each side, then the ratios."""
  del argv
  if _WORKER.value:
    _work()
    return
  with tempfile.TemporaryDirectory() as folder:
    clips = step_clips.write(_mix(), pathlib.Path(folder))
    sides = _measure(pathlib.Path(folder))
  flops = step_sides.flops(_settings(), clips.tokens, clips.words)
  figures = _figures(clips, flops, sides)
  _show(figures)
  if _JSON.value:
    text = json.dumps(figures, indent=2)
    pathlib.Path(_JSON.value).write_text(text + "\n")


if __name__ == "__main__":
  app.run(main)
