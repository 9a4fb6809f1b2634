"""Seconds and memory of ingest's tables over many clips whose files were looked at.

    python -m tests.benchmarks.tables --clips=1000000

Each run makes the tables anew, from lines and facts. Facts of made-up
clips of four seconds, one in a hundred alike, stand in for the looks at files.
"""

import json
import pathlib
import resource
import tempfile
import time

from absl import app, flags
import numpy as np

from video_dit import config as config_lib
from video_dit.media import write
from video_dit.preprocess import examine, ingest, inputs, plan, rows, survey
from video_dit.preprocess import facts as facts_lib

_CLIPS = flags.DEFINE_integer("clips", 100_000, "How many.", lower_bound=100)


class _Clock:
  """Prints what each stage took."""

  def __init__(self) -> None:
    self._begun = time.monotonic()

  def stage(self, name: str) -> None:
    """Ends a stage."""
    seconds, self._begun = time.monotonic() - self._begun, time.monotonic()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    each = seconds / _CLIPS.value * 1e6
    print(f"{name:<24} {seconds:8.1f} s  {each:8.1f} us/clip  {most:8.0f} MB", flush=True)


def _lines():
  for i in range(_CLIPS.value):
    file = f"gs://bucket/{i % 1000:03d}/{i:09d}.mp4"
    caption = f"number {i}: someone walks down a street in the rain, seen from behind"
    yield inputs.Line(path=file, file=file, caption=caption, stamp=str(i))


def _look(folder: pathlib.Path, config: config_lib.Config) -> dict:
  """The facts of a file."""
  rng = np.random.default_rng(0)
  path = folder / "a.mp4"
  write.write_video(path, rng.integers(0, 255, (48, 64, 64, 3), np.uint8), 12.0)
  line = inputs.Line(path="a", file=str(path))
  return examine.work(ingest.job_of(b"", line, config.media, config.ingest))[0]


def main(_: list[str]) -> None:
  """Runs the stages."""
  config = config_lib.Config(
    name="tables",
    objective="reconstruction",
    media=config_lib.Media(frames_per_second=12.0),
    ingest=config_lib.Ingest(near_duplicates=True),
  )
  rng, clock = np.random.default_rng(1), _Clock()
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    known = _look(folder, config)
    samples = survey.unpack(known["samples"]).copy()
    with facts_lib.Facts(folder / "facts.sqlite") as facts:
      clock.stage("start")
      facts.set_lines(_lines(), config.media, config.ingest)
      clock.stage("lines")
      for i, (id, _) in enumerate(facts.unseen(config.media)):
        if i % 100:
          samples["hash"] = rng.integers(1, 2**63, len(samples), np.uint64)
        own = {"sha256": f"{i:064x}", "samples": survey.pack(samples)}
        facts.put(id, json.loads(json.dumps(known | own)))
      facts.commit()
      clock.stage("facts (of this script)")
      counts = ingest.tabulate(facts, config, folder)
      clock.stage("tables, near-duplicates")
    print(f"{counts.clips:,} clips, {dict(counts.reasons)}")
    planned = plan.read(folder / ingest.CLIPS)
    clock.stage("plan of the data set")
    with rows.Rows(folder / ingest.CLIPS):
      clock.stage("captions and paths")
    assert len(planned) == counts.clips


if __name__ == "__main__":
  app.run(main)
