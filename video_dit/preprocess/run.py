"""The whole stage: input -> tables -> data set, and the outcome."""

from collections.abc import Callable
import dataclasses
import functools
import os
import pathlib
import tempfile
import time
from typing import Any

import jax

from video_dit import config as config_lib
from video_dit import interop, lock
from video_dit.data import schema
from video_dit.models.autoencoder.frozen import Frozen
from video_dit.preprocess import captions as captions_lib
from video_dit.preprocess import (
  cuts,
  data_report,
  encode,
  examine,
  ingest,
  longest,
  makers,
  progress,
  remote,
  remote_disk,
  sources,
  ways,
  workers,
)
from video_dit.preprocess import facts as facts_lib
from video_dit.preprocess import held as held_lib
from video_dit.preprocess import hosts as hosts_lib
from video_dit.preprocess import plan as plan_lib
from video_dit.preprocess import rows as rows_lib

TEXT = "text"
_FACTS = "work/facts.sqlite"
# Where tables wait until the data set that is there is known to allow what they say.
_TABLES = "work/tables"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What a run did.

  Attributes:
    folder: of the data set.
    counts: of the tables.
    examined: files examined in this run; the others were known.
    made: records written and reused.
    packing: what `data_report.plan` expects of the training split; nothing for pixels.
    seconds: spent in each stage.
    place: of the output, for people.
    host, hosts: which of how many hosts this one is.
  """

  folder: pathlib.Path
  counts: ingest.Counts
  examined: int
  made: progress.Made
  packing: dict[str, Any]
  seconds: dict[str, float]
  place: str
  host: int = 0
  hosts: int = 1


def preprocess(
  config: config_lib.Config,
  source: str | os.PathLike[str],
  output: str | os.PathLike[str],
  *,
  overwrite: bool = False,
  mesh: jax.sharding.Mesh | None = None,
  host: int = 0,
  hosts: int = 1,
  way: ways.Way = ways.Way(),
  wait_seconds: float = 10.0,
) -> Outcome:
  """Makes `latents/`, or `pixels/` if the autoencoder is to be trained.

  A killed run continues where it was; rerunning a finished run decodes and encodes
  nothing, but lists the input and makes the tables anew. New files are added. A data set
  of other settings, or whose records were removed or captioned anew in the input, is
  refused without `overwrite`, and the tables stay with it; with `overwrite`, what depends
  on the change is removed or remade, and only that.

  Args:
    config: `objective` decides the kind of the data set.
    source: a folder or a manifest, local or remote, or `tfds:name[:split]`.
    output: folder of the tables, the text encoder and the data set, local or remote.
    overwrite: remake what other settings left, and retry what timed out,
      crashed the decoder or broke after ingest.
    mesh: clips are encoded on all its devices; None uses one.
    host, hosts: which of how many processes this one is, that make the output together.
      The first one does all but its share of encoding, too.
    way: to look at the files and make the tables.
    wait_seconds: how long a run that is still ending in the output is waited for, and
      how long, where all is done, a host that helps waits for the first one's next word.

  Raises:
    FileNotFoundError: the input or the autoencoder does not exist.
    ValueError: a setting or a path is wrong, a clip is longer than a row of training,
      the output holds what other settings made, or hosts have been started with different
      ones.
    lock.Busy: another run is using the output.
    remote.RemoteError: a remote input or output cannot be reached.
  """
  if overwrite and hosts > 1:
    raise ValueError(
      f"--overwrite with {hosts} hosts: one would remove what others make. Run"
      " it once on one host, or choose another --output."
    )
  for flag, path in (("--input", source), ("--output", output)):
    remote.check_slashes(flag, path)
  clock = _Clock()
  cuts.grid_of(config)
  way.check(config.ingest, output)
  autoencoder = None
  if config.objective == "diffusion":
    captions_lib.check(config.text)
    autoencoder = _load_autoencoder(config.autoencoder, mesh)
  lines = sources.lines(source, output)
  folder, disk = remote_disk.output(output)
  folder.mkdir(parents=True, exist_ok=True)
  kind: schema.Kind = "latents" if config.objective == "diffusion" else "pixels"
  team = None
  if hosts > 1:
    devices = 1 if mesh is None else mesh.size
    found = sources.lines(source, output)
    inputs = hosts_lib.Inputs.of(found, config, hosts, devices)
    team = hosts_lib.Team(folder / hosts_lib.FOLDER, inputs, host, disk)
  fetched = tempfile.TemporaryDirectory(prefix="video_dit_media")
  work = functools.partial(examine.work, folder=fetched.name)
  pool = workers.Pool(work, config.media.workers, config.media.timeout_seconds)

  def maker(
    clips: pathlib.Path, plan: plan_lib.Plan, rows: rows_lib.Rows
  ) -> makers.Maker:
    text = folder / TEXT
    return _maker(config, text, clips, plan, rows, autoencoder, overwrite, mesh, hosts)

  counts, examined, made = ingest.Counts(), 0, progress.Made()
  packing: dict[str, Any] = {}
  with fetched, pool:
    if team is not None and host:
      clock.start(kind)
      alone = lock.held(team.folder / str(host), flag="--host", wait_seconds=wait_seconds)
      with alone:
        made = _help(team, folder, kind, maker, pool, config.media, wait_seconds)
    else:
      alone = lock.held(folder / "work", flag="--output", wait_seconds=wait_seconds)
      with alone, facts_lib.Facts(folder / _FACTS, disk) as facts:
        clock.start("list")
        if team is not None:
          team.begin()
        if overwrite:
          facts.forget_failures()
        facts.set_lines(lines, config.media, config.ingest)
        clock.start("ingest")
        tables = folder / _TABLES
        tables.mkdir(parents=True, exist_ok=True)
        examined, counts = ways.run(
          way,
          facts,
          config,
          folder,
          tables,
          pool,
          place=str(output),
          held=held_lib.Held(folder / kind),
          then=lambda: clock.start("tables"),
        )
        if counts.clips:
          clock.start("text")
          clips = tables / ingest.CLIPS
          plan = plan_lib.read(clips, kind)
          if kind == "latents":
            longest.check(plan, config)
          with rows_lib.Rows(clips) as rows:
            made_of = maker(clips, plan, rows)
            removed = encode.stale(folder / kind, made_of, plan, overwrite=overwrite)
            ingest.replace_tables(tables, folder)
            disk.publish()
            clock.start(kind)
            made = encode.make(
              folder / kind,
              made_of,
              plan,
              rows,
              facts,
              pool,
              config.media,
              removed=removed,
              disk=disk,
              team=team,
            )
          if made.failed:
            counts = ingest.tabulate(facts, config, folder, held_lib.Held(folder / kind))
        else:
          ingest.replace_tables(tables, folder)
          if team is not None:
            team.announce_nothing()
        clock.start("report")
        packing = data_report.write(folder, config, counts, facts, pool)
      disk.publish()
  return Outcome(
    folder=folder / kind,
    counts=counts,
    examined=examined,
    made=made,
    packing=packing,
    seconds=clock.stop(),
    place=str(output),
    host=host,
    hosts=hosts,
  )


def _help(
  team: hosts_lib.Team,
  folder: pathlib.Path,
  kind: schema.Kind,
  maker: Callable[[pathlib.Path, plan_lib.Plan, rows_lib.Rows], makers.Maker],
  pool: workers.Pool,
  media: config_lib.Media,
  wait_seconds: float,
) -> progress.Made:
  """Makes this host's share of what the first host announces."""
  made, done, clips = progress.Made(), "", folder / ingest.CLIPS
  team.arrive()
  while word := team.wait_for_work(wait_seconds, done):
    team.disk.refresh()
    plan = plan_lib.read(clips, kind)
    with rows_lib.Rows(clips) as rows:
      made_of = maker(clips, plan, rows)
      made = encode.join(folder / kind, made_of, plan, rows, pool, media, team, word)
    done = word.id
  return made


def _load_autoencoder(
  settings: config_lib.Autoencoder, mesh: jax.sharding.Mesh | None
) -> Frozen:
  """Loads the frozen autoencoder and checks that the config describes it."""
  if not settings.checkpoint:
    raise ValueError(
      "config.autoencoder.checkpoint is empty: latents need a trained autoencoder. Name"
      " the folder that its training exported or a published checkpoint, or set"
      " config.objective=reconstruction to make the pixels that it is trained on."
    )
  frozen = interop.autoencoder(settings.checkpoint, mesh=mesh)
  sizes = {name: getattr(frozen, name) for name in ("channels", "space", "time")}
  wrong = [name for name, size in sizes.items() if getattr(settings, name) != size]
  if not wrong:
    return frozen
  # A folded patch keeps `space` within what the levels of `widths` can halve.
  patch = max(settings.patch, frozen.space >> (len(settings.widths) - 1))
  flags = [f"--config.autoencoder.{name}={sizes[name]}" for name in wrong]
  if patch != settings.patch:
    flags.append(f"--config.autoencoder.patch={patch}")
  said = ", ".join(f"{name}={getattr(settings, name)}" for name in wrong)
  found = ", ".join(f"{name}={sizes[name]}" for name in wrong)
  raise ValueError(
    f"config.autoencoder has {said}, but the autoencoder in {settings.checkpoint} has"
    f" {found}. Pass {' '.join(flags)}, or name another checkpoint."
  )


def _maker(
  config: config_lib.Config,
  text_folder: pathlib.Path,
  clips: pathlib.Path,
  plan: plan_lib.Plan,
  rows: rows_lib.Rows,
  autoencoder: Frozen | None,
  overwrite: bool,
  mesh: jax.sharding.Mesh | None,
  hosts: int,
) -> makers.Maker:
  if autoencoder is None:
    return makers.Pixels(plan, rows)
  text = captions_lib.prepare(
    config.text, text_folder, clips, overwrite=overwrite, mesh=mesh
  )
  return makers.Latents(
    plan,
    rows,
    autoencoder,
    captions_lib.Captions(text),
    config.media,
    autoencoder_path=os.path.abspath(config.autoencoder.checkpoint),
    text_path=os.path.abspath(text_folder),
    devices=1 if mesh is None else mesh.size,
    hosts=hosts,
  )


class _Clock:
  """Seconds of each stage."""

  def __init__(self):
    self._seconds: dict[str, float] = {}
    self._begun = time.monotonic()
    self._stage = "start"

  def start(self, stage: str) -> None:
    now = time.monotonic()
    self._seconds[self._stage] = now - self._begun
    self._stage, self._begun = stage, now

  def stop(self) -> dict[str, float]:
    self.start("")
    return self._seconds
