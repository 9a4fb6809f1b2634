"""The flags that every command shares, and how a command is run.

A command's module docstring is its `--help`. A user's mistake ends with one message
and exit status 2, a full disk with 74, and another run in the same folder with 75;
`--debug` shows where it was raised. A message that a library wrote says so: it may be no
mistake of the user's.
"""

from collections.abc import Callable
import difflib
import errno
import logging as std_logging
import os
import pathlib
import re
import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags

from video_dit import config as config_lib
from video_dit import lock, saved_config, usage
from video_dit.parallel import hosts, programs
from video_dit.parallel import mesh as mesh_lib

FLAGS = flags.FLAGS

_reads_saved = False  # whether this command takes its config from --workdir


class _ConfigFile(flags.ArgumentParser):
  """Reads a config file; what is wrong with it is said when flags are parsed."""

  def parse(self, path):
    """The ConfigDict of `FILE.py[:preset]`."""
    return config_lib.load(path)


def define_config(*, saved: bool = False) -> None:
  """Defines --config; with `saved`, --workdir's own config stands in where none is given.

  Nothing is read before the flags are parsed.
  """
  global _reads_saved
  _reads_saved = saved
  config_flags.DEFINE_config_file("config", None, "configs/X.py[:preset]")
  FLAGS["config"].parser = _ConfigFile()


def define_mesh() -> None:
  """Defines --mesh, --distributed and --debug."""
  flags.DEFINE_string("mesh", "", "cpu:8 | gpu | tpu, then ,axis=size ...")
  flags.DEFINE_bool("distributed", None, "join the other hosts of this run first")
  flags.DEFINE_bool("debug", False, "show the traceback of a refused input")


def define_workdir(help_text: str = "folder of the run") -> None:
  """Defines --workdir."""
  flags.DEFINE_string("workdir", None, help_text)


def required(name: str, example: str) -> str:
  """The value of a required flag."""
  value = getattr(FLAGS, name)
  if not value:
    raise ValueError(f"--{name} is missing. Give it, like --{name}={example}.")
  return value


def path(name: str, example: str = "") -> str:
  """The path that a flag names, ~ expanded; with an example, the flag is required."""
  value = required(name, example) if example else getattr(FLAGS, name) or ""
  return os.path.expanduser(value)


def folder(name: str, example: str = "") -> str:
  """The folder that a flag names, existing or not; arguments as of `path`.

  Raises:
    ValueError: it is a file.
  """
  value = path(name, example)
  place = pathlib.Path(value)
  there = next((p for p in (place, *place.parents) if p.exists()), place)
  if there.exists() and not there.is_dir():
    raise ValueError(
      f"--{name}={getattr(FLAGS, name)}: {there} is a file. Name a folder."
    )
  return value


def config() -> config_lib.Config:
  """The config that --config names, with its overrides, checked.

  Raises:
    ValueError: the config is missing, or a value in it is wrong.
  """
  if FLAGS.config is None:
    raise ValueError("--config is missing. Give it, like --config=configs/demo.py.")
  return config_lib.parse(FLAGS.config)


def mesh(config: config_lib.Config, *, keep: bool = True) -> jax.sharding.Mesh:
  """Starts the devices that --mesh names, and lays the mesh over them."""
  hosts.join(FLAGS.distributed)
  return mesh_lib.start(FLAGS.mesh, config.mesh, keep=keep)


_STATUS_FULL = 74  # EX_IOERR of sysexits.h: with more room the command may succeed
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_TEXTS = (*map(os.strerror, _FULL), "disk is full")  # the last is SQLite's
_REMEDIES = {
  errno.EROFS: ". Choose a writable folder.",
  errno.EACCES: ". Give access to it, or choose another.",
  errno.ENOTDIR: ". Name a folder.",
  errno.EISDIR: ". Name a file.",
}


def run(
  main: Callable[[], None], doc: str | None, *, interrupted: str = "", again: str = ""
) -> None:
  """Runs a command: prints `doc` for --help, one message for a refused input.

  Args:
    main: the command.
    doc: its `--help`.
    interrupted: what the message after Ctrl-C adds to "stopped".
    again: what the same command does after it met a full disk.
  """
  if usage.is_wanted(sys.argv[1:]):
    print(usage.text(doc or ""))
    return

  def call(argv: list[str]) -> None:
    if len(argv) > 1:
      raise ValueError(f"{argv[1]!r} is not a flag. Flags start with --; see --help.")
    logging.set_verbosity(logging.WARNING)
    if not FLAGS.debug:
      logging.get_absl_logger().addFilter(_is_news)
    programs.keep_in(_cache())
    try:
      main()
    except SystemExit:  # with a status of its own, at the end of its work
      hosts.end_together()
      raise
    hosts.end_together()

  def guarded(argv: list[str]) -> None:
    try:
      call(argv)
    except KeyboardInterrupt as error:  # shown by `interrupt`
      raise KeyboardInterrupt(*filter(None, [interrupted])) from error
    except lock.Busy as error:
      print(f"error: {error}", file=sys.stderr)
      sys.exit(lock.STATUS)
    except (ValueError, OSError) as error:
      remedy: str | None = ""
      if not isinstance(error, (ValueError, FileNotFoundError, FileExistsError)):
        remedy = _REMEDIES.get(error.errno or 0)
        if error.errno in _FULL:
          remedy = f". Make room, and run the same command again{again and f': {again}'}."
      library = _raised_by_library(error)
      if library:
        error.add_note(
          f"This comes from {library}, not from a check of video_dit: an outage or a bug."
          " If the same command fails again and your input is right, please report it."
        )
      if FLAGS.debug or remedy is None or library:
        raise
      print(f"error: {error}{remedy}", file=sys.stderr)
      sys.exit(_STATUS_FULL if _met_full_disk(error) else 2)

  try:
    os.getcwd()
  except FileNotFoundError:
    print("error: the current folder was removed. Change to another.", file=sys.stderr)
    sys.exit(2)
  app.run(guarded, flags_parser=_parse)


def _is_news(record: std_logging.LogRecord) -> bool:
  """Whether to log it: each of Orbax's threads logs a full disk before it is raised."""
  return not record.exc_info or not _met_full_disk(record.exc_info[1])


def _met_full_disk(error: BaseException | None) -> bool:
  """Whether a full disk is what an error says, or what it came from says."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in _FULL:
      return True
    if any(text in str(error) for text in _FULL_TEXTS):
      return True
    error = error.__cause__
  return False


def _raised_by_library(error: BaseException) -> str:
  """The library that raised a ValueError, which no check of ours foresaw; or nothing.

  It need not be a mistake of the user, which would be made again at the next start:
  TensorStore, for one, raises it where a bucket does not answer.
  """
  trace = error.__traceback__
  while trace and trace.tb_next:
    trace = trace.tb_next
  module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
  library = module.split(".")[0]
  ours = not isinstance(error, ValueError) or library in ("video_dit", "__main__")
  return "" if ours else library


def _cache() -> pathlib.Path | None:
  """Where commands cache compiled programs; None without a home directory."""
  named = os.environ.get("XDG_CACHE_HOME", "")
  try:
    above = pathlib.Path(named) if os.path.isabs(named) else pathlib.Path("~/.cache")
    return above.expanduser() / "video_dit" / "jax"
  except RuntimeError:
    return None


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; what absl or ml_collections refuse becomes one message."""
  try:
    argv = _with_saved(argv)
    _check_overrides(argv)
    return FLAGS(argv, known_only=False)
  except flags.UnrecognizedFlagError as error:
    message = _explain_unknown(error.flagname)
  except (flags.Error, ValueError, OSError) as error:
    if "--debug" in argv:
      raise
    message = str(error)
  except (AttributeError, IndexError, KeyError, TypeError) as error:
    if "--debug" in argv:
      raise
    message = f"--config: {error.args[0] if error.args else error}"
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


def _check_overrides(argv: list[str]) -> None:
  """Refuses --config.a.b for a key that does not exist, if there is a config."""
  if not _peek(argv, "config"):
    return
  for word in argv[1:]:
    if found := re.match(r"--?(?:no)?config\.([\w.]+)", word):
      try:
        config_lib.check_key(found[1])
      except ValueError as error:
        raise ValueError(f"--{error}") from None


def _with_saved(argv: list[str]) -> list[str]:
  """The arguments, and --config for the one of --workdir where it is to stand in."""
  workdir = _peek(argv, "workdir")
  if not _reads_saved or not workdir or _peek(argv, "config"):
    return argv
  workdir = os.path.expanduser(workdir)
  saved_config.read(workdir)  # A ConfigDict's loader would bury what is wrong with it.
  return [argv[0], f"--config={saved_config.__file__}:{workdir}", *argv[1:]]


def _explain_unknown(name: str) -> str:
  if name.startswith("config."):
    source = "--workdir or --config" if _reads_saved else "--config"
    return f"--{name}: there is no config to override. Give {source} as well."
  near = difflib.get_close_matches(name, list(FLAGS), n=1, cutoff=0.5)
  hint = f" Did you mean --{near[0]}?" if near else ""
  return f"--{name}: there is no such flag.{hint} See --help."


def _peek(argv: list[str], name: str) -> str | None:
  """The value of one flag before flags are parsed."""
  value = None  # if a flag is given twice, the last one counts
  for i, word in enumerate(argv):
    found = re.fullmatch(rf"--?{name}=(.*)", word)
    if found:
      value = found[1]
    elif word in (f"--{name}", f"-{name}") and i + 1 < len(argv):
      value = argv[i + 1]
  return value
