"""Pages and charts: all text is escaped, all pictures are found."""

import base64
import itertools
import re
from xml.etree import ElementTree

import pytest

from video_dit.report.chart import line_chart
from video_dit.report.page import Page

_EVIL = '<script>alert("x & y")</script>'


def test_every_text_is_escaped(tmp_path):
  picture = tmp_path / "a.png"
  picture.write_bytes(b"png")
  page = Page(_EVIL)
  page.heading(_EVIL)
  page.paragraph(_EVIL)
  page.code(_EVIL)
  page.table([[_EVIL, 1]], header=[_EVIL, "n"])
  page.facts({_EVIL: _EVIL})
  page.chart(line_chart({_EVIL: [(0, 1), (1, 2)]}, title=_EVIL, x=_EVIL))
  page.gallery([(_EVIL, picture)])
  text = page.html()
  assert "<script" not in text
  assert text.count("&lt;script&gt;") >= 11


def test_pictures_lie_in_the_page_or_beside_it(tmp_path):
  picture = tmp_path / "samples" / "a clip #1.mp4"
  picture.parent.mkdir()
  picture.write_bytes(b"film")
  inside, beside = Page("inside"), Page("beside")
  inside.gallery([("one", picture)])
  beside.gallery([("one", picture)], folder=tmp_path)
  assert base64.b64encode(b"film").decode() in inside.html()
  assert 'src="samples/a%20clip%20%231.mp4"' in beside.html()


def test_a_page_is_written_whole(tmp_path):
  page = Page("p")
  page.table([["rows", 12_000], ["rate", 0.123456], ["yes", True]])
  page.write(tmp_path / "new" / "report.html")
  assert "12,000" in page.html() and "0.1235" in page.html() and "True" in page.html()
  assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]


def test_a_file_that_no_browser_shows_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"clip\.avi.*mp4"):
    Page("p").gallery([("c", tmp_path / "clip.avi")])


def _points(svg: str) -> list[tuple[float, float]]:
  found = re.search(r'points="([^"]+)"', svg)
  return [tuple(map(float, pair.split(","))) for pair in found[1].split()]


def test_a_falling_curve_falls_on_both_kinds_of_axes():
  series = {"loss": [(step, 10.0 / (1 + step)) for step in range(50)]}
  for log_y in (False, True):
    svg = line_chart(series, title="loss", log_y=log_y)
    ElementTree.fromstring(svg)
    points = _points(svg)
    assert len(points) == 50
    # SVG counts rows from the top.
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(points))


def test_long_curves_are_thinned_and_keep_their_end():
  points = _points(line_chart({"a": [(i, float(i)) for i in range(10_000)]}, title="a"))
  assert len(points) <= 600
  assert points[-1] == (624.0, 28.0)


@pytest.mark.parametrize(
  "points", [[], [(0, float("nan"))], [(0, -1.0)], [(3, 2.0)], [(0, 1.0), (1, 1.0)]]
)
def test_odd_curves_are_drawn_or_said_to_be_empty(points):
  svg = line_chart({"a": points}, title="a", log_y=True)
  ElementTree.fromstring(svg)
  empty = not any(y > 0 for _, y in points)
  assert ("nothing measured" in svg) == empty


def test_a_log_axis_says_so_and_has_round_values():
  svg = line_chart({"a": [(0, 0.7), (1, 1.4)]}, title="a", log_y=True)
  assert "a (log scale)" in svg and ">0.8<" in svg and ">1.2<" in svg
  svg = line_chart({"a": [(0, 0.3), (1, 4000)]}, title="a", log_y=True)
  assert ">1<" in svg and ">1,000<" in svg and ">2<" not in svg


def test_names_of_lines_stand_beside_the_lines():
  svg = line_chart({"left": [(0, 1), (1, 2)]}, title="a")
  end = max(px for px, _ in _points(svg))
  (name,) = re.findall(r'<text x="(\d+)" y="\d+" class="tick" style', svg)
  assert int(name) > end
