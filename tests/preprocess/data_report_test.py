"""The report says what was kept and why not, and runs nothing that the media say."""

import dataclasses
import re

import pyarrow.parquet
import pytest

from tests.data import clips
from tests.preprocess import ingest_test, scenes
from video_dit.data import pack, pieces, reader
from video_dit.media import write
from video_dit.preprocess import data_report, examine, ingest, sources, statistics
from video_dit.preprocess import facts as facts_lib

EVIL = (
  "<script>alert(1)</script> & \"quotes\" 'more' </table><img src=x onerror=alert(1)>"
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """The folder of a report, and its counts."""
  folder = tmp_path_factory.mktemp("report") / "in"
  folder.mkdir()
  rate = ingest_test.RATE
  write.write_video(folder / "a.mp4", scenes.texture(24, speed=2), rate)
  (folder / "a.txt").write_text(EVIL)
  write.write_video(folder / "<b>still<i>.mp4", scenes.texture(24, seed=1, speed=0), rate)
  write.write_video(folder / "c.png", scenes.texture(1, seed=2), rate)
  (folder / "<script>d.mp4").write_text("<html>")
  (folder / "e.mp4").write_bytes((folder / "a.mp4").read_bytes())
  out = folder.parent / "out"
  out.mkdir()
  config = ingest_test._with(max_frozen=0.5)
  config = dataclasses.replace(
    config,
    objective="diffusion",
    data=dataclasses.replace(config.data, row_length=4096),
  )
  return out, _report(folder, out, config)


def _report(folder, out, config) -> ingest.Counts:
  """Looks at a folder's files and writes tables and report."""
  with facts_lib.Facts(out / "facts.sqlite") as facts:
    facts.set_lines(sources.lines(folder), config.media, config.ingest)
    here = ingest_test._Here()
    ingest.examine_files(facts, config.media, here, config.ingest)
    counts = ingest.tabulate(facts, config, out)
    data_report.write(out, config, counts, facts, here)
  return counts


def test_the_page_shows_stages_charts_and_pictures(done):
  text = (done[0] / "report.html").read_text(encoding="utf-8")
  for part in (
    "probe and decode",
    "<td>duplicate</td>",
    "<td>frozen</td>",
    "rejected: frozen",
    "length of clips of videos",
    "tokens of a clip",
    ">1,024</text>",
  ):
    assert part in text, part
  assert re.search(r"<td>fill</td><td>\d+\.\d\d%</td>", text)
  # Two clips are kept, and a duplicate and a still one are not.
  assert text.count("data:image/jpeg;base64,") == 4


def test_nothing_of_the_media_is_markup(done):
  text = (done[0] / "report.html").read_text(encoding="utf-8")
  for part in ("<script", "<b>", "<i>", "<img src=x", "onerror=alert(1)>"):
    assert part not in text, part
  assert "&lt;script&gt;alert(1)" in text and "&lt;script&gt;d.mp4" in text


def test_the_table_has_the_numbers_of_the_page(done):
  out, counts = done
  rows = pyarrow.parquet.read_table(out / "report.parquet").to_pylist()
  stages = {row["name"]: row for row in rows if row["section"] == "stage"}
  assert list(stages)[1:] == list(statistics.STAGES)
  assert (stages["filter"]["rejects"], stages["encode"]["clips"]) == (1, counts.clips)
  sides = [row for row in rows if row["section"].startswith("size")]
  assert sum(row["clips"] for row in sides) == counts.clips == 2
  (fill,) = (row["low"] for row in rows if row["name"] == "fill")
  assert 0 < fill <= 1


def test_what_is_not_there_gets_no_chart_and_no_table(tmp_path):
  (tmp_path / "in").mkdir()
  write.write_video(tmp_path / "in" / "a.png", scenes.texture(1), ingest_test.RATE)
  config = ingest_test._with(measure=False, thumbnails=0)
  ingest_test._ingest(tmp_path / "in", tmp_path, config)
  with facts_lib.Facts(tmp_path / "facts.sqlite") as facts:
    data_report.write(tmp_path, config, ingest.Counts(), facts, ingest_test._Here())
  text = (tmp_path / "report.html").read_text(encoding="utf-8")
  assert "Not measured, as config.ingest.measure is off: " in text and "sharpness" in text
  assert "Packing" not in text  # of pixels


def test_another_report_decodes_no_picture_again(done, monkeypatch):
  out, counts = done
  monkeypatch.setattr(examine, "work", None)
  with facts_lib.Facts(out / "facts.sqlite") as facts:
    data_report.write(out, ingest_test.CONFIG, counts, facts, ingest_test._Here())
  assert "data:image/jpeg" in (out / "report.html").read_text(encoding="utf-8")


def test_a_picture_is_of_the_bytes_that_the_file_has_now(tmp_path):
  folder, out = tmp_path / "in", tmp_path / "out"
  folder.mkdir()
  out.mkdir()
  config = ingest_test.CONFIG
  found = []
  for seed in (0, 1):
    for name in "ab":  # the second of which has no key
      write.write_video(folder / f"{name}.png", scenes.texture(1, seed=seed), 8.0)
    _report(folder, out, config)
    text = (out / "report.html").read_text(encoding="utf-8")
    found.append(re.findall('data:image/jpeg;base64,[^"]*', text))
  for pictures in found:
    assert len(pictures) == 2 and pictures[0] == pictures[1]
  assert found[0][0] != found[1][0]


def test_packing_goes_by_the_tokens_that_encoded_captions_have(done, tmp_path):
  clips.write(tmp_path / "latents", 40)
  data = dataclasses.replace(
    ingest_test.CONFIG.data, row_length=64, row_segments=12, row_text=48
  )
  dit = dataclasses.replace(ingest_test.CONFIG.dit, patch=(1, 2, 2))
  config = dataclasses.replace(
    ingest_test.CONFIG, objective="diffusion", data=data, dit=dit
  )
  # Nothing is encoded in the other folder.
  assert data_report.plan(done[0], config)["tokens of captions"] == "estimated"
  found = data_report.plan(tmp_path, config)
  index = reader.Dataset(tmp_path / "latents", "train").index
  assert (found["clips"], found["tokens of captions"]) == (len(index), "counted")
  cut = pieces.cut(
    index.t, index.h, index.w, index.text_tokens, data=data, patch=dit.patch
  )
  planned = pack.plan_epoch(cut.tokens, cut.text_tokens, data, config.seed, 0)
  assert (found["rows"], found["fill"]) == (len(planned), planned.fill)
  # Latents are on a grid, which another patch may not divide.
  other = dataclasses.replace(config, dit=dataclasses.replace(dit, patch=(1, 4, 4)))
  assert (
    "not a multiple of dit.patch (1, 4, 4)"
    in data_report.plan(tmp_path, other)["problem"]
  )
