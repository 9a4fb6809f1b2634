"""The demo's media: ordinary files with captions beside them, and held-out prompts."""

import collections
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import tqdm

from video_dit import files
from video_dit.media import write
from video_dit.media.shapes import captioning, rendering
from video_dit.media.shapes import scene as scenes

# Raised when the same settings give other files.
_VERSION = 4
_GIFS = 0.1
_CRF = 12
_PROMPT_SEED = 1 << 32
_TRIES = 200


def held_out_prompts(
  n: int,
  seed: int = 0,
  *,
  size: tuple[int, int] = (32, 32),
  frames: int = 9,
) -> list[tuple[str, scenes.Scene]]:
  """Draws prompts whose combination of words no training clip shows.

  The combinations of `HELD_OUT` take turns.

  Args:
    n: number of prompts, all distinct.
    seed: of wording and of the scenes' details.
    size: height and width in pixels of the scenes.
    frames: of the scenes, at least 2.

  Returns:
    Prompts, each with a scene of one object that follows it.

  Raises:
    ValueError: a length without motion, or more prompts than there are wordings.
  """
  if frames < 2:
    raise ValueError(
      f"frames={frames}: nothing moves in a still image. Ask for 2 or more frames."
    )
  rng = np.random.default_rng((seed, _PROMPT_SEED))
  combinations = sorted(scenes.HELD_OUT)
  order: list[int] = []
  while len(order) < n:
    order.extend(rng.permutation(len(combinations)))
  prompts: dict[str, scenes.Scene] = {}
  for index in order[:n]:
    for _ in range(_TRIES):
      scene = scenes.random_scene(
        rng, size=size, frames=frames, words=combinations[index]
      )
      if (prompt := captioning.caption(scene)) not in prompts:
        break
    else:
      raise ValueError(
        f"cannot make n={n} distinct prompts: there are too few wordings. Ask for fewer."
      )
    prompts[prompt] = scene
  return list(prompts.items())


def truth(scene: scenes.Scene) -> dict[str, str]:
  """Returns what a clip of one object must show, a word each."""
  (thing,) = scene.objects
  words = {"colour": thing.colour, "shape": thing.shape, "background": scene.background}
  return words | ({"direction": thing.direction} if thing.direction else {})


def _write_prompts(path: pathlib.Path, count: int, seed: int) -> None:
  lines = [
    json.dumps(
      {"prompt": prompt, **truth(scene)}
      | {"height": scene.height, "width": scene.width, "frames": scene.frames}
    )
    for prompt, scene in held_out_prompts(count, seed)
  ]
  path.write_text("\n".join(lines) + "\n")


def _is_whole(folder: pathlib.Path, marker: pathlib.Path, settings: Any) -> bool:
  """Whether `folder` holds all files of a finished run with these settings."""
  try:
    found = json.loads(marker.read_text(encoding="utf-8"))
    same, names = found["settings"] == settings, set(found["files"])
  except (FileNotFoundError, ValueError, TypeError, LookupError):
    return False
  return same and names <= set(os.listdir(folder) if folder.is_dir() else ())


def write_demo(
  folder: str | os.PathLike[str], clips: int, seed: int = 0, *, prompts: int = 96
) -> dict[str, int]:
  """Writes clips with captions in `.txt` files beside them, unless they are there.

  Clip i depends on the seed and on i alone. Next to the folder go `prompts.jsonl`, the
  held-out prompts with their truth, and a marker with the settings, which is written
  last: a folder with other settings, or of an interrupted run, is rebuilt.

  Args:
    folder: where the media go; emptied first if it is rebuilt.
    clips: number of clips.
    seed: of all scenes.
    prompts: number of held-out prompts.

  Returns:
    Number of files of each suffix.

  Raises:
    FileExistsError: the folder has files that this function did not write.
  """
  folder = pathlib.Path(folder)
  marker = folder.with_name(folder.name + ".json")
  settings = {"clips": clips, "seed": seed, "prompts": prompts, "version": _VERSION}
  if not _is_whole(folder, marker, settings):
    strange = [
      n for n in (os.listdir(folder) if folder.is_dir() else ()) if n[:5] != "clip_"
    ]
    if strange:
      raise FileExistsError(
        f"{folder}: contains {strange[0]!r}, which is not a clip of the demo, and would"
        " be emptied. Name another folder."
      )
    marker.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index in tqdm.trange(clips, desc="render", unit="clip"):
      _write_clip(folder, index, seed)
    _write_prompts(folder.with_name("prompts.jsonl"), prompts, seed)
    record = {"settings": settings, "files": sorted(os.listdir(folder))}
    files.write(marker, json.dumps(record))
  return dict(collections.Counter(path.suffix for path in sorted(folder.iterdir())))


def _write_clip(folder: pathlib.Path, index: int, seed: int) -> None:
  rng = np.random.default_rng((seed, index))
  scene = scenes.random_scene(rng)
  suffix = ".gif" if rng.uniform() < _GIFS else ".mp4"
  path = folder / f"clip_{index:05d}{'.png' if scene.frames == 1 else suffix}"
  frames = rendering.render(scene)
  write.write_video(path, frames, scenes.FRAMES_PER_SECOND, crf=_CRF)
  path.with_suffix(".txt").write_text(captioning.caption(scene) + "\n")
