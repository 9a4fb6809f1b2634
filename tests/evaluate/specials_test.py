"""Kinds of clips that training never showed."""

import collections

from video_dit import config as config_lib
from video_dit.evaluate import specials

GRID = config_lib.Grid(space=4, time=4, patch=(1, 2, 2))
# Frames, height and width.
SEEN = [(9, 32, 32)] * 5 + [(5, 32, 48), (13, 48, 32), (17, 40, 40), (1, 24, 40)]


def choose(seen=SEEN, row_length=512, grid=GRID, image_prompts=("a photo",)):
  return specials.choose(
    collections.Counter(seen),
    ["first", "second"],
    image_prompts,
    grid=grid,
    row_length=row_length,
    frames_per_second=8.0,
    seed=5,
  )


def test_image_new_size_and_new_length():
  image, size, length = (s.request for s in choose())
  assert (image.frames, image.prompt, image.seed) == (1, "a photo", 5)
  assert (size.height, size.width) == (32, 40)  # the nearest in area and shape
  assert size.frames == 9
  assert length.frames == 21
  assert (length.height, length.width) == (32, 32)
  for special in choose():
    special.request.check(GRID)


def test_what_fits_no_row_is_left_out():
  titles = [s.title for s in choose(row_length=48)]
  assert [t.split(":")[0] for t in titles] == [
    "an image",
    "a size that no training clip has",
  ]


def test_images_alone_still_give_a_new_size():
  requests = [s.request for s in choose(seen=[(1, 32, 32)], image_prompts=())]
  assert requests[0].prompt == "first"
  assert {r.frames for r in requests[:2]} == {1}


def test_no_image_where_a_token_spans_frames():
  grid = config_lib.Grid(space=4, time=4, patch=(2, 2, 2))
  found = choose(seen=[(13, 32, 32), (5, 32, 32)], grid=grid)
  assert all(s.request.frames > 1 for s in found)
  for special in found:
    special.request.check(grid)
