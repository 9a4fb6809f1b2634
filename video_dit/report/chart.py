"""Line charts as inline SVG: no script, no font, no file beside the page."""

from collections.abc import Mapping, Sequence
import html
import math

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#db2777")
_WIDTH, _HEIGHT = 760, 280
# The names of the lines stand to their right.
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 136, 28, 40

Points = Sequence[tuple[float, float]]


def line_chart(
  series: Mapping[str, Points], *, title: str, x: str = "step", log_y: bool = False
) -> str:
  """Draws one or more lines over a common pair of axes.

  Args:
    series: name to `(x, y)` points; those that are not finite, or not positive on a log
      axis, are left out.
    title: above the chart.
    x: name of the horizontal axis.
    log_y: logarithmic vertical axis.

  Returns:
    An `<svg>` element, which says so if there is nothing to draw.
  """
  drawn = {name: _drawable(points, log_y) for name, points in series.items()}
  drawn = {name: points for name, points in drawn.items() if points}
  title += " (log scale)" if log_y else ""
  head = (
    f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
    f' aria-label="{html.escape(title)}">'
    f'<text x="{_LEFT}" y="16" class="title">{html.escape(title)}</text>'
  )
  if not drawn:
    return f'{head}<text x="{_LEFT}" y="{_HEIGHT // 2}">nothing measured yet</text></svg>'
  xs = [px for points in drawn.values() for px, _ in points]
  ys = [py for points in drawn.values() for _, py in points]
  x_range, y_range = _widen(min(xs), max(xs)), _widen(min(ys), max(ys))
  parts = [head, _axes(x_range, y_range, x, log_y)]
  for i, (name, points) in enumerate(drawn.items()):
    colour = COLOURS[i % len(COLOURS)]
    parts.append(_line(points, x_range, y_range, colour))
    parts.append(_legend(i, name, colour))
  return "".join(parts) + "</svg>"


def _drawable(points: Points, log_y: bool) -> list[tuple[float, float]]:
  """Finite points, with log10 of y on a log axis, at most 600 of them."""
  kept = [
    (float(px), math.log10(py) if log_y else float(py))
    for px, py in points
    if math.isfinite(px) and math.isfinite(py) and (py > 0 or not log_y)
  ]
  stride = max(1, math.ceil(len(kept) / 600))
  # From the end, so that the last point always shows.
  return kept[::-1][::stride][::-1]


def _widen(low: float, high: float) -> tuple[float, float]:
  if high > low:
    return low, high
  margin = abs(low) * 0.1 or 1.0
  return low - margin, high + margin


def _place(px: float, py: float, x_range, y_range) -> tuple[float, float]:
  across = (px - x_range[0]) / (x_range[1] - x_range[0])
  up = (py - y_range[0]) / (y_range[1] - y_range[0])
  return (
    _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
    _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
  )


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Round values within a range, at steps of 1, 2 or 5 times a power of ten."""
  rough = (high - low) / count
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
  """Logarithms, within a range of them, of round values."""
  powers = range(math.floor(low), math.ceil(high) + 1)
  for factors in ((1,), (1, 2, 5)):
    values = [math.log10(f) + power for power in powers for f in factors]
    found = [value for value in values if low <= value <= high]
    if len(found) > 3:
      return found
  return [math.log10(value) for value in _ticks(10**low, 10**high) if value > 0]


def _axes(x_range, y_range, x: str, log_y: bool) -> str:
  parts = []
  bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
  for value in _log_ticks(*y_range) if log_y else _ticks(*y_range):
    _, y = _place(x_range[0], value, x_range, y_range)
    label = f"{10**value if log_y else value:,.4g}"
    parts.append(
      f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
      f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
      f"{label}</text>"
    )
  for value in _ticks(*x_range):
    left, _ = _place(value, y_range[0], x_range, y_range)
    parts.append(
      f'<text class="tick" x="{left:.1f}" y="{bottom + 16}"'
      f' text-anchor="middle">{value:,.6g}</text>'
    )
  parts.append(
    f'<text class="tick" x="{right}" y="{_HEIGHT - 6}" text-anchor="end">'
    f"{html.escape(x)}</text>"
  )
  return "".join(parts)


def _line(points, x_range, y_range, colour: str) -> str:
  placed = [_place(px, py, x_range, y_range) for px, py in points]
  if len(placed) == 1:
    return (
      f'<circle cx="{placed[0][0]:.1f}" cy="{placed[0][1]:.1f}" r="3" fill="{colour}"/>'
    )
  path = " ".join(f"{px:.1f},{py:.1f}" for px, py in placed)
  return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'


def _legend(i: int, name: str, colour: str) -> str:
  y = _TOP + 14 + 15 * i
  return (
    f'<text x="{_WIDTH - _RIGHT + 8}" y="{y}" class="tick"'
    f' style="fill:{colour}">{html.escape(name)}</text>'
  )
