"""A profile of a few steps: what host and devices did, for xprof or Perfetto.

    --profile=10:15    from the start of step 10 to the end of step 15

Before the first of them, and after the last, the devices are waited for, so that the
trace holds these steps whole and no others. Traced steps are slower than others by what
tracing costs; the log's rate leaves out only the start and the end of the trace.
"""

import contextlib
import dataclasses
import pathlib
import re

import jax

from video_dit.parallel import hosts

FOLDER = "profile"
_MOST = 100  # steps; a trace grows by megabytes with each


@dataclasses.dataclass(frozen=True)
class Steps:
  """The steps that are traced, counted from 1, both included."""

  first: int
  last: int


def parse(text: str, steps: int) -> Steps | None:
  """Reads `10:15`; nothing where the flag is empty.

  Args:
    text: the --profile flag.
    steps: of the run, `config.train.steps`.

  Raises:
    ValueError: not a range, or one that is empty, beyond the run or too long.
  """
  if not text:
    return None
  found = re.fullmatch(r"(\d+):(\d+)", text)
  if not found:
    raise ValueError(
      f"--profile={text}: is not a range of steps. Give the first and last step, like"
      " --profile=10:15."
    )
  first, last = int(found[1]), int(found[2])
  if first < 1 or last < first:
    raise ValueError(
      f"--profile={text}: steps count from 1, and the last must not be before the"
      " first. Give a range like --profile=10:15."
    )
  if last > steps:
    raise ValueError(
      f"--profile={text}: the run ends at step {steps} (config.train.steps)."
      " Choose steps up to it."
    )
  if last - first >= _MOST:
    raise ValueError(
      f"--profile={text}: {last - first + 1} steps are too many for one trace; the"
      f" limit is {_MOST}. A few are enough."
    )
  return Steps(first, last)


class Profile:
  """Traces some steps of a run into its workdir.

  Args:
    steps: which; None traces nothing.
    workdir: of the run; the trace lies in `profile/plugins/profile/steps_10_15/`, where
      xprof and TensorBoard look for it.
    start: step that the run continues from, with the command that it was started with:
      a message says that steps up to it are not traced.
  """

  def __init__(self, steps: Steps | None, workdir: pathlib.Path, start: int):
    if steps and steps.first <= start:
      left = Steps(start + 1, steps.last) if start < steps.last else None
      traced = f"only {left.first}:{left.last} is" if left else "nothing is"
      hosts.say(
        f"--profile={steps.first}:{steps.last}: {traced} traced, as the run continues"
        f" from step {start}"
      )
      steps = left
    self._steps, self._running = steps, False
    self.folder = workdir / FOLDER

  def begins(self, step: int) -> bool:
    """Whether the trace is to start before `step`."""
    return self._steps is not None and step == self._steps.first

  def ends(self, step: int) -> bool:
    """Whether the trace is to stop after `step`."""
    return self._running and self._steps is not None and step == self._steps.last

  def start(self) -> None:
    """Starts the trace; the steps before must be done."""
    assert self._steps is not None
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python's own calls would bury ours
    options.session_id = f"steps_{self._steps.first}_{self._steps.last}"
    # Hosts that share the workdir share the folder, which xprof reads as one profile;
    # jax makes a file for Perfetto where it finds one host's trace.
    alone = jax.process_count() == 1
    self.folder.mkdir(parents=True, exist_ok=True)
    jax.profiler.start_trace(
      self.folder, create_perfetto_trace=alone, profiler_options=options
    )
    self._running = True

  def stop(self) -> None:
    """Stops the trace and writes it; the last step must be done."""
    if self._running:
      self._running = False
      jax.profiler.stop_trace()

  def __enter__(self) -> "Profile":
    return self

  def __exit__(self, *_) -> None:
    with contextlib.suppress(RuntimeError):  # a run that ends early keeps what it has
      self.stop()


def step_name(step: int) -> jax.profiler.StepTraceAnnotation:
  """Names what the host does of one step; profilers group the devices' work by it."""
  return jax.profiler.StepTraceAnnotation("train", step_num=step)
