"""Pictures in HEIF files: tiled, turned, beside thumbnails, with profiles."""

import struct

import av
import numpy as np
import pytest

from video_dit import config
from video_dit.media.decode import frames
from video_dit.media.errors import MediaError
from video_dit.media.probe import probe

MEDIA = config.Media(frames_per_second=24)
TALL, WIDE = 64, 96  # of a tile
COLOURS = ([200, 30, 30], [30, 180, 40], [40, 60, 210], [90, 90, 90])


def box(name, *parts):
  body = b"".join(parts)
  return struct.pack(">I", 8 + len(body)) + name + body


def full(name, *parts, version=0, flags=0):
  return box(name, struct.pack(">I", version << 24 | flags), *parts)


def colour(level):
  return np.full((TALL, WIDE, 3), level, np.uint8)


@pytest.fixture
def coded(tmp_path, encode):
  """A function that codes a picture: its decoder's record, and its bytes."""
  if "libx265" not in av.codecs_available:
    pytest.skip("this PyAV has no libx265")

  def make(pixels_HWC, **tags):
    options = {"x265-params": "log-level=none:bframes=0", "crf": "4"}
    tags = {"colorspace": 5, **tags}
    path = tmp_path / "one.mp4"
    encode(path, [pixels_HWC], codec="libx265", options=options, tags=tags)
    data = path.read_bytes()

    def part(name, after):
      at = data.index(name)
      return data[at + after : at - 4 + int.from_bytes(data[at - 4 : at])]

    return part(b"hvcC", -4), part(b"mdat", 4)

  return make


def extents(height, width):
  return full(b"ispe", struct.pack(">II", width, height))


def write(path, items, primary, references=b"", inner=b""):
  """Writes items `(kind, properties, content)`; content None is that of `inner`."""
  count = struct.pack(">H", len(items))
  entries, places, known, links = b"", [], [], b""
  for number, (kind, properties, content) in enumerate(items, 1):
    entries += full(b"infe", struct.pack(">HH", number, 0), kind, b"\0", version=2)
    indices = range(len(known) + 1, len(known) + len(properties) + 1)
    known += properties
    links += struct.pack(">HB", number, len(properties)) + bytes(indices)
    places.append((number, content))
  start = box(b"ftyp", b"heic\0\0\0\0mif1heic")

  def meta(base):
    found = b""
    for number, content in places:
      method, at = (1, 0) if content is None else (0, base)
      length = len(inner if content is None else content)
      found += struct.pack(">HHHHII", number, method, 0, 1, at, length)
      base += 0 if content is None else length
    return full(
      b"meta",
      full(b"hdlr", b"\0\0\0\0pict" + bytes(13)),
      full(b"pitm", struct.pack(">H", primary)),
      full(b"iloc", b"\x44\0", count, found, version=1),
      full(b"iinf", count, entries),
      full(b"iref", references) if references else b"",
      box(
        b"iprp",
        box(b"ipco", *known),
        full(b"ipma", struct.pack(">I", len(items)), links),
      ),
      box(b"idat", inner) if inner else b"",
    )

  base = len(start + meta(0)) + 8
  contents = [content for _, content in places if content is not None]
  path.write_bytes(start + meta(base) + box(b"mdat", *contents))
  return path


def tiled(path, coded, *, inner=True, height=2 * TALL, width=2 * WIDE, turns=()):
  """Four tiles, then the picture that they make, behind a thumbnail."""
  items = []
  for level in ([0, 0, 0], *COLOURS):  # The first is the thumbnail.
    record, content = coded(colour(level))
    items.append((b"hvc1", [record, extents(TALL, WIDE)], content))
  grid = struct.pack(">BBBBHH", 0, 0, 1, 1, width, height)
  properties = [extents(height, width), *turns]
  items.append((b"grid", properties, None if inner else grid))
  references = box(b"thmb", struct.pack(">3H", 1, 1, 6))
  references += box(b"dimg", struct.pack(">6H", 6, 4, 2, 3, 4, 5))
  return write(path, items, 6, references, grid if inner else b"")


def quadrants():
  tiles = [colour(level) for level in COLOURS]
  return np.concatenate([np.concatenate(tiles[:2], 1), np.concatenate(tiles[2:], 1)])


def only(path, **limits):
  (seen,) = frames(path, config.Media(**limits), start_seconds=5.0)
  return seen.astype(int)


def reason(path, **limits):
  found = set()
  for read in (lambda media: list(frames(path, media)), lambda media: probe(path, media)):
    with pytest.raises(MediaError) as caught:
      read(config.Media(**limits))
    found.add(caught.value.reason)
  (word,) = found
  return word


@pytest.mark.parametrize("inner", [True, False])
def test_a_tiled_picture_is_whole(tmp_path, coded, inner):
  path = tiled(tmp_path / "a.heic", coded, inner=inner)
  seen = only(path)
  assert seen.shape == (2 * TALL, 2 * WIDE, 3)
  assert np.abs(seen - quadrants()).max() <= 6
  described = probe(path, MEDIA)
  assert (described.kind, described.codec, described.frames) == ("image", "hevc", 1)
  assert (described.height, described.width) == seen.shape[:2]
  assert only(path, min_side=TALL + 1).shape == seen.shape  # Tiles may be small.
  small = next(frames(path, MEDIA, size=(32, 48)))
  assert small.shape == (32, 48, 3)
  assert reason(path, max_source_pixels=TALL * WIDE * 3) == "too_large"


def test_what_tiles_have_beyond_the_picture_is_cut_off(tmp_path, coded):
  path = tiled(tmp_path / "a.heic", coded, height=100, width=150)
  seen = only(path)
  assert seen.shape == (100, 150, 3)
  assert np.abs(seen - quadrants()[:100, :150]).max() <= 6


@pytest.mark.parametrize(
  ("turns", "expected"),
  [
    ([box(b"irot", b"\1")], lambda x: np.rot90(x)),
    ([box(b"irot", b"\3")], lambda x: np.rot90(x, 3)),
    ([box(b"imir", b"\0")], lambda x: x[::-1]),
    ([box(b"imir", b"\1")], lambda x: x[:, ::-1]),
    ([box(b"irot", b"\1"), box(b"imir", b"\1")], lambda x: np.rot90(x)[:, ::-1]),
    ([box(b"clap", struct.pack(">4I4i", 100, 1, 60, 1, -40, 1, 5, 1))], None),
  ],
)
def test_a_picture_is_cropped_turned_and_mirrored(tmp_path, coded, turns, expected):
  whole = quadrants()
  cropped = whole[39:99, 6:106]
  want = cropped if expected is None else expected(whole)
  record, content = coded(whole)
  items = [(b"hvc1", [record, extents(*whole.shape[:2]), *turns], content)]
  plain = write(tmp_path / "b.heic", items, 1)
  for path in (tiled(tmp_path / "a.heic", coded, turns=turns), plain):
    seen = only(path)
    assert seen.shape == want.shape
    assert np.abs(seen - want).mean() < 2
    described = probe(path, MEDIA)
    assert (described.height, described.width) == want.shape[:2]
    degrees = described.rotation
    turned = np.rot90(whole, degrees // 90)
    assert degrees in (-90, 0, 90, 180)
    if expected is not None:  # Turned by that, it lacks at most a mirror.
      assert np.array_equal(turned, want) or np.array_equal(turned[:, ::-1], want)


def test_the_primary_picture_is_taken_not_the_thumbnail(tmp_path, coded):
  small, large = coded(colour(0)), coded(quadrants())
  items = [
    (b"hvc1", [small[0], extents(TALL, WIDE)], small[1]),
    (b"hvc1", [large[0], extents(2 * TALL, 2 * WIDE)], large[1]),
  ]
  references = box(b"thmb", struct.pack(">3H", 1, 1, 2))
  path = write(tmp_path / "a.heic", items, 2, references)
  assert np.abs(only(path) - quadrants()).mean() < 2


def test_the_profile_of_a_picture_is_applied(tmp_path, coded, swapped_profile):
  record, content = coded(colour([200, 30, 30]))
  properties = [record, extents(TALL, WIDE), box(b"colr", b"prof", swapped_profile)]
  path = write(tmp_path / "a.heic", [(b"hvc1", properties, content)], 1)
  red, green, _ = only(path)[TALL // 2, WIDE // 2]
  assert red < 40 and green > 180


def test_colours_are_converted_once(tmp_path, coded, swapped_profile):
  def seen(name, profile=None, **tags):
    record, content = coded(colour([200, 60, 60]), **tags)
    properties = [record, extents(TALL, WIDE)]
    if profile is not None:
      properties.append(box(b"colr", b"prof", profile))
    path = write(tmp_path / name, [(b"hvc1", properties, content)], 1)
    return only(path)[TALL // 2, WIDE // 2]

  p3 = {"color_primaries": 12, "color_trc": 13}
  red, green, _ = seen("p3.heic", **p3)
  assert red > 210 and green < 55
  # A profile is all that counts.
  np.testing.assert_array_equal(
    seen("both.heic", swapped_profile, **p3), seen("profile.heic", swapped_profile)
  )


def test_a_film_beside_tiles_is_the_film(tmp_path, coded, encode, counted, indices):
  path = tiled(tmp_path / "a.heic", coded)
  film = bytearray(encode(tmp_path / "a.mp4", counted(9)).read_bytes())
  begin = path.read_bytes()
  at = film.index(b"stco") + 12  # Where the film's only run of frames lies.
  first = int.from_bytes(film[at : at + 4]) + len(begin)
  film[at : at + 4] = first.to_bytes(4)
  path.write_bytes(begin + film.replace(b"ftyp", b"free", 1))
  assert indices(frames(path, config.Media(frames_per_second=0))) == list(range(9))
  assert probe(path, MEDIA).kind == "video"


def test_a_picture_made_in_another_way_is_refused(tmp_path, coded):
  record, content = coded(colour(50))
  items = [
    (b"hvc1", [record, extents(TALL, WIDE)], content),
    (b"iovl", [extents(TALL, WIDE)], bytes(20)),
  ]
  references = box(b"dimg", struct.pack(">3H", 2, 1, 1))
  path = write(tmp_path / "a.heic", items, 2, references)
  assert reason(path) == "unsupported"
  with pytest.raises(MediaError, match="convert it to JPEG or PNG"):
    only(path)


def test_boxes_that_make_no_sense_are_unreadable_and_broken_tiles_damaged(
  tmp_path, coded
):
  path = tiled(tmp_path / "a.heic", coded, inner=False)
  data = path.read_bytes()
  path.write_bytes(data.replace(b"\0\0\1\1\0\xc0\0\x80", b"\0\0\2\1\0\xc0\0\x80"))
  assert reason(path) == "unreadable"
  path.write_bytes(data.replace(b"dimg", b"cdsc"))
  assert reason(path) == "unreadable"
  tiles = tiled(tmp_path / "b.heic", coded, height=500)
  with pytest.raises(MediaError) as caught:
    only(tiles)
  assert caught.value.reason == "damaged"


def test_great_tiles_of_a_small_picture_are_refused_before_they_are_held(tmp_path, coded):
  record, content = coded(colour([1, 2, 3]))
  tile = (b"hvc1", [record, extents(TALL, WIDE)], content)
  grid = struct.pack(">BBBBHH", 0, 0, 0, 39, 64, 64)
  items = [*[tile] * 40, (b"grid", [extents(64, 64)], None)]
  references = box(b"dimg", struct.pack(">42H", 41, 40, *range(1, 41)))
  path = write(tmp_path / "a.heic", items, 41, references, grid)
  with pytest.raises(MediaError, match=r"a.heic: tiles of 96x64 pixels do not make up"):
    list(frames(path, MEDIA))


def test_what_lies_behind_a_picture_does_not_matter(tmp_path, coded):
  path = tiled(tmp_path / "a.heic", coded)
  whole = only(path)
  data = path.read_bytes()
  far = b"\0\0\0\1free"
  for tail in (b"\0\0\0\3abcdefgh", far + b"\x0f" * 8, far + b"\x7f" + b"\xff" * 7):
    path.write_bytes(data + tail)
    assert np.array_equal(only(path), whole)


def test_parts_without_a_size_are_not_counted(tmp_path, coded):
  path = tiled(tmp_path / "a.heic", coded)
  data = bytearray(path.read_bytes())
  at = data.index(b"iloc") + 8
  data[at : at + 2] = b"\0\0"
  path.write_bytes(data)
  assert reason(path) == "unreadable"
