"""The launch files, with stand-ins for the commands of a cloud and of a cluster."""

import os
import pathlib
import shutil
import subprocess

import pytest

_LAUNCH = pathlib.Path(__file__).resolve().parent.parent / "launch"
# What a TPU is: there or not, with an environment or not, and how often that fails.
_GCLOUD = """#!/bin/bash
echo "$*" | head -n 1 >> log
case "$*" in
  *" describe "*) [ -e made ] && echo READY ;;
  *" create "*) echo >> creations; [ "$(wc -l < creations)" -gt 1 ] && touch made ;;
  *" delete "*) rm -f made ;;
  *"uv venv"*) echo >> installs; [ "$(wc -l < installs)" -gt "$FAILURES" ] && touch env ;;
  *"touch video_dit/.installed"*) touch installed ;;
  *"test -e video_dit/.installed"*) [ -e installed ] ;;
  *video_dit.main*) [ -e made ] && [ -e env ] && touch finished ;;
  *finished.json*) [ -e finished ] ;;
  *"test -e video_dit/refused"*) exit 1 ;;
esac
"""


@pytest.fixture
def call(tmp_path):
  """Runs a launch file in a folder of its own, with stand-ins of these texts."""
  shutil.copytree(_LAUNCH, tmp_path / "launch")
  (tmp_path / "bin").mkdir()
  (tmp_path / "tmp").mkdir()

  def run(name: str, *arguments: str, commands: dict[str, str], **variables: str):
    for command, text in commands.items():
      (tmp_path / "bin" / command).write_text(text)
      (tmp_path / "bin" / command).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    own = {"PATH": path, "TMPDIR": str(tmp_path / "tmp"), **variables}
    return subprocess.run(
      ["bash", str(tmp_path / "launch" / name), *arguments],
      capture_output=True,
      text=True,
      env=os.environ | own,
      cwd=tmp_path,
      timeout=60,
    )

  return run


def _on_tpu(call, verb: str, failures: int):
  stand_ins = {"gcloud": _GCLOUD, "sleep": "#!/bin/bash\n"}
  arguments = ["--workdir=/mnt/share/x"] if verb == "train" else []
  variables = {"FAILURES": str(failures), "DISK": "a:/b"}
  return call("tpu_vm.sh", verb, *arguments, commands=stand_ins, **variables)


def test_what_fails_while_a_tpu_is_made_is_tried_again(call, tmp_path):
  done = _on_tpu(call, "train", failures=2)
  assert done.returncode == 0, done.stderr
  log = (tmp_path / "log").read_text().splitlines()
  # No capacity at first; then one TPU, on which the installation fails twice.
  assert sum("tpu-vm create" in line for line in log) == 2
  assert len((tmp_path / "installs").read_text()) == 3
  assert not list((tmp_path / "tmp").iterdir())


def test_an_environment_that_cannot_be_installed_ends_it(call, tmp_path):
  done = _on_tpu(call, "train", failures=100)
  assert done.returncode == 1
  assert "five times in a row the environment was not installed" in done.stderr
  (tmp_path / "creations").write_text("\n")
  assert _on_tpu(call, "create", failures=100).returncode != 0


@pytest.mark.parametrize(("cores", "given"), [("8", ["--cpus-per-task=8"]), ("", [])])
def test_slurm_hands_each_task_its_cores(cores, given, call, tmp_path):
  srun = '#!/bin/bash\nprintf "%s\\n" "$@" > arguments; touch run/finished.json\n'
  (tmp_path / "run").mkdir()
  done = call(
    *("slurm.sh", "--workdir=run"),
    commands={"srun": srun},
    SLURM_SUBMIT_DIR=str(tmp_path),
    PYTHON="python",
    **({"SLURM_CPUS_PER_TASK": cores} if cores else {}),
  )
  assert done.returncode == 0, done.stderr
  told = (tmp_path / "arguments").read_text().split()
  program = "python -m video_dit.main --workdir=run".split()
  assert told == ["--kill-on-bad-exit=1", *given, *program]


@pytest.mark.parametrize(("status", "again"), [(0, True), (75, True), (2, False)])
def test_slurm_starts_again_what_is_not_over_and_no_mistake(
  status, again, call, tmp_path
):
  requeue = '#!/bin/bash\nprintf "%s\\n" "$@" > requeued\n'
  done = call(
    *("slurm.sh", "--workdir=run"),
    commands={"srun": f"#!/bin/bash\nexit {status}\n", "scontrol": requeue},
    SLURM_SUBMIT_DIR=str(tmp_path),
    SLURM_JOB_ID="17",
    PYTHON="python",
  )
  assert (tmp_path / "requeued").exists() == again, done.stderr
  assert done.returncode == (0 if again else 2)
