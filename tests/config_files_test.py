"""Config files: found here or in the package, and wrong ones named with their line."""

import pytest

from video_dit import config

_HEAD = "from video_dit import config\n\ndef get_config(preset=''):\n"
_LOADED = f"{_HEAD}  c = config.load('configs/b.py')\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Writes a config file into a folder that is not the project's, and is in it."""
  monkeypatch.chdir(tmp_path)

  def file(text: str) -> str:
    (tmp_path / "mine.py").write_text(text)
    return "mine.py"

  return file


def test_a_config_of_the_package_is_found_from_anywhere_and_built_upon(write):
  mine = write(f"{_LOADED}  c.name = preset\n  c.dit.depth = 3\n  return c\n")
  changed = config.parse(config.load(f"{mine}:deep"))
  assert (changed.name, changed.dit.depth) == ("deep", 3)
  assert changed.dit.width == config.parse(config.load("configs/b.py")).dit.width


def test_a_file_here_comes_before_that_of_the_package(write, tmp_path):
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "b.py").write_text(
    f"{_HEAD}  return config.template(name='ours', objective='diffusion')\n"
  )
  assert config.load("configs/b.py").name == "ours"


@pytest.mark.parametrize(
  ("text", "said"),
  [
    (f"{_HEAD}  c = (1\n", ["mine.py, line 4, `c = (1`", "never closed"]),
    (
      f"{_LOADED}  c.dit.width = '3'\n",
      ["mine.py, line 5, `c.dit.width = '3'`", "'width' must be int, but it is str"],
    ),
    (f"{_LOADED}  c.dit.widht = 3\n", ["line 5", "'widht'. Did you mean 'width'?"]),
    (f"{_LOADED}  c.zebra.width = 3\n", ["line 5", "there is no key 'zebra'"]),
    (f"{_LOADED}  c.zebra = 3\n", ["line 5", "there is no key 'zebra'."]),
    (f"{_LOADED}  c.dit.width = w\n", ["line 5", "NameError: name 'w' is not defined"]),
    ("import nowhere\n", ["line 1", "No module named 'nowhere'"]),
    ("x = 1\n", ["mine.py defines no get_config(preset)"]),
    (f"{_LOADED}", ["mine.py: get_config returns NoneType"]),
  ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(text, said, write):
  with pytest.raises(ValueError) as refused:
    config.load(write(text))
  for part in said:
    assert part in str(refused.value)


@pytest.mark.parametrize(
  ("arguments", "name", "said"),
  [
    ("", "mine.py:foo", "takes no preset. Leave out :foo."),
    ("preset", "mine.py", "needs a preset. Name one, like mine.py:PRESET."),
  ],
)
def test_a_preset_is_given_where_one_is_taken(arguments, name, said, write):
  write(f"def get_config({arguments}):\n  pass\n")
  with pytest.raises(ValueError, match=f"mine.py: its get_config {said}"):
    config.load(name)


def test_a_file_that_is_not_there_names_those_of_the_package(write):
  with pytest.raises(ValueError, match="there is no such file in ") as refused:
    config.load("configs/dmeo.py")
  for part in ("Did you mean configs/demo.py?", "configs/autoencoder.py"):
    assert part in str(refused.value)


def test_a_key_of_a_flag_is_named_in_full():
  config.check_key("data.rows")
  with pytest.raises(ValueError, match=r"config.data.row: .* mean config.data.rows\?"):
    config.check_key("data.row")
  with pytest.raises(ValueError, match=r"config.seed.x: config.seed is a value"):
    config.check_key("seed.x")
