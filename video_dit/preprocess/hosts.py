"""Several hosts make one data set, each a share of its clips.

The first host takes back what it announced before, lists, looks at and tabulates the
input, as one host alone would; then it announces what is to be made. Every host encodes
its share by itself, and says when it is done; the first one waits for all and finishes
the set. All they share is the output folder, so that one that was restarted goes on, at
any time. A host that ends because all is done says that first: work that the first host
finds later is not waited for from it.

    work/hosts/work.json      what is to be made, for which input and how many hosts
    work/hosts/wanted.npy     which clips of the plan
    work/hosts/done-1.json    what host 1 has made of which announcement
"""

from collections.abc import Callable, Collection, Iterable, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
import time
from typing import Any
import uuid

from absl import logging
import numpy as np

from video_dit import config as config_lib
from video_dit import files
from video_dit.data import disk as disk_lib
from video_dit.preprocess import batches as batches_lib
from video_dit.preprocess import inputs, progress
from video_dit.preprocess import plan as plan_lib

FOLDER = "work/hosts"
_POLL_SECONDS = 0.5
_REMIND_SECONDS = 60.0
# Settings that decide clips and records, and those among them that hosts may have each
# their own of: a set has one autoencoder by its fingerprint.
_DECIDING = ("objective", "autoencoder", "dit.patch", "ingest", "media", "text")
_FREE = (
  *("autoencoder.checkpoint", "ingest.thumbnails"),
  *("media.shard_records", "media.timeout_seconds", "media.workers"),
)

Failure = tuple[str, str, str]  # key, reason, message


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What all hosts of a run must have in common.

  Attributes:
    lines: digest of the input.
    hosts: how many.
    settings: that decide clips and records, by name.
  """

  lines: str
  hosts: int
  settings: dict[str, Any]

  @classmethod
  def of(
    cls,
    lines: Iterable[inputs.Line],
    config: config_lib.Config,
    hosts: int,
    devices: int = 1,
  ) -> "Inputs":
    """The inputs of a run; no file is opened.

    Args:
      lines: of the input.
      config: settings.
      hosts: how many.
      devices: of each host, on which the sizes of batches depend.
    """
    settings = {
      f"config.{name}": value
      for name, value in config_lib.leaves(config)
      if name not in _FREE and f"{name}.".startswith(tuple(f"{n}." for n in _DECIDING))
    }
    settings["the number of devices"] = devices
    found = hashlib.sha256()
    for line in lines:
      parts: list[Any] = [dataclasses.asdict(line)]
      if not line.stamp and os.path.isfile(line.file):
        parts.append(os.path.getsize(line.file))
      found.update(json.dumps(parts).encode())
    return cls(found.hexdigest()[:32], hosts, json.loads(json.dumps(settings)))

  def differences(self, there: "Inputs") -> list[str]:
    """What differs on host 0, for the user."""
    if there.hosts != self.hosts:
      return [f"{there.hosts} hosts there, {self.hosts} here"]
    mine, theirs = self.settings, there.settings
    names = sorted(n for n in mine | theirs if mine.get(n) != theirs.get(n))
    found = [f"{n} {theirs.get(n)!r} there, {mine.get(n)!r} here" for n in names]
    if not found and there.lines != self.lines:
      return ["different files, captions or file sizes in the input"]
    return found


@dataclasses.dataclass(frozen=True)
class Word:
  """What the first host announces.

  Attributes:
    id: of the announcement. It stays when that is taken back, and when it is done.
    inputs: of the run.
    plan: mark of the clips; empty while host 0 looks at the input.
    finished: nothing is left to do.
    away: hosts that ended before, and are not waited for.
  """

  id: str
  inputs: Inputs
  plan: str = ""
  finished: bool = False
  away: tuple[int, ...] = ()

  @property
  def is_work(self) -> bool:
    """Whether it announces unfinished work."""
    return bool(self.plan) and not self.finished

  def share(
    self, batches: Sequence[batches_lib.Batch], host: int
  ) -> list[batches_lib.Batch]:
    """What a host is to make."""
    here = [h for h in range(self.inputs.hosts) if h not in self.away]
    return batches_lib.share(batches, here.index(host), len(here))


@dataclasses.dataclass(frozen=True)
class Team:
  """The hosts of a run, as one of them sees them.

  Attributes:
    folder: that all of them see.
    inputs: by which an announcement of another run is told apart.
    host: number of this one.
    disk: where files are to be seen.
  """

  folder: pathlib.Path
  inputs: Inputs
  host: int
  disk: disk_lib.Disk = disk_lib.LOCAL

  @property
  def hosts(self) -> int:
    """Number of hosts."""
    return self.inputs.hosts

  def begin(self) -> None:
    """Takes back that all is done, before the input is looked at; by the first host."""
    said = self._said()
    if said is None or said.finished:
      self._say(Word(said.id if said else _new(), self.inputs))

  def announce(self, plan: plan_lib.Plan, wanted: np.ndarray) -> tuple[Word, np.ndarray]:
    """Announces which clips are to be made; by the first host.

    Where this plan was announced before and not finished, that stays: hosts are at it;
    but not where some of these clips are not among those that were to be made.

    Returns:
      What is announced, and which clips of the plan all hosts together are to make.
    """
    mark, said = _mark(plan), self._said()
    if said and said.is_work and said.plan == mark:
      before = self._wanted()
      if not (wanted & ~before).any():
        return said, before
    away: list[int] = []
    if said:
      # A host that ends checks once more for work, so none ends unnoticed.
      self._say(dataclasses.replace(said, plan="", finished=False))
      away = [host for host in range(1, self.hosts) if self._has_left(host, said)]
    self._forget_done(away)
    with (
      files.replacing(self.folder / "wanted.npy") as unfinished,
      unfinished.open("wb") as file,
    ):
      np.save(file, wanted, allow_pickle=False)
    self.disk.wrote(self.folder / "wanted.npy")
    word = Word(_new(), self.inputs, plan=mark, away=tuple(away))
    self._say(word)
    return word, wanted

  def announce_nothing(self) -> None:
    """Announces that there are no clips to make; by the first host."""
    self._say(Word(_new(), self.inputs, finished=True))

  def finish(self, word: Word) -> None:
    """Announces that nothing is left to do; by the first host."""
    self._say(dataclasses.replace(word, finished=True))
    self._forget_done()

  def arrive(self) -> None:
    """Announces that this host is back, if it had ended."""
    said = self._said()
    if said is None or not said.is_work:
      self.disk.remove(self._done(self.host))

  def wait_for_work(self, patience: float, done: str = "") -> Word | None:
    """Waits until the first host has announced work; None where there is none.

    Args:
      patience: seconds for which the first host may still take back that all is done.
      done: id of the work that this host has done.

    Raises:
      ValueError: the first host was started with different inputs.
    """
    first, end = self._read(), time.monotonic() + patience
    if first and self.inputs.differences(first.inputs):
      logging.warning("%s", self._waits())

    def look() -> bool:
      word = self._read()
      if word and self.inputs.differences(word.inputs):
        if first is None or word.id != first.id:
          raise ValueError(f"{self.folder}: {self._otherwise(word)}")
        return False
      if word is None or (word.finished and word.id != done and time.monotonic() < end):
        return False
      return word.finished or word.is_work

    while True:
      wait(look, self._waits)
      said = self._said()
      if said is None or not (said.finished or said.is_work):
        continue
      if said.id != done:
        if said.is_work and self.host not in said.away:
          return said
        self.done(said, progress.Made(), ())
        if self._said() != said:  # It was retracted in between.
          self.disk.remove(self._done(self.host))
          continue
      return None

  def wanted(self, word: Word, plan: plan_lib.Plan) -> np.ndarray:
    """Which clips of the plan are to be made by all hosts together.

    Raises:
      ValueError: a different plan was announced.
    """
    if word.plan != _mark(plan):
      raise ValueError(
        f"{self.folder}: host 0 announced other clips than this host found. Start all"
        " hosts with the same code, --config, --input and --output."
      )
    return self._wanted()

  def done(self, word: Word, made: progress.Made, failures: Iterable[Failure]) -> None:
    """Announces that this host has made its share, and ends if there is no other work."""
    values = {
      "id": word.id,
      "made": dataclasses.asdict(made),
      "failures": list(failures),
    }
    self._write(self._done(self.host), values)

  def gather(self, word: Word) -> tuple[list[progress.Made], list[Failure]]:
    """Waits for all other hosts: what they made, and what they could not."""
    missing = set(range(1, self.hosts)) - set(word.away)
    found = {}

    def look() -> bool:
      for host in sorted(missing):
        if self._left(host) == word.id:
          found[host] = self._said_by(host)
          missing.remove(host)
      return not missing

    def waits() -> str:
      names = ", ".join(map(str, sorted(missing)))
      return f"waiting for host {names} of {self.hosts}; restart those that are down"

    wait(look, waits)
    made = [progress.Made(**values["made"]) for values in found.values()]
    return made, [tuple(f) for values in found.values() for f in values["failures"]]

  def _left(self, host: int) -> str:
    """Id of the announcement of which a host has made its share, and ended."""
    path = self._done(host)
    return self._said_by(host).get("id", "") if self.disk.fetch(path) else ""

  def _said_by(self, host: int) -> dict[str, Any]:
    remedy = f"Remove it, and start host {host} again."
    return files.read_json(self._done(host), remedy)

  def _has_left(self, host: int, said: Word) -> bool:
    """Whether a host has ended at an announcement, or before it and since then."""
    left = self._left(host)
    return left == said.id or (host in said.away and left != "")

  def _forget_done(self, but: Collection[int] = ()) -> None:
    for host in set(range(1, self.hosts)) - set(but):
      self.disk.remove(self._done(host))

  def _say(self, word: Word) -> None:
    self._write(self.folder / "work.json", dataclasses.asdict(word))

  def _write(self, path: pathlib.Path, values: dict[str, Any]) -> None:
    self.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=2)
    files.write(path, text)
    self.disk.wrote(path)

  def _read(self) -> Word | None:
    """The last announcement, for any inputs."""
    path = self.folder / "work.json"
    if not self.disk.fetch(path):
      return None
    said = files.read_json(path, "Remove it, and start host 0 again.")
    if "id" not in said:  # of an earlier version
      return None
    said |= {"inputs": Inputs(**said["inputs"]), "away": tuple(said["away"])}
    return Word(**said)

  def _said(self) -> Word | None:
    """The announcement for the inputs of this run."""
    said = self._read()
    return said if said and not self.inputs.differences(said.inputs) else None

  def _waits(self) -> str:
    said = self._read()
    text = "waiting for host 0, which is examining the input"
    if said and self.inputs.differences(said.inputs):
      text = f"waiting for host 0; so far {self._otherwise(said)}"
    return text

  def _otherwise(self, said: Word) -> str:
    found = "; ".join(self.inputs.differences(said.inputs))
    return (
      f"host 0 announced work other than what this host, {self.host}, was started for"
      f" ({found}). Start all hosts with the same --config and --input."
    )

  def _wanted(self) -> np.ndarray:
    path = self.folder / "wanted.npy"
    self.disk.fetch(path)
    return np.load(path, allow_pickle=False)

  def _done(self, host: int) -> pathlib.Path:
    return self.folder / f"done-{host}.json"


def wait(look: Callable[[], bool], message: Callable[[], str]) -> None:
  """Polls until there is a result; reports from time to time."""
  reminded = time.monotonic()
  while not look():
    time.sleep(_POLL_SECONDS)
    if time.monotonic() > reminded + _REMIND_SECONDS:
      logging.warning("%s", message())
      reminded = time.monotonic()


def _new() -> str:
  return uuid.uuid4().hex


def _mark(plan: plan_lib.Plan) -> str:
  """A digest that identifies a plan."""
  found = hashlib.sha256(plan.key.tobytes())
  for column in (plan.mark, plan.frames, plan.height, plan.width):
    found.update(np.ascontiguousarray(column).tobytes())
  return found.hexdigest()[:32]
