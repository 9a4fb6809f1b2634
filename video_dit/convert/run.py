"""Converts one checkpoint and reports what it read."""

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib
import shutil

import jax

from video_dit import interop
from video_dit.convert import workdir

_DTYPES = ("float32", "bfloat16", "float16")
# Files of a text encoder other than its weights.
_BESIDE = (
  *("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
  *("vocab.json", "merges.txt", "added_tokens.json"),
)


def convert(
  source: pathlib.Path,
  target: pathlib.Path | None,
  *,
  step: int | None = None,
  dtype: str | None = None,
  naming: str | None = None,
) -> Iterator[str]:
  """Reads a checkpoint and writes it as safetensors; yields lines of a report.

  It works in the host's memory, whatever accelerator there is.

  Args:
    source: folder or file of the checkpoint, or a workdir of `video_dit.main`.
    target: folder to be written, new or empty; None only reports.
    step: of a workdir's checkpoint; None takes the newest.
    dtype: of the tensors written; None keeps those read, where the layers of a stack
      have the narrowest that holds them all.
    naming: whose names to write; None keeps those read.

  Raises:
    ValueError: the checkpoint cannot be read or does not fit, or an argument is wrong.
  """
  if dtype not in (None, *_DTYPES):
    raise ValueError(f"--dtype={dtype}: must be one of {', '.join(_DTYPES)}.")
  if step is not None and not workdir.is_workdir(source):
    raise ValueError(
      f"--step={step}: {source} is not the workdir of a run. Leave --step out, or name"
      " a workdir."
    )
  if target is not None and target.exists():
    if not target.is_dir():
      raise ValueError(f"--to={target}: is a file. Name a folder to be written.")
    if any(target.iterdir()):
      raise ValueError(f"--to={target}: is not empty. Name a new folder.")
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    if workdir.is_workdir(source):
      loaded = workdir.load(source, step)
    else:
      loaded = interop.load(source, dtype=dtype)
    yield from describe(loaded, source)
    if target is None:
      return
    with _whole(target):
      files = interop.save(loaded, target, dtype=dtype, naming=naming)
      folder = source if source.is_dir() else source.parent
      beside = [name for name in _BESIDE if (folder / name).is_file()]
      for name in beside:
        shutil.copyfile(folder / name, target / name)
  names = ", ".join([*(file.name for file in files), *beside])
  yield f"wrote {target}: {names}"


@contextlib.contextmanager
def _whole(folder: pathlib.Path) -> Iterator[None]:
  """Removes a new folder again where not all that it is to hold can be written."""
  try:
    yield
  except BaseException:
    shutil.rmtree(folder, ignore_errors=True)
    raise


def describe(loaded: interop.Loaded, source: pathlib.Path) -> Iterator[str]:
  """Lines that say what was read."""
  files = f"{len(loaded.files)} files" if len(loaded.files) > 1 else loaded.files[0].name
  yield f"read {source} ({files})"
  yield f"  kind        {loaded.kind}, names of {loaded.naming}"
  yield f"  tensors     {loaded.tensors:,}, and {loaded.ignored:,} ignored"
  yield f"  parameters  {loaded.parameters:,}"
  yield f"  dtype       {', '.join(map(str, loaded.dtypes))}"
  yield f"  licence     {loaded.licence or 'unknown: ask its publisher'}"
  for field in dataclasses.fields(loaded.config):
    yield f"  config      {field.name}={getattr(loaded.config, field.name)!r}"
