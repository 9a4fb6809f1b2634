"""Tensors in published files, by name, one at a time, read from disk on demand.

  tensors = open_tensors("umt5-xxl/")
  tensors.names["shared.weight"]      # Info(shape=(256384, 4096), dtype=bfloat16)
  tensors.read("shared.weight")       # memory-mapped

A folder may hold safetensors in one file or in shards, or what `torch.save` wrote. The
formats themselves are in `safetensors_file` and `torch_file`.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
import re

import numpy as np

from video_dit.interop import lookalikes, safetensors_file, torch_file
from video_dit.interop.extent import Extent

# Either may have a variant in its name, like fp16; shards have it here in older folders.
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.[^.]+)?\.(safetensors|bin)")
_INDEX = re.compile(r".*(\.[^.]+)\.index(\.[^.]+)?\.json")
# What the peers call the weights of a folder; with these, other files do not matter.
_USUAL = ("model", "diffusion_pytorch_model", "pytorch_model")
_PICKLES = (".bin", ".pt", ".pth")


@dataclasses.dataclass(frozen=True)
class Info:
  """What a tensor is, without its values."""

  shape: tuple[int, ...]
  dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Tensors:
  """Named tensors of one checkpoint.

  Attributes:
    path: the file or folder that was asked for.
    files: those that hold the tensors.
    names: what each tensor is.
    abstract: of a model that is made of these, only shapes and layouts are wanted.
  """

  path: pathlib.Path
  files: tuple[pathlib.Path, ...]
  extents: Mapping[str, Extent]
  abstract: bool = False

  @property
  def names(self) -> dict[str, Info]:
    """What each tensor is, without reading any."""
    return {n: Info(e.shape, e.dtype) for n, e in self.extents.items()}

  @property
  def folder(self) -> pathlib.Path:
    """The folder of the files, and of what goes with them."""
    return self.path if self.path.is_dir() else self.path.parent

  def read(self, name: str) -> np.ndarray:
    """One tensor, memory-mapped and read-only where its layout is plain.

    Raises:
      ValueError: there is no such tensor, or its file can no longer be read.
    """
    if name not in self.extents:
      raise ValueError(
        f"{self.path}: there is no tensor {name!r} among its {len(self.extents)}."
        " Name one of `tensors.names`."
      )
    return self.extents[name].read()

  def only(self, prefix: str) -> "Tensors":
    """Those whose names begin with a prefix, without it."""
    at = len(prefix)
    kept = {n[at:]: e for n, e in self.extents.items() if n.startswith(prefix)}
    return dataclasses.replace(self, extents=kept)


def open_tensors(path: str | os.PathLike[str]) -> Tensors:
  """Lists the tensors of a file or folder without reading their values.

  Args:
    path: a `.safetensors`, `.bin`, `.pt` or `.pth` file, an index of shards
      (`.index.json`, or a variant's `.index.fp16.json`), or a folder with any of them.
      In a folder safetensors go before pickled files, and a usual name (`model`,
      `diffusion_pytorch_model`, `pytorch_model`) before others.

  Raises:
    ValueError: nothing to read there, or files that are damaged, incomplete, ambiguous or
      that hold anything but tensors, or tensors of a LoRA or quantised ones.
  """
  path = pathlib.Path(path).expanduser()
  check_link(path)
  if not path.exists():
    raise ValueError(f"{path}: there is no such file or folder. Name a checkpoint's.")
  found = _find(path) if path.is_dir() else path
  if isinstance(found, pathlib.Path) and _INDEX.fullmatch(found.name):
    files, extents = _indexed(found)
  else:
    files = [found] if isinstance(found, pathlib.Path) else found
    extents = _union(files)
  lookalikes.check_names(path, extents)
  return Tensors(path, tuple(files), extents)


def check_link(path: pathlib.Path) -> None:
  """Refuses a dangling link, as in a cache copied without its blobs.

  Raises:
    ValueError: it is such a link.
  """
  if path.is_symlink() and not path.exists():
    raise ValueError(
      f"{path}: is a link to {os.readlink(path)}, which does not exist. Copy the folder"
      " again, following its links, as `cp -rL` and `rsync -rL` do."
    )


def _find(folder: pathlib.Path) -> pathlib.Path | list[pathlib.Path]:
  """The one file, index or run of shards that a folder is about."""
  names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
  pipeline = (folder / "model_index.json").is_file()
  hint = "It is a pipeline: name one of its folders, like `vae` or `text_encoder`"
  for suffixes in ((".safetensors",), _PICKLES):
    files = [n for n in names if n.endswith(suffixes)]
    indices = [n for n in names if (m := _INDEX.fullmatch(n)) and m[1] in suffixes]
    shards = [n for n in files if _SHARD.fullmatch(n)]
    whole = [n for n in files if n not in shards]
    usual = [n for n in (*indices, *whole) if n.split(".")[0] in _USUAL]
    usual = [n for n in usual if n.count(".") == (3 if n in indices else 1)]
    candidates = usual[:1] or (indices if indices else whole)
    if len(candidates) > 1 or (pipeline and candidates and not usual):
      what = "several checkpoints" if len(candidates) > 1 else "one checkpoint of all"
      raise ValueError(
        f"{folder}: holds {what} ({', '.join(candidates[:8])})."
        f" {f'{hint}, or' if pipeline else 'Name'} the intended file."
      )
    if candidates:
      return folder / candidates[0]
    if shards:
      return _complete(folder, shards)
  raise ValueError(
    f"{folder}: holds no supported weights (.safetensors, .bin, .pt, .pth)."
    f" {hint if pipeline else 'Name a checkpoint, or the file itself'}."
  )


def _complete(folder: pathlib.Path, shards: list[str]) -> list[pathlib.Path]:
  """Shards without an index: all of one run must be there."""
  matches = [m for m in map(_SHARD.fullmatch, shards) if m]
  stems = {(m[1], m[3], m[4] or "", m[5]) for m in matches}
  if len(plain := {stem for stem in stems if stem[0] in _USUAL and not stem[2]}) == 1:
    stems = plain  # as a variant's file does not matter beside the usual one
  if len(stems) > 1:
    raise ValueError(
      f"{folder}: holds shards of several checkpoints ({', '.join(sorted(shards)[:8])})"
      " and no index. Keep those of one in a folder."
    )
  ((stem, total, variant, suffix),) = stems
  ends = f"-of-{total}{variant}.{suffix}"
  needed = [f"{stem}-{i:05d}{ends}" for i in range(1, int(total) + 1)]
  missing = [name for name in needed if name not in shards]
  if missing:
    raise ValueError(
      f"{folder}: {len(missing)} of {int(total)} shards are missing"
      f" ({', '.join(missing[:8])}). Copy them there."
    )
  return [folder / name for name in needed]


def _open(path: pathlib.Path) -> dict[str, Extent]:
  """Tensors of one file, the format told by the suffix, then by the content."""
  check_link(path)
  if path.is_dir():
    raise ValueError(
      f"{path}: is a folder, where a file of weights is expected. Name the file that is"
      " meant."
    )
  lookalikes.check_start(path)
  if path.suffix == ".safetensors":
    return safetensors_file.extents(path)
  if path.suffix in _PICKLES or torch_file.looks_like(path):
    return torch_file.extents(path)
  raise ValueError(
    f"{path}: {path.suffix or 'a name without suffix'} is not a supported format."
    " Give .safetensors, .safetensors.index.json, .bin, .pt or .pth."
  )


def _union(files: list[pathlib.Path]) -> dict[str, Extent]:
  extents: dict[str, Extent] = {}
  for file in files:
    for name, extent in _open(file).items():
      if name in extents:
        raise ValueError(
          f"{file}: tensor {name!r} is also in {extents[name].path.name}. The shards"
          " belong to different checkpoints: copy them again."
        )
      extents[name] = extent
  return extents


def _indexed(index: pathlib.Path) -> tuple[list[pathlib.Path], dict[str, Extent]]:
  """The tensors that an index names, from the shards beside it."""
  lookalikes.check_start(index)
  try:
    shard_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    wrong = [shard for shard in shard_of.values() if not isinstance(shard, str)]
    if wrong or not shard_of:
      raise ValueError(f"it names {wrong[0]!r} as a file" if wrong else "it is empty")
    shards = sorted(set(shard_of.values()))
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
    raise ValueError(
      f"{index}: not an index of shards, which is JSON with a `weight_map` from tensors"
      f" to files ({e!r}). Copy it again."
    ) from e
  outside = [name for name in shards if pathlib.PurePath(name).name != name]
  if outside:
    raise ValueError(
      f"{index}: names {outside[0]!r}, but shards must lie beside their index. Refused."
    )
  files = [index.parent / name for name in shards]
  for file in files:
    check_link(file)
  missing = [file.name for file in files if not file.is_file()]
  if missing:
    raise ValueError(
      f"{index}: {len(missing)} of {len(files)} shards are missing"
      f" ({', '.join(missing[:8])}). Copy them there."
    )
  opened = {file.name: _open(file) for file in files}
  absent = [name for name, shard in shard_of.items() if name not in opened[shard]]
  if absent:
    raise ValueError(
      f"{index}: {len(absent)} tensors are not in the shards that it names"
      f" ({', '.join(f'{n} in {shard_of[n]}' for n in absent[:8])}). Index and shards"
      " belong to different checkpoints: copy them again."
    )
  unlisted = {
    name: file
    for file, inside in opened.items()
    for name in inside
    if name not in shard_of
  }
  if unlisted:
    shown = ", ".join(f"{n} in {shard}" for n, shard in list(unlisted.items())[:8])
    raise ValueError(
      f"{index}: leaves out {len(unlisted)} tensors that its shards hold ({shown}). Index"
      " and shards belong to different checkpoints: copy them again."
    )
  return files, {name: opened[shard][name] for name, shard in shard_of.items()}
