"""The demo's moving shapes: what is held out, what is drawn, what is written."""

import itertools
import json
import pathlib

import av
import numpy as np
import pytest

from video_dit.media import shapes
from video_dit.media.shapes import rendering
from video_dit.media.shapes import scene as scenes


@pytest.fixture(scope="module")
def drawn() -> list[shapes.Scene]:
  rng = np.random.default_rng(0)
  return [shapes.random_scene(rng) for _ in range(1500)]


def boxes(scene: shapes.Scene, thing: shapes.Object) -> list[tuple[float, ...]]:
  """Top, left, bottom and right of an object in the first and last frame."""
  half_width, half_height = (thing.radius * x for x in scenes.EXTENTS[thing.shape])
  step = shapes.DIRECTIONS[thing.direction] if thing.direction else (0, 0)
  found = []
  for progress in (0, 1):
    y, x = (thing.start[i] + step[i] * thing.travel * progress for i in range(2))
    found.append((y - half_height, x - half_width, y + half_height, x + half_width))
  return found


def test_a_sixth_is_held_out_and_every_pair_of_words_is_seen():
  assert len(shapes.HELD_OUT) * 6 == len(scenes.COMBINATIONS)
  words = (shapes.COLOURS, shapes.SHAPES, shapes.DIRECTIONS)
  for first, second in itertools.combinations(range(3), 2):
    seen = {(one[first], one[second]) for one in scenes.SEEN}
    assert seen == set(itertools.product(words[first], words[second]))


def test_no_scene_shows_what_is_held_out(drawn):
  shown = {(o.colour, o.shape, o.direction) for s in drawn for o in s.objects}
  assert not shown & shapes.HELD_OUT
  moving = {one for one in shown if one[2]}
  assert moving == set(scenes.SEEN)
  stills = {one[:2] for one in shown if not one[2]}
  assert stills == set(itertools.product(shapes.COLOURS, shapes.SHAPES))


def test_the_mix_has_images_pairs_sizes_and_lengths(drawn):
  images, pairs = scenes.IMAGES, scenes.PAIRS
  assert np.mean([s.frames == 1 for s in drawn]) == pytest.approx(images, abs=0.04)
  assert np.mean([len(s.objects) == 2 for s in drawn]) == pytest.approx(pairs, abs=0.03)
  assert {(s.height, s.width) for s in drawn} == set(scenes.SIZES)
  assert {s.frames for s in drawn} == {1, *scenes.LENGTHS}


def test_objects_stay_inside_apart_and_move_visibly(drawn):
  for scene in drawn:
    ends = [boxes(scene, thing) for thing in scene.objects]
    for top, left, bottom, right in itertools.chain(*ends):
      assert top >= 0.4 and left >= 0.4
      assert bottom <= scene.height - 0.4 and right <= scene.width - 0.4
    for thing in scene.objects:
      least = 0.25 * min(scene.height, scene.width) if thing.direction else 0
      assert thing.travel >= least
    if len(scene.objects) == 2:
      axis = 0 if scene.stacked else 1
      assert max(b[2 + axis] for b in ends[0]) < min(b[axis] for b in ends[1])
      first, second = scene.objects
      assert first.colour != second.colour and first.shape != second.shape


def test_captions_name_what_is_seen(drawn):
  ways = ("left", "right", "up", "down")
  for scene in drawn:
    text = shapes.caption(scene)
    assert text == shapes.caption(scene)
    assert "{" not in text and scene.background in text
    for thing in scene.objects:
      assert f"a {thing.colour} {thing.shape}" in text
      assert thing.direction is None or f" {thing.direction}" in text
    if scene.frames == 1 and len(scene.objects) == 1:
      assert not any(way in text for way in ways)
      assert "photo" in text or "image" in text


def test_wordings_vary(drawn):
  assert len({shapes.caption(scene) for scene in drawn}) > 900


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_a_shape_has_its_area_about_its_centre(shape):
  y, x = np.ogrid[:64, :64]
  alpha = rendering.coverage(shape, y - 31.3, x - 30.8, 20.0)
  assert alpha.sum() == pytest.approx(400 * rendering.area(shape), rel=0.01)
  centre = (alpha * y).sum() / alpha.sum() - 31.3
  assert centre == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("direction", shapes.DIRECTIONS)
def test_the_object_moves_its_way_at_constant_speed(direction):
  rng = np.random.default_rng(3)
  words = ("red", "circle", direction)
  scene = shapes.random_scene(rng, size=(32, 48), frames=9, words=words)
  frames = shapes.render(scene).astype(int)
  assert frames.shape == (9, 32, 48, 3)
  weight = np.abs(frames - frames[0, 0, 0]).sum(-1)
  total = weight.sum((1, 2))
  assert np.ptp(total) < 0.03 * total.mean()
  rows, columns = np.mgrid[:32, :48]
  centres = np.stack(
    [(weight * rows).sum((1, 2)) / total, (weight * columns).sum((1, 2)) / total], 1
  )
  want = np.array(shapes.DIRECTIONS[direction]) * scene.objects[0].travel / 8
  np.testing.assert_allclose(np.diff(centres, axis=0), want[None].repeat(8, 0), atol=0.1)


def test_held_out_prompts_are_distinct_and_take_turns():
  prompts = shapes.held_out_prompts(72, seed=1)
  assert prompts == shapes.held_out_prompts(72, seed=1)
  assert len({prompt for prompt, _ in prompts}) == 72
  combinations = [
    (scene.objects[0].colour, scene.objects[0].shape, scene.objects[0].direction)
    for _, scene in prompts
  ]
  assert all(combinations.count(one) == 6 for one in shapes.HELD_OUT)
  prompt, scene = prompts[0]
  assert shapes.truth(scene)["colour"] in prompt
  with pytest.raises(ValueError, match="still image"):
    shapes.held_out_prompts(1, frames=1)


def decoded(path: pathlib.Path) -> np.ndarray:
  with av.open(str(path)) as container:
    return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_files_decode_to_their_scenes_and_have_captions(tmp_path):
  counts = shapes.write_demo(tmp_path / "media", 40, 0, prompts=12)
  assert counts[".txt"] == 40
  assert counts[".mp4"] > counts[".gif"] > 0 and counts[".png"] > 0
  for path in (tmp_path / "media").iterdir():
    if path.suffix != ".txt":
      assert path.with_suffix(".txt").read_text().strip()
      frames = decoded(path)
      assert frames[0].shape[:2] in scenes.SIZES
      assert len(frames) in {1, *scenes.LENGTHS}
  lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert len(records) == 12
  keys = {"prompt", "colour", "shape", "direction", "background"}
  assert all(keys <= set(record) for record in records)


def test_the_demo_is_made_once_and_anew_where_settings_differ(tmp_path):
  folder = tmp_path / "media"

  def captions() -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("*.txt"))}

  def times() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

  shapes.write_demo(folder, 12, 0, prompts=2)
  whole, written = captions(), times()
  shapes.write_demo(folder, 12, 0, prompts=2)
  assert times() == written
  # One file is gone: all are made anew.
  (folder / "clip_00003.txt").unlink()
  shapes.write_demo(folder, 12, 0, prompts=2)
  assert captions() == whole
  assert set(times()) == set(written) and times() != written
  # So they are where the marker is damaged.
  (tmp_path / "media.json").write_text('{"settings"')
  shapes.write_demo(folder, 12, 0, prompts=2)
  assert captions() == whole
  # A clip depends on the seed and on its index alone.
  shapes.write_demo(folder, 5, 0, prompts=2)
  assert captions() == {n: text for n, text in whole.items() if n < "clip_00005"}
  shapes.write_demo(folder, 5, 1, prompts=2)
  assert not set(captions().values()) & set(whole.values())


def test_the_same_seed_gives_the_same_clips(tmp_path):
  for name in ("one", "two"):
    shapes.write_demo(tmp_path / name / "media", 16, 4)
  paths = sorted((tmp_path / "one" / "media").iterdir())
  others = sorted((tmp_path / "two" / "media").iterdir())
  assert [path.name for path in paths] == [path.name for path in others]
  for path, other in zip(paths, others, strict=True):
    assert path.read_bytes() == other.read_bytes()


def test_a_folder_of_others_is_not_emptied(tmp_path):
  (tmp_path / "media").mkdir()
  (tmp_path / "media" / "holiday.mp4").write_bytes(b"dear to someone")
  with pytest.raises(FileExistsError, match=r"holiday\.mp4.*another folder"):
    shapes.write_demo(tmp_path / "media", 3, 0)
  assert (tmp_path / "media" / "holiday.mp4").exists()
