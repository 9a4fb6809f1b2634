"""What a container shows of its frames: edit lists, chunks that repeat, tracks."""

from fractions import Fraction
import struct

import av
import numpy as np
import pytest

from video_dit import config
from video_dit.media import riff
from video_dit.media.decode import frames
from video_dit.media.probe import probe

AT_25 = config.Media(frames_per_second=25)
OWN = config.Media(frames_per_second=0)


def edit(path, parts):
  """Gives an mp4 an edit list of (seconds, first second of them)."""
  data = path.read_bytes()
  at = data.index(b"edts") - 4
  size = struct.unpack_from(">I", data, at)[0]
  first = struct.unpack_from(">i", data, at + 28)[0]  # The first frame's display time.
  ticks = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
  entries = b"".join(
    struct.pack(">iiI", 1000 * seconds, first + start * ticks, 1 << 16)
    for seconds, start in parts
  )
  elst = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(parts)) + entries
  made = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
  result = bytearray(data[:at] + made + data[at + size :])
  assert data.index(b"mdat") < data.index(b"moov")  # or the frames would have moved
  for name in (b"moov", b"trak"):
    box = data.index(name) - 4
    length = struct.unpack_from(">I", data, box)[0]
    struct.pack_into(">I", result, box, length + len(made) - size)
  path.write_bytes(result)
  return path


@pytest.mark.parametrize(
  ("parts", "expected"),
  [
    ([(3, 4), (2, 1)], [*range(100, 175), *range(25, 75)]),
    ([(1, 6), (1, 3), (2, 0)], [*range(150, 175), *range(75, 100), *range(50)]),
    ([(2, 2), (2, 2)], [*range(50, 100)] * 2),
  ],
)
@pytest.mark.parametrize("group", ["12", "250"])
def test_parts_of_an_edit_list_follow_each_other(
  tmp_path, encode, counted, indices, parts, expected, group
):
  """Before each part frames that it refers to are decoded, and not shown."""
  options = {"bf": "0", "x264-params": f"scenecut=0:keyint={group}"}
  path = edit(encode(tmp_path / "a.mp4", counted(200), options=options), parts)
  whole = list(frames(path, AT_25))
  assert indices(whole) == [number % 32 for number in expected]
  for start in (53, 60, 76):
    rest = list(frames(path, AT_25, start_seconds=start / 25))
    assert np.array_equal(rest, whole[start:])


def test_empty_chunks_at_the_end_of_an_avi_repeat_its_last_frame(
  tmp_path, counted, indices
):
  path, rate = tmp_path / "a.avi", Fraction(25)
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mjpeg", rate=rate)
    stream.height, stream.width, stream.pix_fmt = 32, 48, "yuvj420p"
    for number, frame_HWC in enumerate(counted(10)):
      frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")
      frame = frame.reformat(format="yuvj420p")
      frame.pts, frame.time_base = number, 1 / rate
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    empty = av.Packet(0)
    empty.stream, empty.time_base, empty.duration = stream, 1 / rate, 1
    empty.pts = empty.dts = 39
    container.mux(empty)  # FFmpeg fills the gap before it with others.
  assert indices(frames(path, OWN)) == list(range(10))
  assert indices(frames(path, AT_25)) == [*range(10), *[9] * 30]
  with path.open("rb") as file:
    assert (riff.last_repeats(file, 0), riff.last_repeats(file, 1)) == (30, 0)


@pytest.mark.parametrize("default", [None, 0, 1])
def test_of_several_tracks_the_default_is_taken_or_else_the_first(tmp_path, default):
  path, marked = tmp_path / "a.mkv", av.stream.Disposition.default
  with av.open(str(path), "w", options={"default_mode": "passthrough"}) as container:
    for number, width in enumerate((48, 64)):
      stream = container.add_stream("mpeg4", rate=25)
      stream.height, stream.width, stream.pix_fmt = 32, width, "yuv420p"
      stream.disposition = marked if number == default else 0
    for stream in container.streams.video:
      for _ in range(3):
        frame = np.zeros((32, stream.width, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p")))
      container.mux(stream.encode(None))
  width = (48, 64)[default or 0]
  assert probe(path, OWN).width == width
  assert [frame.shape[1] for frame in frames(path, OWN)] == [width] * 3
