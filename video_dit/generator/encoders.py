"""Finds the encoders that made a run's latents.

The data set's metadata names them by path and by fingerprint. The config's paths take
precedence, as files move; the fingerprint decides whether it is the same encoder.
"""

import dataclasses
import json
import pathlib

from absl import logging

from video_dit import config as config_lib
from video_dit import files, interop
from video_dit.data import reader, schema
from video_dit.models.text import encoder as text_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
  """The encoders' paths from a run's own config, not given on the command line."""

  autoencoder: str = ""
  text: str = ""


def named_in(workdir: pathlib.Path) -> Named:
  """What a workdir's config names; nothing where there is no config."""
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
    config: of the run; `autoencoder.checkpoint` takes precedence over the data set's.
    metadata: of the data set.
    named: by the workdir's config; if such a path is gone, the data set's is used.

  Raises:
    ValueError: nothing is there.
  """
  said, made = config.autoencoder.checkpoint, metadata.autoencoder_path
  if said and _is_there(said):
    return said
  if _is_there(made) and said in ("", named.autoencoder):
    if said:
      logging.info("%s is missing; reading the autoencoder from %s", said, made)
    return made
  raise _gone("autoencoder", said, made, metadata)


def text_place(
  config: config_lib.Config, metadata: schema.Metadata, named: Named
) -> tuple[config_lib.Text, str]:
  """Settings of the text encoder that made a data set, and the folder to read it from.

  Args:
    config: of the run; `text.checkpoint` takes precedence over the data set's.
    metadata: of the data set; its folder `text` holds the tokenizer, and the weights
      unless they are published ones.
    named: as for `autoencoder_path`.

  Raises:
    ValueError: nothing is there, or the config names another encoder.
  """
  text, made = config.text, metadata.text_path
  said, whole = text.checkpoint, _is_own(made)
  if not said and whole:
    return text, made
  if not said and _is_there(made):
    text = _recorded(text, pathlib.Path(made) / text_lib.SETTINGS)
    said = text.checkpoint
  if said and not _is_there(said) and whole and said == named.text:
    logging.info("%s is missing; reading the text encoder from %s", said, made)
    return dataclasses.replace(text, checkpoint=""), made
  if not said or not _is_there(said):
    raise _gone("text", said, made, metadata)
  if interop.is_published(text):
    return text, made
  check_maker(metadata, "text", said, interop.text_fingerprint(text))
  return text, made if whole else said


def check(config: config_lib.Config, metadata: schema.Metadata) -> None:
  """Refuses encoders that are missing or not those of the data set; loads none.

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
    path: of the encoder.
    fingerprint: of the encoder at `path`.
  """
  marks = (fingerprint, None) if section == "autoencoder" else (None, fingerprint)
  try:
    reader.check(metadata, *marks)
  except ValueError as error:
    raise ValueError(f"config.{section}.checkpoint={path!r}: {error}") from None


def _recorded(text: config_lib.Text, path: pathlib.Path) -> config_lib.Text:
  """The settings that `preprocess` recorded of a published encoder, as far as known."""
  if not path.is_file():
    return text
  found = files.read_json(path, "Set --config.text.checkpoint instead.").get("text", {})
  names = {field.name for field in dataclasses.fields(text)}
  return dataclasses.replace(text, **{k: v for k, v in found.items() if k in names})


def _gone(section: str, said: str, made: str, metadata: schema.Metadata) -> ValueError:
  """What was tried, and how to name the encoder's path."""
  what = {"autoencoder": "autoencoder", "text": "text encoder"}[section]
  state = "exists but is not the one set" if _is_there(made) else "is also missing"
  if section == "text" and _is_there(made) and not _is_own(made):
    state = "has a tokenizer but no weights"
  if not said:
    tried = f"the {what} that {metadata.folder} names, {made or '(no path)'}, is missing"
    return ValueError(
      f"{tried}, and config.{section}.checkpoint is empty. Pass its present path as"
      f" --config.{section}.checkpoint=PATH."
    )
  return ValueError(
    f"config.{section}.checkpoint={said!r} does not exist. The {what} that the data set"
    f" {metadata.folder} names, {made or '(no path)'}, {state}. Set"
    f" --config.{section}.checkpoint to the present path of the {what} that made the data"
    " set."
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
