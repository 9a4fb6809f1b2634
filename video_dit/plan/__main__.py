r"""Plans a run on chips that need not be present: memory, time and cost.

  python -m video_dit.plan --config=configs/xl.py --topology=v5p:4x4x4
  python -m video_dit.plan --config=configs/xl.py --topology=gpu:h100x64 --price=2.5
  python -m video_dit.plan --config=configs/demo.py --topology=cpu:8 --json=plan.json
  python -m video_dit.plan --config=configs/xl.py --topology=v5p:2x2x2 --search

Compiles the real training step, the sampler and the encoders for the topology, with
abstract arrays and no weights. TPUs and GPUs need the extra `plan`
(pip install -c constraints.txt -e '.[plan]'); without it GPUs are planned by formula. How
the seconds are estimated: docs/performance.md.

Flags:
  --config=configs/X.py[:preset]  what to plan; --config.a.b=value overrides a leaf
  --topology=v5p:4x4x4            of v4, v5p, 7x; v6e:2x4 of v5e, v6e; gpu:h100x64; cpu:8
  --mesh=fsdp=8,context=2         mesh axes; data takes the rest
  --clips=1280,4096               tokens of the clips in a row [one clip a row]
  --price=4.2                     price of a chip-hour, for the cost
  --stages=train,sample,encode    which programs [all; train for a search]
  --json=FILE                     writes the figures
  --search                        tries meshes, remat policies and block sizes, ranks them
  --tries=12                      the most plans of a search
"""

import json
import math
import pathlib
import sys

from absl import flags as absl_flags

from video_dit import files, flags
from video_dit.parallel import mesh as mesh_lib
from video_dit.plan import chips, devices, encoders, run, search, show

flags.define_config()
flags.define_mesh()
absl_flags.DEFINE_string("topology", None, "v5p:4x4x4, gpu:h100x64 or cpu:8")
absl_flags.DEFINE_string("clips", "", "tokens of the clips in a row")
absl_flags.DEFINE_float("price", None, "price of a chip-hour")
absl_flags.DEFINE_string("stages", "", "train,sample,encode")
absl_flags.DEFINE_string("json", None, "file that the figures are written to")
absl_flags.DEFINE_bool("search", False, "try meshes, remat policies and block sizes")
absl_flags.DEFINE_integer("tries", 12, "the most plans of a search")


def main() -> None:
  """Flags to a request, to a plan, to text and JSON."""
  topology = chips.parse(flags.required("topology", "v5p:4x4x4"))
  values = flags.FLAGS
  spec = mesh_lib.parse(values.mesh)
  if spec.platform:
    raise ValueError(
      f"--mesh={values.mesh}: the devices are the topology's. Give only axes, like"
      " --mesh=fsdp=8."
    )
  if values.price is not None and not 0 <= values.price < math.inf:
    raise ValueError(f"--price={values.price}: must be a number, and not negative.")
  if values.tries < 1:
    raise ValueError(f"--tries={values.tries}: must be above 0.")
  stages = _stages(values.stages, ("train",) if values.search else run.STAGES)
  if values.search and stages != ("train",):
    raise ValueError(
      f"--stages={values.stages}: a search plans the training step. Leave --stages or"
      " --search out."
    )
  path = _json_path(flags.path("json"))
  config = encoders.resolved(flags.config())
  devices.start(topology)
  request = run.Request(
    config=config,
    topology=topology,
    axes=spec.axes,
    clips=_clips(values.clips),
    price=values.price,
    stages=stages,
  )
  if values.search:
    found = search.search(request, values.tries, _say)
    text = "\n".join(show.ranking(found))
    figures = {"ranked": found}
  else:
    figures = run.plan(request, _say)
    text = "\n".join(show.lines(figures))
  print(text)
  if path:
    files.write(path, json.dumps(figures, indent=2) + "\n")


def _json_path(name: str) -> pathlib.Path | None:
  """Refuses, before anything is compiled, a file that cannot be written."""
  if not name:
    return None
  path = pathlib.Path(name)
  if not path.parent.is_dir() or path.is_dir():
    raise ValueError(f"--json={name}: {path.parent} is not a folder, or {path} is one.")
  files.check_writable(path.parent)
  return path


def _clips(text: str) -> tuple[int, ...]:
  parts = [part for part in text.split(",") if part]
  for part in parts:
    if not part.isdecimal() or int(part) == 0:
      raise ValueError(
        f"--clips={text}: {part!r} is not a number of tokens. Write it like 4096."
      )
  return tuple(map(int, parts))


def _stages(text: str, default: tuple[str, ...]) -> tuple[str, ...]:
  stages = tuple(part for part in text.split(",") if part) or default
  for stage in stages:
    if stage not in run.STAGES:
      raise ValueError(
        f"--stages={text}: {stage!r} is not a stage. Stages: {', '.join(run.STAGES)}."
      )
  return stages


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
  flags.run(main, __doc__, again="it compiles all anew")
