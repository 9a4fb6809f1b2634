"""Pages of HTML that open anywhere: everything escaped, no script, no network.

A `Page` is a list of elements. Text is passed in plain and is escaped here; pictures and
videos are embedded as bytes, or linked as files beside the page.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
import html
import os
import pathlib
from typing import Any
import urllib.parse

from video_dit import files

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;
color:#1f2937;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid #e5e7eb}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.25rem .8rem;text-align:left;
border-bottom:1px solid #e5e7eb;vertical-align:top;overflow-wrap:anywhere}
td.n,th.n{text-align:right;
font-variant-numeric:tabular-nums}.grid{display:flex;flex-wrap:wrap;gap:14px}
figure{margin:0;max-width:100%}figcaption{font-size:.85rem;color:#4b5563;max-width:340px}
img,video{max-width:100%;min-width:192px;image-rendering:pixelated;border-radius:4px}
svg.chart{width:100%;max-width:640px;background:#fafafa;border-radius:6px;margin:4px}
svg text{font:12px system-ui,sans-serif;fill:#1f2937}
svg .tick{fill:#6b7280;font-size:11px}
svg .title{font-size:14px;font-weight:600}svg line.grid{stroke:#e5e7eb}
pre{background:#f9fafb;padding:.8rem;overflow:auto;font-size:.8rem}
@media(prefers-color-scheme:dark){:root{color-scheme:dark}body{color:#e5e7eb;
background:#111827}h2,td,th{border-color:#374151}figcaption{color:#9ca3af}
svg.chart,pre{background:#1f2937}svg text{fill:#e5e7eb}svg .tick{fill:#9ca3af}
svg line.grid{stroke:#374151}}
"""
_KINDS = {
  ".png": ("img", "image/png"),
  ".jpg": ("img", "image/jpeg"),
  ".gif": ("img", "image/gif"),
  ".webp": ("img", "image/webp"),
  ".mp4": ("video", "video/mp4"),
}


class Page:
  """A page under construction.

  Args:
    title: of the page, and its first heading.
  """

  def __init__(self, title: str):
    self.title = title
    self._parts: list[str] = [f"<h1>{html.escape(title)}</h1>"]

  def heading(self, text: str) -> None:
    """A section's heading."""
    self._parts.append(f"<h2>{html.escape(text)}</h2>")

  def paragraph(self, text: str) -> None:
    """A paragraph of plain text."""
    self._parts.append(f"<p>{html.escape(text)}</p>")

  def code(self, text: str) -> None:
    """Text in a fixed-width font, with line breaks kept."""
    self._parts.append(f"<pre>{html.escape(text)}</pre>")

  def table(self, rows: Iterable[Sequence[Any]], header: Sequence[str] = ()) -> None:
    """A table; numbers are right-aligned and shown to four digits.

    Args:
      rows: of cells; anything but numbers is shown as text.
      header: names of the columns.
    """
    lines = []
    if header:
      lines.append(_row(header, "th"))
    lines.extend(_row(row, "td") for row in rows)
    self._parts.append(f"<table>{''.join(lines)}</table>")

  def facts(self, values: Mapping[str, Any]) -> None:
    """A table of names and values."""
    self.table(list(values.items()))

  def chart(self, svg: str) -> None:
    """A chart made by `report.chart`."""
    self._parts.append(svg)

  def gallery(
    self, items: Iterable[tuple[str, pathlib.Path]], *, folder: pathlib.Path | None = None
  ) -> None:
    """Pictures and videos with their captions, side by side.

    Args:
      items: captions and files (png, jpg, gif, webp, mp4).
      folder: where the page will be: files are linked relative to it. None embeds their
        bytes in the page.

    Raises:
      ValueError: a file of another kind.
    """
    figures = (_figure(caption, pathlib.Path(path), folder) for caption, path in items)
    self._parts.append(f'<div class="grid">{"".join(figures)}</div>')

  def html(self) -> str:
    """The whole page."""
    return (
      '<!doctype html><html lang="en"><head><meta charset="utf-8">'
      '<meta name="viewport" content="width=device-width,initial-scale=1">'
      f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>"
      f"<body>{''.join(self._parts)}</body></html>\n"
    )

  def write(self, path: str | os.PathLike) -> None:
    """Writes the page; a reader sees the complete old page or the new one."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, self.html())


def _row(cells: Sequence[Any], tag: str) -> str:
  return f"<tr>{''.join(_cell(cell, tag) for cell in cells)}</tr>"


def _cell(value: Any, tag: str) -> str:
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if number:
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
  else:
    text = str(value)
  return f"<{tag}{' class=n' if number else ''}>{html.escape(text)}</{tag}>"


def _figure(caption: str, path: pathlib.Path, folder: pathlib.Path | None) -> str:
  if path.suffix.lower() not in _KINDS:
    raise ValueError(
      f"{path}: a page can show {', '.join(_KINDS)}, not {path.suffix!r}. Write one"
      " of these."
    )
  tag, kind = _KINDS[path.suffix.lower()]
  if folder is None:
    source = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
  else:
    relative = os.path.relpath(path.absolute(), pathlib.Path(folder).absolute())
    source = urllib.parse.quote(pathlib.PurePath(relative).as_posix())
  if tag == "img":
    element = f'<img src="{source}" alt="{html.escape(caption)}">'
  else:
    element = f'<video src="{source}" controls loop muted autoplay playsinline></video>'
  return f"<figure>{element}<figcaption>{html.escape(caption)}</figcaption></figure>"
