"""The launch files, with stand-ins for the commands of a cloud and of a cluster."""

import importlib.metadata
import math
import os
import pathlib
import re
import shutil
import subprocess

from packaging.requirements import Requirement
import pytest
import yaml

from video_dit import config as config_lib
from video_dit.parallel import mesh as mesh_lib
from video_dit.plan import checks

_LAUNCH = pathlib.Path(__file__).resolve().parent.parent / "launch"
# What a TPU is: there or not, with an environment or not, and how often that fails.
_GCLOUD = """#!/bin/bash
echo "$*" | head -n 1 >> log
case "$*" in
  *" describe "*) [ -e made ] && echo READY || { echo NOT_FOUND >&2; false; } ;;
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
    own = {"PATH": path, "TMPDIR": str(tmp_path / "tmp"), "VENV": "", **variables}
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


@pytest.mark.parametrize(
  ("answer", "creations"),
  [
    ("echo UNAVAILABLE >&2; false", 0),  # for a while it has none
    ("echo REPAIRING", 0),
    ("echo PREEMPTED", 2),  # of which the first is short of capacity
    # One whose making was answered with an error is there after all.
    ("echo NOT_FOUND >&2; false", 1),
  ],
)
def test_a_tpu_is_made_anew_only_where_it_is_gone(answer, creations, call, tmp_path):
  for name in ("made", "env", "installed"):
    (tmp_path / name).touch()
  first = f'*" describe "*) if [ ! -e asked ]; then touch asked; {answer}; exit; fi\n'
  gcloud = _GCLOUD.replace('*" describe "*)', first, 1)
  # The first start is cut off.
  cut = "*video_dit.main*) if [ ! -e cut ]; then touch cut; exit 255; fi; "
  gcloud = gcloud.replace("*video_dit.main*)", cut, 1)
  done = call(
    *("tpu_vm.sh", "train", "--workdir=/mnt/share/x"),
    commands={"gcloud": gcloud, "sleep": "#!/bin/bash\n"},
    FAILURES="0",
  )
  assert done.returncode == 0, done.stderr
  log = (tmp_path / "log").read_text()
  assert log.count("tpu-vm create") == creations
  assert log.count("tpu-vm delete") == (answer == "echo PREEMPTED")


def test_an_environment_that_cannot_be_installed_ends_it(call, tmp_path):
  done = _on_tpu(call, "train", failures=100)
  assert done.returncode == 1
  assert "five times in a row the environment was not installed" in done.stderr
  (tmp_path / "creations").write_text("\n")
  assert _on_tpu(call, "create", failures=100).returncode != 0


@pytest.mark.parametrize("with_git", [True, False])
def test_a_tpu_is_sent_the_project_without_its_data(with_git, call, tmp_path):
  shutil.copy(_LAUNCH.parent / ".gitignore", tmp_path)
  for folder in ("configs", "clips", "data", "runs", ".venv-3.12"):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "file").touch()
  if with_git:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
  # A TPU that is made keeps what it is sent.
  copy = 'case "$*" in *" scp "*) tar -tzf "$5" > sent ;; esac\n'
  done = call("tpu_vm.sh", "create", commands={"gcloud": f"#!/bin/bash\n{copy}"})
  assert done.returncode == 0, done.stderr
  lines = (tmp_path / "sent").read_text().splitlines()
  sent = {line.removeprefix("./") for line in lines}
  assert {"configs/file", "launch/tpu_vm.sh"} <= sent
  assert not [n for n in sent if n.startswith(("clips", "data", "runs", ".venv"))]


def test_an_image_holds_nothing_that_git_leaves_out():
  def names(path: pathlib.Path) -> set[str]:
    lines = [line for line in path.read_text().splitlines() if line[:1] != "#"]
    return {line.strip("/").removeprefix("**/") for line in lines}

  ignored = names(_LAUNCH.parent / ".gitignore")
  left_out = names(_LAUNCH / "Dockerfile.dockerignore")
  assert {n for n in ignored if not n.endswith("_cache")} < left_out


@pytest.mark.parametrize(("cores", "given"), [("8", ["--cpus-per-task=8"]), ("", [])])
def test_slurm_hands_each_task_its_cores(cores, given, call, tmp_path):
  srun = (
    '#!/bin/bash\nprintf "%s\\n" "$@" > arguments; touch run/finished.json\nenv > env\n'
  )
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
  assert told == ["--kill-on-bad-exit=0", "--wait=120", *given, *program]
  # jaxlib refuses it beside the name that the program sets.
  assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in (tmp_path / "env").read_text()


@pytest.mark.parametrize("made", [{"3.11": "dev", "3.12": "gpu", "3.13": "run"}, {}])
def test_slurm_takes_the_environment_for_gpus(made, call, tmp_path):
  for version, purpose in made.items():
    (tmp_path / f".venv-{version}").mkdir()
    (tmp_path / f".venv-{version}" / "installed.txt").write_text(f"x\nto {purpose}\n")
  srun = '#!/bin/bash\nprintf "%s\\n" "$@" > arguments; touch run/finished.json\n'
  done = call(
    *("slurm.sh", "--workdir=run"),
    commands={"srun": srun},
    SLURM_SUBMIT_DIR=str(tmp_path),
    PYTHON="",
  )
  if made:
    assert done.returncode == 0, done.stderr
    assert ".venv-3.12/bin/python" in (tmp_path / "arguments").read_text().split()
  else:
    assert done.returncode == 2 and "Run launch/setup.sh gpu there" in done.stderr


_REQUEUE = '#!/bin/bash\nprintf "%s\\n" "$@" > requeued\n'


def _on_slurm(call, folder: pathlib.Path, status: int, restarts: int = 0):
  """A job whose program ends with this status, and whether it is queued again."""
  (folder / "requeued").unlink(missing_ok=True)
  done = call(
    *("slurm.sh", "--workdir=run"),
    commands={"srun": f"#!/bin/bash\nexit {status}\n", "scontrol": _REQUEUE},
    SLURM_SUBMIT_DIR=str(folder),
    SLURM_JOB_ID="17",
    PYTHON="python",
    **({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}),
  )
  return done, (folder / "requeued").exists()


# A bug, an abort by JAX's coordinator, the kernel's where memory is short.
@pytest.mark.parametrize("status", [0, 75, 1, 134, 137])
def test_slurm_starts_again_what_is_not_over(status, call, tmp_path):
  done, again = _on_slurm(call, tmp_path, status)
  assert again and done.returncode == 0, done.stderr


@pytest.mark.parametrize("finished", [False, True])
def test_slurm_does_not_start_a_mistake_again(finished, call, tmp_path):
  (tmp_path / "run").mkdir()
  if finished:  # by an earlier job of fewer steps
    (tmp_path / "run" / "finished.json").touch()
  done, again = _on_slurm(call, tmp_path, 2)
  assert done.returncode == 2 and not again


def test_ten_starts_without_a_new_checkpoint_are_the_last(call, tmp_path):
  checkpoints = tmp_path / "run" / "checkpoints"
  for restarts in range(12):
    if restarts == 2:  # of two starts before, which do not count from then on
      (checkpoints / "300").mkdir(parents=True)
      (checkpoints / "600.orbax-checkpoint-tmp").mkdir()
    done, again = _on_slurm(call, tmp_path, 134, restarts)
    assert again, done.stderr
  done, again = _on_slurm(call, tmp_path, 134, 12)
  assert done.returncode == 2 and not again
  assert "run: ten starts from step 300 brought no new checkpoint" in done.stderr
  # One that is submitted anew begins to count anew.
  assert _on_slurm(call, tmp_path, 134)[1]


def test_a_crash_on_a_tpu_is_tried_ten_times(call, tmp_path):
  # The VM's shell, of which all is there but the program.
  vm = f'''*video_dit.main*)
    while [ "${{1#--command=}}" = "$1" ]; do shift; done
    ln -sfn "{tmp_path}" video_dit
    mkdir -p .venv/bin && printf '#!/bin/bash\\nexit 134\\n' > .venv/bin/python
    chmod +x .venv/bin/python; echo >> runs
    bash -c "${{1#--command=}}" ;;
  *"test -e video_dit/refused"*) [ -e refused ] ;;
'''
  gcloud = _GCLOUD.replace("*video_dit.main*)", vm + "  never)", 1)
  (tmp_path / "made").touch()
  (tmp_path / "installed").touch()
  done = call(
    *("tpu_vm.sh", "train", f"--workdir={tmp_path / 'run'}"),
    commands={"gcloud": gcloud, "sleep": "#!/bin/bash\n"},
    FAILURES="0",
  )
  assert done.returncode == 2, done.stderr
  assert "ten starts from step 0 brought no new checkpoint" in done.stderr
  assert len((tmp_path / "runs").read_text()) == 11


@pytest.mark.parametrize(
  ("status", "finished", "ends"),
  [(0, True, 0), (0, False, 1), (2, False, 2), (2, True, 2), (134, False, 134)],
)
def test_a_pod_fails_where_the_set_is_to_start_anew(status, finished, ends, tmp_path):
  spec = yaml.safe_load((_LAUNCH / "gke.yaml").read_text())["spec"]
  job = spec["replicatedJobs"][0]["template"]["spec"]
  (container,) = job["template"]["spec"]["containers"]
  workdir = tmp_path / "run"
  workdir.mkdir()
  if finished:
    (workdir / "finished.json").touch()
  command = [
    part.replace("/mnt/share/runs/xl", str(workdir)) for part in container["command"]
  ]
  (tmp_path / "python").write_text(f"#!/bin/bash\nexit {status}\n")
  (tmp_path / "python").chmod(0o755)
  path = f"{tmp_path}:{os.environ['PATH']}"
  env = os.environ | {"PATH": path, container["env"][0]["name"]: "3"}
  done = subprocess.run(command, cwd=_LAUNCH.parent, env=env, timeout=60)
  assert done.returncode == ends
  assert (workdir / "starts").read_text() == "start 3 from step 0\n"
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule["onExitCodes"]["values"] == [2]


# An interpreter whose environments are itself, and which only notes what it installs.
_PYTHON = """#!/bin/bash
case "$*" in
  *"-m venv"*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  *"-m pip install"*) echo "${@: -1}" >> installed ;;
  "-c "?*) echo 3.12 ;;
  *pip*) [ -e installed ] ;;
esac
"""


def test_an_environment_for_an_accelerator_serves_to_run_as_well(call, tmp_path):
  for name in ("setup.cfg", "constraints.txt"):
    shutil.copy(_LAUNCH.parent / name, tmp_path)

  def setup(purpose: str) -> list[str]:
    """What is installed for a purpose."""
    (tmp_path / "installed").unlink(missing_ok=True)
    python = str(tmp_path / "bin" / "python3.12")
    done = call("setup.sh", purpose, commands={"python3.12": _PYTHON}, PYTHON=python)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"source {tmp_path}/.venv-3.12/bin/activate\n")
    log = tmp_path / "installed"
    return log.read_text().splitlines() if log.exists() else []

  for name in ("gpu", "tpu"):
    assert setup(name) == [f"{tmp_path}[{name}]"]
    assert setup(name) == setup("run") == []


def test_the_library_for_tpus_is_pinned_where_jax_lets_it():
  lines = (_LAUNCH.parent / "constraints.txt").read_text().splitlines()
  pins = [Requirement(line) for line in lines if line.startswith("libtpu")]
  (pin,) = (pin for pin in pins if pin.marker is None or pin.marker.evaluate())
  asked = map(Requirement, importlib.metadata.requires("jax") or [])
  (wanted,) = (asks for asks in asked if asks.name == "libtpu")
  assert [specifier.version for specifier in pin.specifier if specifier.operator == "=="]
  assert all(wanted.specifier.contains(each.version) for each in pin.specifier)


_ROOT = _LAUNCH.parent
_PAGES = [
  *sorted(path for path in _LAUNCH.iterdir() if path.suffix in (".sh", ".yaml")),
  *(_ROOT / "README.md", _ROOT / "video_dit" / "main.py"),
  *sorted((_ROOT / "docs").glob("*.md")),
]


def _trainings(path: pathlib.Path) -> list[list[str]]:
  """Arguments of each training that a page shows with its config and axes of a mesh."""
  text = re.sub(r"\\\n[#\s]*", " ", path.read_text())
  starts = r"video_dit\.main|slurm\.sh|tpu_vm\.sh train"
  found = re.findall(rf"(?:{starts}) +(--.*)", text)
  words = [re.findall(r"--[\w.]+=[^\s$]+", arguments) for arguments in found]
  return [w for w in words if any("fsdp=" in a for a in w) and w[0][:9] == "--config="]


@pytest.mark.parametrize("path", _PAGES, ids=lambda path: path.name)
def test_trainings_that_are_shown_would_start(path, monkeypatch):
  monkeypatch.chdir(_ROOT)
  for arguments in _trainings(path):
    given = dict(argument[2:].split("=", 1) for argument in arguments)
    tree = config_lib.load(given.pop("config"))
    spec = mesh_lib.parse(given["mesh"])
    for key, value in given.items():
      if key.startswith("config."):
        _, section, name = key.split(".")
        tree[section][name] = yaml.safe_load(value)
    config = config_lib.parse(tree)
    devices = spec.devices or math.prod(spec.axes.values())
    sizes = mesh_lib.sizes(devices, spec.axes, config.mesh, given["mesh"])
    axes = dict(zip(mesh_lib.AXES, sizes, strict=True))
    checks.parameters(config, checks.abstract_mesh(axes))


def test_launch_files_and_pages_show_trainings():
  shown = {path.name for path in _PAGES if _trainings(path)}
  assert shown >= {"gke.yaml", "slurm.sh", "tpu_vm.sh", "README.md", "launch.md"}
