"""Config files: where `configs/X.py:preset` lies, and what it makes.

What is wrong with a file is a message with the file, the line and the mistake.
"""

import difflib
import importlib.machinery
import inspect
import pathlib
import re
import traceback
import types

# A link to the project's configs/, which an installed package holds as files.
_SHIPPED = pathlib.Path(__file__).resolve().parent.parent / "configs"


def load(name: str):
  """What get_config of `FILE.py[:preset]` makes: an `ml_collections.ConfigDict`, locked.

  `configs/X.py` is the one here, or else the one that comes with the package.

  Raises:
    ValueError: no such file, or what is wrong in it and where.
  """
  import ml_collections

  text, *preset = name.split(":", 1)
  path = _find(text)
  loader = importlib.machinery.SourceFileLoader(f"config_{path.stem}", str(path))
  module = types.ModuleType(loader.name)
  module.__file__ = str(path)
  try:
    loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
      raise ValueError(f"{path} defines no get_config(preset), which makes the config.")
    _check_call(path, get_config, preset)
    config = get_config(*preset)
  except ValueError:  # what the file itself refuses
    raise
  except Exception as error:
    raise ValueError(_explain(path, error)) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(
      f"{path}: get_config returns {type(config).__name__}, and must return the"
      " ConfigDict that config.template or config.load made."
    )
  return config.lock()


def _find(text: str) -> pathlib.Path:
  """The file that `text` names, here or among those of the package."""
  path = pathlib.Path(text)
  shipped = _SHIPPED / path.name if path.parts[:-1] == (_SHIPPED.name,) else path
  for found in (path, shipped):
    if found.is_file():
      return found
  names = [f"{_SHIPPED.name}/{file.name}" for file in sorted(_SHIPPED.glob("*.py"))]
  near = difflib.get_close_matches(text, names, n=1, cutoff=0.8)
  hint = f" Did you mean {near[0]}?" if near else ""
  raise ValueError(
    f"{text}: there is no such file in {pathlib.Path.cwd()}.{hint} Name a file of your"
    f" own by its path, or one that comes with video_dit: {', '.join(names)}."
  )


def _check_call(path: pathlib.Path, get_config, preset: list[str]) -> None:
  """Refuses a preset that get_config does not take, and none where it needs one."""
  try:
    inspect.signature(get_config).bind(*preset)
  except TypeError:
    remedy = f"Leave out :{preset[0]}" if preset else f"Name one, like {path}:PRESET"
    takes = "takes no preset" if preset else "needs a preset"
    raise ValueError(f"{path}: its get_config {takes}. {remedy}.") from None


def _explain(path: pathlib.Path, error: Exception) -> str:
  """Where a config file fails, and why."""
  if isinstance(error, SyntaxError) and error.filename == str(path):
    line = (error.text or "").strip()
    return f"{path}, line {error.lineno}, `{line}`: {error.msg}."
  frames = traceback.extract_tb(error.__traceback__)
  here = [frame for frame in frames if frame.filename == str(path)]
  where = f"{path}, line {here[-1].lineno}, `{here[-1].line}`" if here else str(path)
  return f"{where}: {_plain(error)}"


def _plain(error: Exception) -> str:
  """What was raised, and what ml_collections says of keys and types in plain words."""
  text = str(error.args[0]) if error.args else ""
  if kinds := re.search(r"field '(\w+)'.* type <class '(.+)'> .* <class '(.+)'>", text):
    return f"{kinds[1]!r} must be {kinds[3]}, but it is {kinds[2]}."
  if isinstance(error, (AttributeError, KeyError)):
    if near := re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text):
      return f"there is no key {near[2]!r}. Did you mean {near[1]!r}?"
    if key := re.search(r'Key "(\w+)" does not exist|^\W*(\w+)\W*$', text):
      return f"there is no key {key[1] or key[2]!r}."
  return f"{type(error).__name__}: {error}"
