"""Adherence: what the pixels of a clip of one moving shape show, by a fixed rule.

The rule sees only decoded pixels. The background is the median of the frames' borders;
what differs from it is foreground, and its largest connected piece is the object.

- colour: the hue that most of the object's pixels have, among the demo's colours.
- direction: the axis along which the object's centre travels, fitted over all frames.
- shape: the demo's shape that, drawn with the object's area and centre, overlaps it
  best, averaged over frames.
- wholeness: in nearly all frames one compact piece holds nearly all foreground, and it
  keeps its size, which is in the range of rendered clips.

Each answer is None where the pixels are not clear, so that noise, a blank clip or a smear
is right less often than a guess.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np
from scipy import ndimage, spatial

from video_dit.media import shapes
from video_dit.media.shapes import rendering

# Distances in RGB: least visible difference from the background, and least saturation.
VISIBLE = 48.0
SATURATION = 50.0
# Degrees of hue to the nearest colour; neighbours are 50 to 60 apart.
HUE = 27.0
HUE_SHARE = 0.6
# In units of the frame's short side: areas that a frame's object may have, areas as in
# rendered clips, and travel.
OBJECT_AREA = (0.025, 0.4)
WHOLE_AREA = (0.05, 0.3)
LEAST_TRAVEL = 0.16
STRAIGHTNESS = 2.0
# Overlap (intersection over union) with a drawn shape.
LEAST_OVERLAP = 0.75
# Wholeness: share of foreground in one piece, of its convex hull that is filled, and
# area over the median area.
PIECE_SHARE = 0.92
SOLIDITY = 0.78
AREA_RATIO = 1.3
# One frame in so many may fail.
TOLERANCE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
  """What a clip shows; None where the answer is not clear.

  Attributes:
    colour, direction, shape, background: words of the demo's captions.
    whole: one connected object that keeps its size.
  """

  colour: str | None
  direction: str | None
  shape: str | None
  background: str
  whole: bool


def _hues(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns hue in degrees and saturation (greatest less least value) of `(..., 3)`."""
  red, green, blue = (colours[..., i].astype(np.float64) for i in range(3))
  hue = np.degrees(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue))
  return hue % 360, np.ptp(colours.astype(np.float64), axis=-1)


def _colour(pixels: np.ndarray) -> str | None:
  """Returns the colour that most of `(pixels, 3)` have."""
  if not len(pixels):
    return None
  hues, saturations = _hues(pixels)
  palette, _ = _hues(np.array(list(shapes.COLOURS.values())))
  distances = np.abs((hues[:, None] - palette[None] + 180) % 360 - 180)
  nearest = np.argmin(distances, axis=1)
  clear = (saturations >= SATURATION) & (distances.min(axis=1) <= HUE)
  votes = np.bincount(nearest[clear], minlength=len(palette))
  if votes.max() < HUE_SHARE * len(pixels):
    return None
  return list(shapes.COLOURS)[int(votes.argmax())]


def _background(frames_FHWC: np.ndarray) -> np.ndarray:
  """Returns the median colour of the frames' borders, `(3,)`."""
  rim = np.ones(frames_FHWC.shape[1:3], bool)
  rim[1:-1, 1:-1] = False
  return np.median(frames_FHWC[:, rim].astype(np.float64), axis=(0, 1))


def _largest_piece(mask: np.ndarray) -> np.ndarray:
  """Returns the largest connected piece of a mask `(H, W)`; neighbours share an edge."""
  labels, count = ndimage.label(mask)
  if not count:
    return np.zeros_like(mask)
  return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def _solidity(piece: np.ndarray) -> float:
  """Returns the share of a piece's convex hull that the piece fills."""
  rows, columns = np.nonzero(piece)
  if not len(rows):
    return 0.0
  corners = [
    np.stack([rows + down, columns + right], 1) for down in (0, 1) for right in (0, 1)
  ]
  return len(rows) / spatial.ConvexHull(np.concatenate(corners)).volume


def _overlaps(piece: np.ndarray) -> np.ndarray:
  """Returns the overlap of a piece with each shape of its area and centre."""
  size = piece.sum()
  rows, columns = np.nonzero(piece)
  y, x = np.ogrid[: piece.shape[0], : piece.shape[1]]
  overlaps = []
  for shape in shapes.SHAPES:
    radius = float(np.sqrt(size / rendering.area(shape)))
    drawn = rendering.coverage(shape, y - rows.mean(), x - columns.mean(), radius)
    drawn = drawn > 0.5
    overlaps.append((drawn & piece).sum() / (drawn | piece).sum())
  return np.array(overlaps)


def _travel(centres: np.ndarray, frames: np.ndarray, last: int) -> np.ndarray:
  """Returns the travel `(2,)` over the clip of a line fitted to the centres."""
  if len(frames) < 2:
    return np.zeros(2)
  time = frames - frames.mean()
  slopes = (time[:, None] * (centres - centres.mean(0))).sum(0) / (time**2).sum()
  return slopes * last


def _direction(travel: np.ndarray) -> str | None:
  """Returns the direction of a travel in short sides."""
  axis = int(np.argmax(np.abs(travel)))
  along, across = np.abs(travel[axis]), np.abs(travel[1 - axis])
  if along < LEAST_TRAVEL or along < STRAIGHTNESS * across:
    return None
  step = [0, 0]
  step[axis] = int(np.sign(travel[axis]))
  return {way: word for word, way in shapes.DIRECTIONS.items()}[(step[0], step[1])]


def measure(frames_FHWC: np.ndarray) -> Measured:
  """Measures a clip of one moving shape.

  Args:
    frames_FHWC: decoded frames, uint8.

  Raises:
    ValueError: frames of another shape or dtype.
  """
  if frames_FHWC.ndim != 4 or frames_FHWC.shape[-1] != 3:
    raise ValueError(f"frames {frames_FHWC.shape}: must be (frames, height, width, 3).")
  if frames_FHWC.dtype != np.uint8:
    raise ValueError(f"frames of {frames_FHWC.dtype}: must be uint8.")
  count, short = len(frames_FHWC), min(frames_FHWC.shape[1:3])
  background = _background(frames_FHWC)
  distance_FHW = np.linalg.norm(frames_FHWC - background, axis=-1)
  visible_FHW = distance_FHW > VISIBLE
  contrast = np.median(distance_FHW[visible_FHW]) if visible_FHW.any() else 0.0
  # Half the contrast is where a blurred edge was.
  pieces = [_largest_piece(mask) for mask in distance_FHW > max(VISIBLE, contrast / 2)]
  areas = np.array([piece.sum() for piece in pieces]) / short**2
  present = np.flatnonzero((areas >= OBJECT_AREA[0]) & (areas <= OBJECT_AREA[1]))
  enough = len(present) >= max(1, count - count // TOLERANCE)

  colour = direction = shape = None
  if enough:
    colour = _colour(
      np.concatenate([frames_FHWC[i][pieces[i] & _core(pieces[i])] for i in present])
    )
    centres = np.array([np.mean(np.nonzero(pieces[i]), axis=1) for i in present])
    direction = _direction(_travel(centres, present, count - 1) / short)
    overlaps = np.mean([_overlaps(pieces[i]) for i in present], axis=0)
    if overlaps.max() >= LEAST_OVERLAP:
      shape = shapes.SHAPES[int(overlaps.argmax())]

  shares = [
    _largest_piece(mask).sum() / max(mask.sum(), 1) if mask.any() else 0.0
    for mask in visible_FHW
  ]
  names = list(shapes.BACKGROUNDS)
  greys = np.array(list(shapes.BACKGROUNDS.values()), np.float64)
  return Measured(
    colour=colour,
    direction=direction,
    shape=shape,
    background=names[int(np.argmin(np.linalg.norm(greys - background, axis=1)))],
    whole=enough and _is_whole(pieces, areas, shares),
  )


def _core(piece: np.ndarray) -> np.ndarray:
  """Returns a piece without its border, whose colours mix with the background."""
  core = ndimage.binary_erosion(piece)
  return core if core.any() else piece


def _is_whole(
  pieces: Sequence[np.ndarray], areas: np.ndarray, shares: Sequence[float]
) -> bool:
  """Whether nearly all frames show one compact object of one size."""
  middle = np.median(areas)
  if not WHOLE_AREA[0] <= middle <= WHOLE_AREA[1]:
    return False
  good = [
    share >= PIECE_SHARE
    and middle / AREA_RATIO <= area <= middle * AREA_RATIO
    and _solidity(piece) >= SOLIDITY
    for piece, area, share in zip(pieces, areas, shares, strict=True)
  ]
  return len(good) - sum(good) <= len(good) // TOLERANCE


def judge(measured: Measured, truth: Mapping[str, str]) -> dict[str, bool]:
  """Compares what a clip shows with what its prompt asks for.

  Args:
    measured: of the clip.
    truth: words by `colour`, `shape` and, unless it is an image, `direction`; other
      entries are not judged.

  Returns:
    Whether each is right, and `wholeness`.
  """
  words = [word for word in ("colour", "direction", "shape") if word in truth]
  right = {word: getattr(measured, word) == truth[word] for word in words}
  return right | {"wholeness": measured.whole}
