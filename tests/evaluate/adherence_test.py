"""The adherence rule: right on rendered truth, at chance or below on anything else."""

from collections.abc import Callable
import dataclasses

import av
import numpy as np
import pytest
from scipy import ndimage

from video_dit.evaluate import adherence
from video_dit.media import shapes, write
from video_dit.media.shapes import scene as scenes

CHANCE = {"colour": 1 / 6, "direction": 1 / 4, "shape": 1 / 3, "wholeness": 0.02}


def score(make: Callable[[], np.ndarray], clips: int = 96) -> dict[str, float]:
  """Share of clips that are right, prompts taking turns."""
  prompts = shapes.held_out_prompts(clips)
  right = [
    adherence.judge(adherence.measure(make()), shapes.truth(scene))
    for _, scene in prompts
  ]
  return {name: float(np.mean([one[name] for one in right])) for name in CHANCE}


def truths(copies: int) -> list[shapes.Scene]:
  """Scenes of every combination of words, of all sizes and lengths."""
  rng = np.random.default_rng(11)
  lengths = list(scenes.LENGTHS)
  return [
    shapes.random_scene(rng, frames=lengths[index % len(lengths)], words=words)
    for index, words in enumerate(scenes.COMBINATIONS * copies)
  ]


def one(frames: int = 9, **changes) -> shapes.Scene:
  """A scene of a red circle going right, `changes` made to the circle."""
  thing = shapes.Object(
    colour="red", shape="circle", direction="right", radius=8, start=(16, 9), travel=13
  )
  return shapes.Scene(
    height=32,
    width=32,
    frames=frames,
    background="black",
    level=0,
    objects=(dataclasses.replace(thing, **changes),),
    wording=0,
  )


def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
  soft = ndimage.gaussian_filter(frames.astype(np.float32), (0, sigma, sigma, 0))
  return np.rint(soft).astype(np.uint8)


def compressed(frames: np.ndarray, path) -> np.ndarray:
  write.write_video(path, frames, shapes.FRAMES_PER_SECOND)
  with av.open(str(path)) as container:
    return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize("damage", ["mp4", "blur", "noise"])
def test_rendered_truth_is_right(damage, tmp_path):
  rng = np.random.default_rng(0)
  right = []
  for scene in truths(copies=2 if damage == "mp4" else 1):
    frames = shapes.render(scene)
    if damage == "mp4":
      frames = compressed(frames, tmp_path / "clip.mp4")
    elif damage == "blur":
      frames = blurred(frames, 1.0)
    else:
      noisy = frames + rng.normal(0, 8, frames.shape)
      frames = np.clip(noisy, 0, 255).astype(np.uint8)
    measured = adherence.measure(frames)
    truth = shapes.truth(scene)
    assert measured.background == truth["background"]
    right.append(adherence.judge(measured, truth))
  for name in CHANCE:
    assert np.mean([one[name] for one in right]) >= 0.985, name


def test_an_image_has_no_direction():
  scene = one(frames=1, direction=None)
  measured = adherence.measure(shapes.render(scene))
  assert measured.direction is None
  want = {"colour": True, "shape": True, "wholeness": True}
  assert adherence.judge(measured, shapes.truth(scene)) == want


def fields(rng: np.random.Generator, time: float, space: float) -> np.ndarray:
  """Smooth random colours, as an untrained model's output decodes to."""
  noise = ndimage.gaussian_filter(
    rng.normal(size=(9, 32, 32, 3)), (time, space, space, 0)
  )
  return np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["noise", "black", "plain", "rough", "smooth", "blobs"])
def test_untrained_output_is_at_chance_or_below(kind):
  rng = np.random.default_rng(5)
  palette = np.array(list(shapes.COLOURS.values()), np.uint8)

  def make() -> np.ndarray:
    if kind == "noise":
      return rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    if kind == "black":
      return np.zeros((9, 32, 32, 3), np.uint8)
    if kind == "plain":
      return np.full((9, 32, 32, 3), palette[rng.integers(6)])
    if kind == "blobs":
      inside = fields(rng, 2, 5)[..., :1] > 200
      return np.where(inside, palette[rng.integers(6)], np.uint8(14))
    return fields(rng, *((1, 1) if kind == "rough" else (3, 6)))

  for name, share in score(make).items():
    assert share <= CHANCE[name], name


def test_clips_of_other_prompts_are_at_chance():
  rng = np.random.default_rng(2)
  shares = score(
    lambda: shapes.render(shapes.random_scene(rng, size=(32, 32), frames=9, objects=1)),
    clips=192,
  )
  for name in ("colour", "direction", "shape"):
    assert abs(shares[name] - CHANCE[name]) < 0.1, name
  assert shares["wholeness"] == 1


def test_a_still_object_has_no_direction():
  still = shapes.render(one())[:1].repeat(9, axis=0)
  assert adherence.measure(still).direction is None


def test_a_diagonal_has_no_direction():
  frames = shapes.render(one(start=(9, 9)))
  slanted = np.stack(
    [np.roll(frame, index, axis=0) for index, frame in enumerate(frames)]
  )
  assert adherence.measure(slanted).direction is None


def test_what_falls_to_pieces_is_not_whole():
  whole = shapes.render(one())
  assert adherence.measure(whole).whole

  cut = whole.copy()
  cut[:, 15:17] = whole[0, 0, 0]
  gone = whole.copy()
  gone[3:6] = whole[0, 0, 0]
  crumbs = whole.copy()
  crumbs[:, 1:5, 1:30:3] = shapes.COLOURS["red"]
  sizes = [shapes.render(one(radius=5 + 4 * i / 8))[i] for i in range(9)]
  pair = np.where(whole == whole[0, 0, 0], whole[::-1], whole)
  eaten = whole.copy()
  for index, frame in enumerate(eaten):
    centre = int(9 + 13 * index / 8)
    frame[12:20, centre:] = whole[0, 0, 0]
  broken = {
    "cut": cut, "gone": gone, "crumbs": crumbs, "growing": np.stack(sizes),
    "two": pair, "eaten": eaten,
  }  # fmt: skip
  for name, frames in broken.items():
    assert not adherence.measure(frames).whole, name


def test_an_object_of_many_colours_has_none():
  frames = shapes.render(one())
  lit = np.abs(frames.astype(int) - frames[0, 0, 0]).sum(-1) > 60
  rows = np.arange(32)[None, :, None]
  for index, colour in enumerate(("green", "blue")):
    frames[lit & (rows % 3 == index)] = shapes.COLOURS[colour]
  assert adherence.measure(frames).colour is None


@pytest.mark.parametrize(
  ("frames", "message"),
  [
    (np.zeros((9, 32, 32), np.uint8), r"\(9, 32, 32\)"),
    (np.zeros((9, 32, 32, 3), np.float32), "float32"),
  ],
)
def test_other_pixels_are_refused(frames, message):
  with pytest.raises(ValueError, match=message):
    adherence.measure(frames)
