"""Where the encoders that made a run's latents lie now.

The data set's metadata names them by path and by fingerprint. What the config names goes
first, for files move; the fingerprint decides whether it is the same encoder.
"""

import dataclasses
import json
import pathlib

from absl import logging

from video_dit import config as config_lib
from video_dit import interop
from video_dit.data import reader, schema
from video_dit.models.text import encoder as text_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
  """The paths of encoders in a run's own config, which nobody gave by hand."""

  autoencoder: str = ""
  text: str = ""


def named_in(workdir: pathlib.Path) -> Named:
  """What the config of a workdir names; nothing where it is not there."""
  try:
    tree = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    found = {name: tree[name]["checkpoint"] for name in ("autoencoder", "text")}
  except (OSError, ValueError, KeyError, TypeError):
    return Named()
  return Named(**found)


def autoencoder_path(
  config: config_lib.Config, metadata: schema.Metadata, named: Named
) -> str:
  """The folder or file of the autoencoder that made a data set.

  Args:
    config: of the run; `autoencoder.checkpoint` goes before what the data set names.
    metadata: of the data set.
    named: by the workdir's config; such a path may be gone where the data set's is there.

  Raises:
    ValueError: nothing is there.
  """
  said, made = config.autoencoder.checkpoint, metadata.autoencoder_path
  if said and _is_there(said):
    return said
  if _is_there(made) and said in ("", named.autoencoder):
    if said:
      logging.info("%s is gone; the autoencoder is read from %s", said, made)
    return made
  raise _gone("autoencoder", said, made, metadata)


def text_place(
  config: config_lib.Config, metadata: schema.Metadata, named: Named
) -> tuple[config_lib.Text, str]:
  """Settings of the text encoder that made a data set, and the folder to read it from.

  Args:
    config: of the run; `text.checkpoint` goes before what the data set names.
    metadata: of the data set, in whose folder `text` the tokenizer lies, and the weights
      where they are not published ones.
    named: as for `autoencoder_path`.

  Raises:
    ValueError: nothing is there, or the config names another encoder.
  """
  text, made = config.text, metadata.text_path
  said, whole = text.checkpoint, _is_own(made)
  if not said and _is_there(made):
    return text, made
  if said and not _is_there(said) and whole and said == named.text:
    logging.info("%s is gone; the text encoder is read from %s", said, made)
    return dataclasses.replace(text, checkpoint=""), made
  if not said or not _is_there(said):
    raise _gone("text", said, made, metadata)
  if interop.is_published(text):
    return text, made
  check_maker(metadata, "text", said, interop.text_fingerprint(text))
  return text, made if whole else said


def check(config: config_lib.Config, metadata: schema.Metadata) -> None:
  """Refuses encoders that are not there or not those of the data set; loads none.

  Raises:
    ValueError: the key, the path and the remedy.
  """
  path = autoencoder_path(config, metadata, Named())
  check_maker(metadata, "autoencoder", path, interop.autoencoder_fingerprint(path))
  text, folder = text_place(config, metadata, Named())
  if not interop.is_published(text) and _is_own(folder):
    there = dataclasses.replace(text, checkpoint=folder, tokenizer="")
    check_maker(metadata, "text", folder, interop.text_fingerprint(there))


def check_maker(
  metadata: schema.Metadata, section: str, path: str, fingerprint: str | None
) -> None:
  """Refuses an encoder that did not make the data set, by its path.

  Args:
    metadata: of the data set.
    section: of the config that names the encoder, `autoencoder` or `text`.
    path: that it lies at.
    fingerprint: of what lies there.
  """
  marks = (fingerprint, None) if section == "autoencoder" else (None, fingerprint)
  try:
    reader.check(metadata, *marks)
  except ValueError as error:
    raise ValueError(f"config.{section}.checkpoint={path!r}: {error}") from None


def _gone(section: str, said: str, made: str, metadata: schema.Metadata) -> ValueError:
  """What was tried, and how to say where the encoder lies."""
  what = {"autoencoder": "autoencoder", "text": "text encoder"}[section]
  state = "is there, but is not what was asked for" if _is_there(made) else "is gone too"
  if section == "text" and _is_there(made) and not _is_own(made):
    state = "holds a tokenizer and no weights"
  if not said:
    tried = f"the {what} that {metadata.folder} names, {made or '(no path)'}, is gone"
    return ValueError(
      f"{tried}, and config.{section}.checkpoint names no other. Give"
      f" --config.{section}.checkpoint=PATH, where it lies now."
    )
  return ValueError(
    f"config.{section}.checkpoint={said!r}: nothing is there. That of the data set"
    f" {metadata.folder}, {made or '(no path)'}, {state}. Correct"
    f" --config.{section}.checkpoint: it must be the {what} that made the data set,"
    " wherever it lies now."
  )


def _is_there(path: str) -> bool:
  """Whether a file, or a folder that is not empty."""
  if not path:
    return False
  place = pathlib.Path(path).expanduser()
  return place.is_file() or (place.is_dir() and any(place.iterdir()))


def _is_own(folder: str) -> bool:
  """Whether a text encoder with its weights was saved there by this project."""
  return bool(folder) and (pathlib.Path(folder) / text_lib.DESCRIPTION).is_file()
