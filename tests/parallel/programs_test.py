"""Compiled programs on disk: where they are kept, and how many."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest

from video_dit.parallel import programs


@pytest.fixture
def settings(monkeypatch):
  """What is set, without setting it."""
  found = {}
  monkeypatch.setattr(jax.config, "update", found.__setitem__)
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  return found


def test_programs_are_kept_in_the_folder_or_where_the_environment_says(
  settings, monkeypatch, tmp_path
):
  programs.keep_in(tmp_path / "compiled")
  assert settings["jax_compilation_cache_dir"] == str(tmp_path / "compiled")
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/programs")
  programs.keep_in(tmp_path / "compiled")
  assert settings["jax_compilation_cache_dir"] == "gs://bucket/programs"


def test_nothing_is_kept_where_the_folder_is_set_to_nothing(
  settings, monkeypatch, tmp_path
):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
  programs.keep_in(tmp_path)
  assert settings == {"jax_enable_compilation_cache": False}


def test_without_a_folder_nothing_is_kept_unless_the_environment_names_one(
  settings, monkeypatch, caplog
):
  programs.keep_in(None)
  assert not settings
  assert "no home directory" in caplog.text and "COMPILATION_CACHE_DIR" in caplog.text
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/programs")
  programs.keep_in(None)
  assert settings["jax_compilation_cache_dir"] == "gs://bucket/programs"


_COMPILES = """
import pathlib, sys
import jax
from video_dit import config
from video_dit.parallel import mesh, programs
programs.keep_in(pathlib.Path(sys.argv[1]))
mesh.start(sys.argv[2], config.Mesh())
with programs.Watch() as watch:
  jax.jit(lambda x: x * 2 + 1)(jax.numpy.ones(8)).block_until_ready()
print(watch.found)
"""


def _found(folder: pathlib.Path, mesh: str = "cpu:1", threads: str = "") -> int:
  """Programs that another process finds in the folder."""
  inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
  settings = {
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PJRT_NPROC": threads,
  }
  done = subprocess.run(
    [sys.executable, "-c", _COMPILES, str(folder), mesh],
    cwd=pathlib.Path(__file__).parents[2],
    env=inherited | settings,
    capture_output=True,
    text=True,
    check=True,
  )
  return int(done.stdout)


def test_programs_are_found_where_the_folder_has_moved(tmp_path):
  assert _found(tmp_path / "here") == 0
  shutil.copytree(tmp_path / "here", tmp_path / "there")
  assert _found(tmp_path / "there") > 0


def test_devices_on_a_cpu_read_programs_only_with_threads_for_each_to_wait_in(tmp_path):
  assert _found(tmp_path, "cpu:2", "6") == 0
  assert _found(tmp_path, "cpu:2", "6") > 0
  assert _found(tmp_path, "cpu:2", "5") == 0
  assert _found(tmp_path, "cpu:2") == 0


def test_several_processes_on_a_cpu_read_no_programs(settings, monkeypatch):
  monkeypatch.setenv("PJRT_NPROC", "1000")
  programs.compile_anew_where_needed(jax.devices())
  assert not settings
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  programs.compile_anew_where_needed(jax.devices()[:1])
  assert not settings
  programs.compile_anew_where_needed(jax.devices())
  assert settings == {"jax_enable_compilation_cache": False}


def test_a_folder_that_the_user_names_is_left_alone(tmp_path, settings, monkeypatch):
  monkeypatch.setattr(programs, "_MOST_BYTES", 0)
  for folder in (tmp_path / "theirs", tmp_path / "ours"):
    folder.mkdir()
    (folder / "file").write_bytes(bytes(10))
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "theirs"))
  programs.keep_in(tmp_path / "ours")
  assert settings["jax_compilation_cache_dir"] == str(tmp_path / "theirs")
  assert (tmp_path / "theirs" / "file").exists() and (tmp_path / "ours" / "file").exists()
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  programs.keep_in(tmp_path / "ours")
  assert not (tmp_path / "ours" / "file").exists()


def test_the_programs_that_were_not_used_for_longest_are_removed(tmp_path):
  for age, name in enumerate("abcd"):
    (tmp_path / name).write_bytes(bytes(10))
    os.utime(tmp_path / name, (1000 - age, 10 * age))  # used, made
  (tmp_path / "xla").mkdir()  # of XLA's own, older than all
  os.utime(tmp_path / "xla", (1, 1))
  programs.prune(tmp_path, 25)
  (tmp_path / "xla").rmdir()
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
  programs.prune(tmp_path / "nowhere", 25)
