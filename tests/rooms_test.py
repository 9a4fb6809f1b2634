"""The rooms: verbs import nouns, and nothing imports upwards."""

import ast
from collections.abc import Iterator
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "video_dit"
VERBS = {"preprocess", "train", "sample", "evaluate", "convert", "plan"}
NOUNS = {
  *("media", "data", "models", "diffusion", "parallel", "trainer"),
  *("checkpoints", "generator", "interop", "report"),
}
# Of the commands: they tie flags to verbs.
COMMANDS = {"main", "flags", "saved_config"}
FOREIGN = {"tensorflow", "torch"}


def _imports(path: pathlib.Path) -> Iterator[str]:
  """Dotted names of all modules that a file imports, inside functions too."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: imports are absolute here"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _rooms(path: pathlib.Path) -> set[str]:
  """Rooms and top-level modules of the package that a file imports from."""
  names = [name.split(".") for name in _imports(path)]
  return {name[1] for name in names if name[0] == "video_dit" and len(name) > 1}


def _files(room: str) -> list[pathlib.Path]:
  return sorted((PACKAGE / room).rglob("*.py"))


def test_every_folder_is_a_verb_or_a_noun():
  folders = {p.name for p in PACKAGE.iterdir() if any(p.rglob("*.py")) and p.is_dir()}
  assert folders == VERBS | NOUNS | {"config", "configs"}


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_a_noun_imports_no_verb(noun):
  wrong = {p.name: _rooms(p) & (VERBS | COMMANDS) for p in _files(noun)}
  assert not any(wrong.values()), wrong


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verb_imports_no_other_verb(verb):
  wrong = {p.name: _rooms(p) & (VERBS - {verb}) for p in _files(verb)}
  assert not any(wrong.values()), wrong
  inner = [p for p in _files(verb) if p.name != "__main__.py"]
  wrong = {p.name: _rooms(p) & COMMANDS for p in inner}
  assert not any(wrong.values()), wrong


def test_the_config_stands_below_everything():
  assert not any(_rooms(p) - {"config"} for p in _files("config"))


def test_no_other_framework_is_imported():
  for path in PACKAGE.rglob("*.py"):
    roots = {name.split(".")[0] for name in _imports(path)}
    assert not roots & FOREIGN, path
