"""Histograms as inline SVG: one bar per bin, with stacked parts."""

from collections.abc import Mapping, Sequence
import html

from video_dit.report.chart import COLOURS

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 28, 44
_MOST_LABELS = 12


def histogram(
  bins: Sequence[str], counts: Mapping[str, Sequence[int]], *, title: str
) -> str:
  """Draws stacked bars.

  Args:
    bins: names of the bins, in order.
    counts: of each part, by bin.
    title: above the chart.

  Returns:
    An `<svg>` element, which says so if there is nothing to draw.
  """
  head = (
    f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
    f' aria-label="{html.escape(title)}">'
    f'<text x="{_LEFT}" y="16" class="title">{html.escape(title)}</text>'
  )
  totals = [sum(column) for column in zip(*counts.values(), strict=True)]
  if not sum(totals):
    return f'{head}<text x="{_LEFT}" y="{_HEIGHT // 2}">nothing to count</text></svg>'
  parts = [head]
  step = (_WIDTH - _LEFT - _RIGHT) / len(bins)
  scale = (_HEIGHT - _TOP - _BOTTOM) / max(totals)
  floor = _HEIGHT - _BOTTOM
  for i in range(len(bins)):
    y = float(floor)
    for part, colour in zip(counts, COLOURS, strict=False):
      height = counts[part][i] * scale
      y -= height
      if height:
        parts.append(
          f'<rect x="{_LEFT + i * step + 1:.1f}" y="{y:.1f}" width="{step - 2:.1f}"'
          f' height="{height:.1f}" fill="{colour}"><title>'
          f"{html.escape(f'{bins[i]}: {counts[part][i]:,} {part}')}</title></rect>"
        )
  for i in range(0, len(bins), -(-len(bins) // _MOST_LABELS)):
    parts.append(
      f'<text class="tick" x="{_LEFT + (i + 0.5) * step:.1f}" y="{floor + 16}"'
      f' text-anchor="middle">{html.escape(bins[i])}</text>'
    )
  parts.append(
    f'<text class="tick" x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">'
    f"{max(totals):,}</text>"
  )
  for i, (part, colour) in enumerate(zip(counts, COLOURS, strict=False)):
    parts.append(
      f'<text class="tick" x="{_LEFT + 90 * i}" y="{_HEIGHT - 8}"'
      f' style="fill:{colour}">{html.escape(part)}</text>'
    )
  return "".join(parts) + "</svg>"
