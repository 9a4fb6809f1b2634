"""Clips to files: mp4, gif, png, and contact sheets of many clips.

A file appears under its name only when it is complete.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
import itertools
import json
import os
import pathlib

import av
from av.video.reformatter import ColorRange, Colorspace, Interpolation
import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from video_dit import files
from video_dit.media.resize import resize

LEAST_RATE = 0.01  # frames a second: one in 100 seconds
MOST_GIF_RATE = 100  # a gif counts in hundredths of a second
_BT709 = 1  # AVCOL_PRI_BT709, AVCOL_TRC_BT709 and AVCOL_SPC_BT709
_LIMITED = 1  # AVCOL_RANGE_MPEG
_MARGIN = 8  # pixels around the parts of a contact sheet
_LETTERS = 15  # pixels of a label's height


def write_video(
  path: str | os.PathLike,
  frames_FHWC: np.ndarray | Iterable[np.ndarray],
  frames_per_second: float,
  *,
  metadata: Mapping[str, str] | None = None,
  crf: int = 18,
) -> None:
  """Writes a clip; the suffix of the path decides the format.

  `.mp4` is H.264 in BT.709: 4:2:0 where both sides are even, 4:4:4 where one is odd, so
  that every size is kept to the pixel (some browsers do not play 4:4:4). `.gif` has a
  palette for each frame and durations in hundredths of a second that add up to the
  exact time; a frame equal to the one before extends it. `.png` holds only the first
  frame.

  Args:
    path: file to write; its folder exists.
    frames_FHWC: uint8 RGB frames, an array or any iterable of `(H, W, 3)` frames; an
      mp4 is written with one frame in memory.
    frames_per_second: at least 0.01, and at most 100 for a gif.
    metadata: texts recorded in the file: mp4 tags, a gif's comment as JSON, png texts.
    crf: quality of H.264, 0 (lossless) to 51.

  Raises:
    ValueError: an unknown suffix, no frames, frames of several sizes or of another
      type, or a rate that the format does not support.
  """
  path = pathlib.Path(path)
  writers = {".mp4": _write_mp4, ".gif": _write_gif, ".png": _write_png}
  if path.suffix.lower() not in writers:
    raise ValueError(
      f"{path}: suffix {path.suffix!r} is not one of {', '.join(writers)}."
    )
  if not frames_per_second >= LEAST_RATE:
    raise ValueError(
      f"{path}: frames_per_second={frames_per_second} must be at least {LEAST_RATE}."
    )
  frames = _checked(path, frames_FHWC)
  with files.replacing(path) as unfinished:
    writers[path.suffix.lower()](
      unfinished, frames, frames_per_second, dict(metadata or {}), crf
    )


def contact_sheet(
  path: str | os.PathLike,
  rows: Sequence[tuple[str, np.ndarray]],
  *,
  columns: int = 8,
  side: int = 128,
) -> None:
  """Draws clips below each other, each as a label above a row of its frames.

  Args:
    path: png file to write; its folder exists.
    rows: a label and a clip, uint8 `(F, H, W, 3)`, for each row.
    columns: most frames of a row; longer clips show evenly spaced ones, including the
      first and the last.
    side: pixels of the longer side of a frame on the sheet.

  Raises:
    ValueError: there are no rows, or a clip has no frames.
  """
  if not rows or any(len(frames_FHWC) == 0 for _, frames_FHWC in rows):
    raise ValueError(f"{path}: a contact sheet needs rows, and frames in each.")
  font = ImageFont.load_default(_LETTERS)
  shown = [(label, _thumbnails(frames, columns, side)) for label, frames in rows]
  width = max(
    sum(frame.shape[1] + _MARGIN for frame in frames) + _MARGIN for _, frames in shown
  )
  width = max(width, 3 * side)
  labels = [_wrapped(label, font, width - 2 * _MARGIN) for label, _ in shown]
  line = _LETTERS + 4
  heights = [
    len(label) * line + frames[0].shape[0] + 2 * _MARGIN
    for label, (_, frames) in zip(labels, shown, strict=True)
  ]
  sheet = Image.new("RGB", (width, sum(heights)), "white")
  pen = ImageDraw.Draw(sheet)
  top = 0
  for lines, (_, frames), height in zip(labels, shown, heights, strict=True):
    y, x = top + _MARGIN, _MARGIN
    for text in lines:
      pen.text((x, y), text, fill="black", font=font)
      y += line
    for frame_HWC in frames:
      sheet.paste(Image.fromarray(frame_HWC), (x, y))
      x += frame_HWC.shape[1] + _MARGIN
    top += height
  with files.replacing(path) as unfinished:
    sheet.save(unfinished, format="PNG")


def _checked(
  path: pathlib.Path, frames_FHWC: np.ndarray | Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
  """The frames, once the first is seen; each is checked as it comes."""
  frames = iter(frames_FHWC)
  first = next(frames, None)
  if first is None:
    raise ValueError(f"{path}: a clip needs at least one frame.")

  def all_frames():
    for frame_HWC in itertools.chain([first], frames):
      frame_HWC = np.asarray(frame_HWC)
      shape = frame_HWC.shape
      if frame_HWC.dtype != np.uint8 or frame_HWC.ndim != 3 or shape[2] != 3:
        raise ValueError(
          f"{path}: a frame is {frame_HWC.dtype} {shape}; it must be uint8 (H, W, 3)."
        )
      if shape != np.shape(first):
        raise ValueError(f"{path}: frames {shape} and {np.shape(first)} in one clip.")
      yield np.ascontiguousarray(frame_HWC)

  return all_frames()


def _write_mp4(path, frames, frames_per_second, metadata, crf) -> None:
  rate = Fraction(frames_per_second).limit_denominator(1001)
  first = next(frames)
  height, width = first.shape[:2]
  odd = height % 2 or width % 2
  options = {"movflags": "use_metadata_tags+faststart"}
  with av.open(os.fspath(path), "w", format="mp4", options=options) as container:
    container.metadata.update(metadata)
    # The same frames give the same bytes: one thread, however many cores there are, and
    # no macroblock tree, with which some bytes occasionally differ.
    quality = {"crf": str(crf), "preset": "medium", "threads": "1"}
    quality["x264-params"] = "mbtree=0"
    stream = container.add_stream("libx264", rate=rate, options=quality)
    stream.height, stream.width = height, width
    stream.pix_fmt = "yuv444p" if odd else "yuv420p"
    context = stream.codec_context
    context.colorspace, context.color_range = _BT709, _LIMITED
    context.color_primaries, context.color_trc = _BT709, _BT709
    for frame_HWC in itertools.chain([first], frames):
      frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24").reformat(
        format=stream.pix_fmt,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
        threads=1,
      )
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _write_gif(path, frames, frames_per_second, metadata, crf) -> None:
  del crf
  if frames_per_second > MOST_GIF_RATE:
    raise ValueError(f"{path}: a gif has at most {MOST_GIF_RATE} frames a second.")
  images = [
    Image.fromarray(frame_HWC).quantize(256, method=Image.Quantize.MEDIANCUT)
    for frame_HWC in frames
  ]
  # Rounded down: at the n-th tick of the rate the n-th frame is shown, never the last.
  ticks = [int(100 * index / frames_per_second) for index in range(len(images) + 1)]
  durations = [10 * (stop - start) for start, stop in itertools.pairwise(ticks)]
  images[0].save(
    path,
    format="GIF",
    save_all=True,
    append_images=images[1:],
    duration=durations if len(images) > 1 else durations[0],
    loop=0,
    disposal=1,
    comment=json.dumps(metadata).encode() if metadata else b"",
  )


def _write_png(path, frames, frames_per_second, metadata, crf) -> None:
  del frames_per_second, crf
  texts = PngImagePlugin.PngInfo()
  for key, value in metadata.items():
    texts.add_itxt(key, value)
  Image.fromarray(next(frames)).save(path, format="PNG", pnginfo=texts)


def _thumbnails(frames_FHWC: np.ndarray, columns: int, side: int) -> list[np.ndarray]:
  """Evenly spaced frames, scaled so that the longer side is `side` pixels."""
  count = len(frames_FHWC)
  spread = np.linspace(0, count - 1, min(columns, count)).round().astype(int)
  height, width = frames_FHWC[0].shape[:2]
  scale = side / max(height, width)
  size = max(1, round(height * scale)), max(1, round(width * scale))
  return [resize(np.ascontiguousarray(frames_FHWC[index]), size) for index in spread]


def _wrapped(text: str, font, width: int) -> list[str]:
  """Lines of at most `width` pixels, broken between words."""
  lines = [""]
  for word in text.split():
    longer = f"{lines[-1]} {word}".strip()
    if lines[-1] and font.getlength(longer) > width:
      lines.append(word)
    else:
      lines[-1] = longer
  return lines
