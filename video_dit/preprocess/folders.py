"""A folder of media as lines, in sorted order, each with the files that caption it.

The caption of `clip.mp4` is `clip.txt` or `clip.mp4.txt` beside it; `clip.json` holds
several (`caption_lists`). Hidden files are left out; every other file is a line, so that
files that are not media are listed among the rejects.
"""

from collections.abc import Iterator
import os
import stat as stat_lib

from video_dit.preprocess import caption_fields, inputs, spelling

_BESIDE = (".json", ".txt")
_MOST_BYTES = 1 << 24  # of a file with captions


def lines(root: str, output: str | os.PathLike[str]) -> Iterator[inputs.Line]:
  """Walks a folder; a folder met twice by way of symbolic links is entered once."""
  seen: set[tuple[int, int]] = set()
  if os.path.isdir(output):
    stat = os.stat(output)
    seen.add((stat.st_dev, stat.st_ino))
  problems: list[OSError] = []
  for folder, folders, names in os.walk(root, followlinks=True, onerror=problems.append):
    yield from _refused(problems)
    stat = os.stat(folder)
    if (stat.st_dev, stat.st_ino) in seen:
      folders.clear()
      continue
    seen.add((stat.st_dev, stat.st_ino))
    folders[:] = sorted(f for f in folders if not f.startswith("."))
    names = sorted(n for n in names if not n.startswith("."))
    for line, beside in listing(folder, names):
      yield caption_fields.beside(line, beside, _read_bytes)
  yield from _refused(problems)


def _refused(problems: list[OSError]) -> Iterator[inputs.Line]:
  """Lines of the folders that could not be listed, which are then cleared."""
  for problem in problems:
    yield refused(problem.filename, problem.strerror or str(problem))
  problems.clear()


def refused(folder: str, problem: str) -> inputs.Line:
  """The line of a folder that cannot be listed, or not all of it."""
  message = f"cannot list the folder: {problem}"
  return inputs.Line(
    path=inputs.printable(folder), file=folder, error=("unreachable", message)
  )


def _read_bytes(path: str) -> bytes:
  stat = os.stat(path)
  if not stat_lib.S_ISREG(stat.st_mode):  # A pipe would never end.
    raise ValueError("is not a regular file")
  if stat.st_size > _MOST_BYTES:
    raise ValueError(f"has {stat.st_size:,} bytes; the limit is {_MOST_BYTES:,}")
  with open(path, "rb") as file:
    return file.read()


def listing(
  folder: str, names: list[str]
) -> Iterator[tuple[inputs.Line, tuple[str, ...]]]:
  """Yields the lines of one folder, and the files that may hold their captions.

  Args:
    folder: its path.
    names: of the files in it, sorted.
  """
  # By stem, then by suffix, whatever their case.
  beside: dict[str, dict[str, str]] = {}
  for name in names:
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in _BESIDE:
      beside.setdefault(stem, {})[suffix.lower()] = name
  texts = {n for n in names if n.lower().endswith(".txt")}
  media = {n for n in names if n not in texts and not n.lower().endswith(".json")}
  stems = media | {os.path.splitext(n)[0] for n in media}
  respelt = spelling.pairs(stems, beside)
  lists = {
    n
    for n in names
    if n.lower().endswith(".json") and (n[:-5] in stems or n[:-5] in respelt.values())
  }
  used = set()
  for name in (n for n in names if n not in texts and n not in lists):
    file = os.path.join(folder, name)
    shown = inputs.printable(file)
    own = (os.path.splitext(name)[0], name)
    there = [beside.get(respelt.get(stem, stem), {}) for stem in own]
    found = [its[suffix] for its in there for suffix in _BESIDE if suffix in its]
    found = [n for n in found if n in texts or n in lists]
    used.update(found)
    if os.path.splitext(name)[1].lower() in inputs.MANIFESTS:
      message = "a manifest is read only if it is itself the --input"
      yield inputs.Line(path=shown, file=file, error=("not_media", message)), ()
      continue
    line = inputs.Line(path=shown, file=file)
    yield line, tuple(os.path.join(folder, n) for n in found)
  for name in sorted(texts - used):
    file = os.path.join(folder, name)
    shown = inputs.printable(file)
    message = "a caption without a media file of the same name beside it"
    yield inputs.Line(path=shown, file=file, error=("no_media", message)), ()
