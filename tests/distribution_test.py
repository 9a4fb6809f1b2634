"""What is handed on: the wheel, the source distribution, and the pages of the docs."""

import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

from packaging.version import Version
import pytest

import video_dit
from video_dit import config
from video_dit.interop import own_dit, registry

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PAGES = [
  *_ROOT.glob("*.md"),
  *_ROOT.glob("docs/*.md"),
  *_ROOT.glob("third_party/**/*.md"),
]
_LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
_FOLDERS = {"configs", "docs", "launch", "tests", "third_party", "video_dit"}
_UNWANTED = shutil.ignore_patterns("__pycache__")
_BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]))
"""


def _anchors(page: pathlib.Path) -> set[str]:
  """The anchors of a page's headings, as GitHub makes them."""
  headings = re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
  kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
  return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_links_between_pages_resolve(page):
  for link in _LINK.findall(page.read_text(encoding="utf-8")):
    name, _, anchor = link.partition("#")
    there = page.parent / name if name else page
    assert there.is_file(), link
    assert not anchor or anchor in _anchors(there), link


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_the_keys_that_pages_set_exist(page):
  template = config.template(name="any", objective="diffusion")
  keys = re.findall(r"--config\.([a-z_0-9.]+)", page.read_text(encoding="utf-8"))
  for key in {key.rstrip(".") for key in keys} - {"a.b"}:
    place = template
    for part in key.split("."):
      assert part in place, key
      place = place[part]


def test_every_format_that_is_read_has_its_notice():
  notices = "".join(p.read_text() for p in _ROOT.glob("third_party/*/README.md"))
  for module in registry.FORMATS:
    if module is own_dit:  # this project's own
      continue
    assert f"interop/{module.__name__.rsplit('.', 1)[-1]}.py" in notices


def test_the_version_is_the_same_everywhere():
  assert f"\nversion: {video_dit.__version__}\n" in (_ROOT / "CITATION.cff").read_text()
  assert f" {video_dit.__version__}" in (_ROOT / "CHANGELOG.md").read_text()


@pytest.fixture
def built(tmp_path):
  """Builds a distribution with the installed setuptools, and returns its file."""
  try:
    installed = Version(importlib.metadata.version("setuptools"))
  except importlib.metadata.PackageNotFoundError:
    installed = Version("0")
  if installed < Version("77"):
    pytest.skip("setuptools 77 is not installed, which pip fetches for a build")
  source = tmp_path / "source"
  source.mkdir()
  for path in _ROOT.iterdir():
    if path.name in _FOLDERS:
      shutil.copytree(path, source / path.name, ignore=_UNWANTED)
    elif path.is_file():
      shutil.copy(path, source)

  def build(kind: str) -> pathlib.Path:
    command = [sys.executable, "-c", _BUILD, kind, str(tmp_path)]
    done = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    return tmp_path / done.stdout.splitlines()[-1]

  return build


def test_the_wheel_has_licence_notices_and_configs(built):
  with zipfile.ZipFile(built("wheel")) as wheel:
    names = set(wheel.namelist())
  notices = [p.relative_to(_ROOT) for p in _ROOT.glob("third_party/**/README.md")]
  licences = f"video_dit-{video_dit.__version__}.dist-info/licenses"
  assert {f"{licences}/{p}" for p in ("LICENSE", "NOTICE", *notices)} <= names
  configs = {f"video_dit/configs/{p.name}" for p in _ROOT.glob("configs/*.py")}
  assert configs | {"video_dit/py.typed"} <= names


def test_the_source_distribution_has_docs_launch_files_and_tests(built):
  with tarfile.open(built("sdist")) as archive:
    names = {name.partition("/")[2] for name in archive.getnames()}
  files = ["CHANGELOG.md", "CONTRIBUTING.md", "NOTICE", "CITATION.cff", "constraints.txt"]
  files += ["constraints-all.txt", "docs/demo.png", "launch/setup.sh"]
  files += [str(p.relative_to(_ROOT)) for p in _PAGES]
  files += [str(p.relative_to(_ROOT)) for p in _ROOT.glob("tests/**/*_test.py")]
  assert set(files) <= names
