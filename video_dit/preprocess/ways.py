"""The ways to run ingest: a pool of processes, or Apache Beam where it is installed."""

from collections.abc import Callable
import dataclasses
import importlib.util
import os

from video_dit import config as config_lib
from video_dit import extras
from video_dit.preprocess import facts as facts_lib
from video_dit.preprocess import held as held_lib
from video_dit.preprocess import ingest, shots, workers

POOL = "pool"


@dataclasses.dataclass(frozen=True)
class Way:
  """How ingest is run.

  Attributes:
    runner: Beam's name of a runner; empty is Beam's embedded one where Beam is
      installed, else the pool; `pool` is the pool.
    options: of the runner, as on Beam's command line.
  """

  runner: str = ""
  options: tuple[str, ...] = ()

  @property
  def uses_beam(self) -> bool:
    """Whether Beam runs it."""
    return self.runner != POOL and (bool(self.runner) or _has_beam())

  def check(self, ingest: config_lib.Ingest, output: str | os.PathLike[str]) -> None:
    """Refuses what cannot run here, before anything is examined.

    Args:
      ingest: settings.
      output: of the run.

    Raises:
      ValueError: an extra is missing, a runner or an option is unknown, or the runner's
        machines cannot reach the output.
    """
    shots.check(ingest)
    if not self.uses_beam:
      if self.options:
        raise ValueError(f"{self.options[0]}: unknown flag. See --help.")
      return
    if not _has_beam():
      raise ValueError(
        f"--runner={self.runner} needs Apache Beam. Install it with"
        f" {extras.command('beam')}, or pass"
        f" --runner={POOL}."
      )
    from video_dit.preprocess import beam_runner

    beam_runner.check(self.runner, self.options, output)


def run(
  way: Way,
  facts: facts_lib.Facts,
  config: config_lib.Config,
  folder: str | os.PathLike[str],
  tables: str | os.PathLike[str],
  pool: workers.Pool,
  *,
  place: str = "",
  held: held_lib.Held = held_lib.Held(),
  then: Callable[[], None] = lambda: None,
) -> tuple[int, ingest.Counts]:
  """Examines all files that have no facts yet, and makes the tables.

  Args:
    way: of running ingest.
    facts: hold the lines, and are completed.
    config: settings.
    folder: of the output, on this machine.
    tables: folder that the tables are written to.
    pool: of workers that run `examine.work`.
    place: the output as all machines of a runner see it; empty where that is `folder`.
    held: clips that stay before others that are equal.
    then: called between the two.

  Returns:
    How many files were examined, and what the tables hold.
  """
  if not way.uses_beam:
    examined = ingest.examine_files(facts, config.media, pool, config.ingest)
  else:
    from video_dit.preprocess import beam_runner

    if way.runner:
      options, place = list(way.options), place or os.fspath(folder)
      return beam_runner.run(facts, config, tables, way.runner, options, place, held)
    examined = beam_runner.examine_files(facts, config, folder, pool.function)
  then()
  return examined, ingest.tabulate(facts, config, tables, held)


def _has_beam() -> bool:
  return importlib.util.find_spec("apache_beam") is not None
