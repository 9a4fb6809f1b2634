"""`--help` of a command, from its source: none of its imports is waited for.

A command's module docstring is its help; what holds for all of them is added here.
"""

import ast
from collections.abc import Sequence
import pathlib
import sys

_FLAGS = {"--help", "-h", "-help", "--helpshort", "--helpfull"}
_OF_ALL = """\
--debug shows where a refused input or a full disk was met. Exit status: 0 done, 2 refused
input, 74 no room on the disk, 75 another run is using the folder, 1 anything else."""


def is_wanted(arguments: Sequence[str]) -> bool:
  """Whether the arguments of a command ask for its help."""
  return bool(_FLAGS & set(arguments))


def text(doc: str) -> str:
  """The help of a command with this docstring."""
  return f"{doc.strip()}\n\n{_OF_ALL}"


def answer(module: str, arguments: Sequence[str]) -> None:
  """Prints the help of a command and exits, where its arguments ask for it.

  Args:
    module: `video_dit.NAME`, as `python -m` was told.
    arguments: of the command.
  """
  place = pathlib.Path(__file__).parent.joinpath(*module.split(".")[1:])
  for path in (place / "__main__.py", place.with_suffix(".py")):
    if is_wanted(arguments) and path.is_file():
      doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
      if doc and "Flags:" in doc:
        print(text(doc))
        sys.exit(0)
