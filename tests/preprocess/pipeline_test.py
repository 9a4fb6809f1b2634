"""The pipeline gives what the pool gives, whatever runs it."""

import dataclasses
import pathlib
import pickle

import pytest

pytest.importorskip("apache_beam")
import apache_beam as beam
from apache_beam.testing import test_pipeline, util

from tests.preprocess import ingest_test, scenes
from video_dit.media import write
from video_dit.preprocess import beam_runner, ingest, pipeline, sources
from video_dit.preprocess import facts as facts_lib

RATE = ingest_test.RATE
# Those of grpc and of Beam's own threads.
pytestmark = pytest.mark.filterwarnings("default")
CONFIG = dataclasses.replace(
  ingest_test.CONFIG,
  ingest=dataclasses.replace(
    ingest_test.CONFIG.ingest, near_duplicates=True, max_frozen=0.8
  ),
)
TABLES = (ingest.CLIPS, ingest.REJECTS, ingest.UNCAPTIONED)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> pathlib.Path:
  """Good files and bad, some alike; not to be changed."""
  folder = tmp_path_factory.mktemp("beam") / "in"
  folder.mkdir()
  moving = scenes.texture(60, speed=2)
  write.write_video(folder / "-a.mp4", moving, RATE)
  write.write_video(folder / "b 'q' 🐈.gif", moving[:49], RATE)
  write.write_video(folder / "c.mp4", scenes.texture(12, seed=2, speed=0), RATE)
  write.write_video(folder / "d.png", scenes.texture(1, seed=3), RATE)
  (folder / "d.txt").write_text("<b>a picture</b>")
  (folder / "e.mp4").write_bytes((folder / "-a.mp4").read_bytes())
  (folder / "f.mp4").write_text("<html>")
  (folder / "g.mp4").touch()
  (folder / "no media.txt").write_text("a caption")
  name = b"h\xff.png".decode("utf-8", "surrogateescape")
  write.write_video(folder / "h.png", scenes.texture(1, seed=4), RATE)
  (folder / "h.png").rename(folder / name)
  return folder


@pytest.fixture(scope="module")
def by_pool(media, tmp_path_factory) -> dict[str, bytes]:
  """What is written without Beam."""
  out = tmp_path_factory.mktemp("beam") / "pool"
  ingest_test._ingest(media, out, CONFIG)
  reasons = {row["reason"] for row in ingest_test._rows(out, ingest.REJECTS)}
  wanted = {"duplicate", "near_duplicate", "frozen", "empty", "not_media", "no_media"}
  assert reasons == wanted
  return _bytes(out)


def _bytes(out: pathlib.Path) -> dict[str, bytes]:
  return {name: (out / name).read_bytes() for name in TABLES}


def _run(media, out: pathlib.Path, options: list[str], runner="DirectRunner") -> int:
  out.mkdir(exist_ok=True)
  with facts_lib.Facts(out / "work" / "facts.sqlite") as facts:
    facts.set_lines(sources.lines(media), CONFIG.media, CONFIG.ingest)
    looked_at, counts = beam_runner.run(facts, CONFIG, out, runner, options)
  assert counts.lines == 9 and counts.clips + counts.rejects == 10
  return looked_at


def test_beams_test_pipeline_makes_the_rows_of_the_pool(media, by_pool, tmp_path):
  with facts_lib.Facts(tmp_path / "facts.sqlite") as facts:
    facts.set_lines(sources.lines(media), CONFIG.media, CONFIG.ingest)
    shards = beam_runner._write_records(facts.records(CONFIG.media), str(tmp_path))
    with test_pipeline.TestPipeline(runner="FnApiRunner") as running:
      records = pipeline.examined(running, shards, CONFIG)
      rows = pipeline.decided(records, CONFIG)
      util.assert_that(rows | beam.Keys(), util.equal_to(list(range(1, 10))))
      pipeline.written(rows, str(tmp_path), "rows")
    found = pipeline.read_part(pipeline.part(str(tmp_path), "rows", 0))
    ingest.tabulate(facts, CONFIG, tmp_path, found=found)
  assert _bytes(tmp_path) == by_pool


def test_several_processes_make_the_tables_of_the_pool(media, by_pool, tmp_path):
  options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
  assert _run(media, tmp_path / "out", options) == 8
  assert _bytes(tmp_path / "out") == by_pool
  # Again, with all facts known.
  assert _run(media, tmp_path / "out", []) == 0
  assert _bytes(tmp_path / "out") == by_pool
  assert not (tmp_path / "out" / "work" / "pipeline").exists()


def test_the_embedded_runner_looks_at_files_some_at_a_time(
  media, by_pool, tmp_path, monkeypatch
):
  monkeypatch.setattr(beam_runner, "_AT_ONCE", 4)
  with facts_lib.Facts(tmp_path / "work" / "facts.sqlite") as facts:
    facts.set_lines(sources.lines(media), CONFIG.media, CONFIG.ingest)
    assert beam_runner.examine_files(facts, CONFIG, tmp_path) == 8
    assert beam_runner.examine_files(facts, CONFIG, tmp_path) == 0
    ingest.tabulate(facts, CONFIG, tmp_path)
  assert _bytes(tmp_path) == by_pool


def test_stages_pickle():
  stages = [
    pipeline.Read(),
    pipeline.Examine(CONFIG.media, CONFIG.ingest),
    pipeline.Decide(CONFIG),
    pipeline.Write("out", "rows"),
  ]
  for stage in stages:
    assert vars(pickle.loads(pickle.dumps(stage))) == vars(stage)
