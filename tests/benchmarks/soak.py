"""Memory of ingest over many files: it must not grow with their number.

    python -m tests.benchmarks.soak --files=10000

Writes that many small clips and pictures, no two of the same bytes and some of them bad,
and sends them through ingest: the looks at the files in worker processes, the search for
near-duplicates, the tables and the report. Memory, of this process and of the greatest
worker, is read every few files; the last line says what was added by the second half.
"""

import dataclasses
import os
import pathlib
import tempfile
import time

from absl import app, flags
import numpy as np

from video_dit import config as config_lib
from video_dit.media import write
from video_dit.preprocess import data_report, examine, ingest, sources, workers
from video_dit.preprocess import facts as facts_lib

_FILES = flags.DEFINE_integer("files", 10_000, "Of the input.", lower_bound=20)
_WORKERS = flags.DEFINE_integer("workers", 2, "Processes.")
_ROWS = 10
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _templates(folder: pathlib.Path) -> list[tuple[str, bytes]]:
  """Contents of some files that differ."""
  rng = np.random.default_rng(0)
  made = []
  for i in range(16):
    clip_FHWC = rng.integers(0, 255, (6, 4, 4, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    suffix = (".mp4", ".mp4", ".png")[i % 3]
    path = folder / f"{i}{suffix}"
    write.write_video(path, clip_FHWC, 12.0)
    made.append((suffix, path.read_bytes()))
    path.unlink()
  return [*made, (".mp4", b"<html>no clip</html>"), (".mp4", made[0][1][:300])]


def _write_input(folder: pathlib.Path) -> None:
  folder.mkdir()
  templates = _templates(folder)
  for i in range(_FILES.value):
    suffix, content = templates[i % len(templates)]
    unique = f"{i:012d}".encode()
    if suffix == ".mp4":  # A box that players skip.
      unique = (8 + len(unique)).to_bytes(4, "big") + b"free" + unique
    (folder / f"{i:08d}{suffix}").write_bytes(content + unique)
    (folder / f"{i:08d}.txt").write_text(f"clip number {i}")


def _megabytes(process: int) -> float:
  try:
    pages = pathlib.Path(f"/proc/{process}/statm").read_text().split()[1]
  except OSError:
    return 0.0
  return int(pages) * _PAGE / 1e6


class _Watched(workers.Pool):
  """A pool that prints memory as results come."""

  def run(self, jobs, limit):
    """Yields as a pool does."""
    every, begun = max(1, _FILES.value // _ROWS), time.monotonic()
    self.seen: list[tuple[float, float]] = getattr(self, "seen", [])
    for count, result in enumerate(super().run(jobs, limit), 1):
      yield result
      if count % every == 0:
        most = max((_megabytes(w.process.pid) for w in self._workers), default=0.0)
        self.seen.append((_megabytes(os.getpid()), most))
        rate = count / (time.monotonic() - begun)
        ours, theirs = self.seen[-1]
        print(f"{count:>8,} files  {ours:8.1f} MB  {theirs:8.1f} MB  {rate:8.1f} files/s")


def main(_: list[str]) -> None:
  """Runs the soak."""
  config = config_lib.Config(
    name="soak",
    objective="reconstruction",
    media=config_lib.Media(frames_per_second=12.0, workers=_WORKERS.value),
    ingest=config_lib.Ingest(near_duplicates=True),
  )
  with tempfile.TemporaryDirectory() as place:
    folder, out = pathlib.Path(place, "in"), pathlib.Path(place, "out")
    _write_input(folder)
    out.mkdir()
    print(f"{'':>14}  {'this one':>11}  {'a worker':>11}")
    pool = _Watched(examine.work, config.media.workers, config.media.timeout_seconds)
    with facts_lib.Facts(out / "facts.sqlite") as facts, pool:
      facts.set_lines(sources.lines(folder), config.media, config.ingest)
      ingest.examine_files(facts, config.media, pool, config.ingest)
      looked_at = _megabytes(os.getpid())
      counts = ingest.tabulate(facts, config, out)
      half = pool.seen[len(pool.seen) // 2 - 1]
      grown = [last - middle for last, middle in zip(pool.seen[-1], half, strict=True)]
      data_report.write(out, config, counts, facts, pool)
    tables = _megabytes(os.getpid()) - looked_at
    known = {k: v for k, v in dataclasses.asdict(counts).items() if isinstance(v, int)}
    print(f"{known}, {dict(counts.reasons)}")
    print(
      f"the second half of {_FILES.value:,} files added {grown[0]:+.1f} MB here and"
      f" {grown[1]:+.1f} MB to the greatest worker; tables and report {tables:+.1f} MB"
    )


if __name__ == "__main__":
  app.run(main)
