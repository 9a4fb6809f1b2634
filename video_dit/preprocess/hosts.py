"""Several hosts make one data set, each a share of its clips.

The first host lists, looks at and tabulates the input, as one host alone would; then it
announces what is to be made. Every host encodes its share by itself, and says when it is
done; the first one waits for all and finishes the set. All they share is the output
folder, so that one that was restarted goes on, at any time.

    work/hosts/work.json      what is to be made, for which input and how many hosts
    work/hosts/wanted.npy     which clips of the plan
    work/hosts/done-1.json    what host 1 has made
"""

from collections.abc import Callable, Iterable
import dataclasses
import hashlib
import json
import os
import pathlib
import time
from typing import Any

from absl import logging
import numpy as np

from video_dit import config as config_lib
from video_dit.data import disk as disk_lib
from video_dit.data import schema
from video_dit.preprocess import plan as plan_lib
from video_dit.preprocess import progress, sources

FOLDER = "work/hosts"
_POLL_SECONDS = 0.5
_REMIND_SECONDS = 60.0

Failure = tuple[str, str, str]  # key, reason, message


@dataclasses.dataclass(frozen=True)
class Team:
  """The hosts of a run, as one of them sees them.

  Attributes:
    folder: that all of them see.
    inputs: digest of the input and the settings, by which an announcement of another
      run is told apart.
    host, hosts: number of this one, and of all.
    disk: where files are to be seen.
  """

  folder: pathlib.Path
  inputs: str
  host: int
  hosts: int
  disk: disk_lib.Disk = disk_lib.LOCAL

  def announce(self, plan: plan_lib.Plan, wanted: np.ndarray) -> np.ndarray:
    """Says which clips are to be made; by the first host.

    Where this plan was announced before and not finished, that stays: hosts are at it.

    Returns:
      Which clips of the plan are to be made by all hosts together.
    """
    mark = _mark(plan)
    said = self._said()
    if said and said["plan"] == mark and not said["finished"]:
      return self._wanted()
    self.folder.mkdir(parents=True, exist_ok=True)
    for host in range(self.hosts):
      self.disk.remove(self._done(host))
    schema.replace(self.folder / "wanted.npy", lambda path: _save(path, wanted))
    self.disk.wrote(self.folder / "wanted.npy")
    self._say(plan=mark, finished=False)
    return wanted

  def announce_nothing(self) -> None:
    """Says that there is no clip to be made; by the first host."""
    self.folder.mkdir(parents=True, exist_ok=True)
    self._say(plan="", finished=True)

  def finish(self) -> None:
    """Says that nothing is left to do; by the first host."""
    if said := self._said():
      self._say(plan=said["plan"], finished=True)

  def wait_for_work(self) -> bool:
    """Waits until the first host has announced work; False where all is done."""
    wait(self._said, "waiting for host 0, which looks at the input")
    said = self._said()
    assert said is not None
    return not said["finished"]

  def wanted(self, plan: plan_lib.Plan) -> np.ndarray:
    """Which clips of the plan are to be made by all hosts together.

    Raises:
      ValueError: another plan was announced than this one.
    """
    said = self._said()
    if said is None or said["plan"] != _mark(plan):
      raise ValueError(
        f"{self.folder}: host 0 announced other clips than this host finds. Start all"
        " hosts with the same code, --config, --input and --output."
      )
    return self._wanted()

  def done(
    self, plan: plan_lib.Plan, made: progress.Made, failures: Iterable[Failure]
  ) -> None:
    """Says that this host has made its share."""
    values = {
      "plan": _mark(plan),
      "made": dataclasses.asdict(made),
      "failures": list(failures),
    }
    schema.replace(
      self._done(self.host), lambda path: path.write_text(json.dumps(values))
    )
    self.disk.wrote(self._done(self.host))

  def gather(self, plan: plan_lib.Plan) -> tuple[list[progress.Made], list[Failure]]:
    """Waits for all other hosts: what they made, and what they could not."""
    mark, found = _mark(plan), {}

    def look() -> bool:
      for host in range(1, self.hosts):
        path = self._done(host)
        if host not in found and self.disk.fetch(path):
          values = json.loads(path.read_text())
          if values["plan"] == mark:
            found[host] = values
      return len(found) == self.hosts - 1

    wait(look, "waiting for the other hosts; start those again that are down")
    made = [progress.Made(**values["made"]) for values in found.values()]
    return made, [tuple(f) for values in found.values() for f in values["failures"]]

  def _say(self, *, plan: str, finished: bool) -> None:
    said = {
      "inputs": self.inputs,
      "hosts": self.hosts,
      "plan": plan,
      "finished": finished,
    }
    path = self.folder / "work.json"
    schema.replace(path, lambda path: path.write_text(json.dumps(said, indent=2)))
    self.disk.wrote(path)

  def _said(self) -> dict[str, Any] | None:
    """What was announced for this input and as many hosts."""
    path = self.folder / "work.json"
    if not self.disk.fetch(path):
      return None
    said = json.loads(path.read_text())
    same = said["inputs"] == self.inputs and said["hosts"] == self.hosts
    return said if same else None

  def _wanted(self) -> np.ndarray:
    path = self.folder / "wanted.npy"
    self.disk.fetch(path)
    return np.load(path, allow_pickle=False)

  def _done(self, host: int) -> pathlib.Path:
    return self.folder / f"done-{host}.json"


def digest(lines: Iterable[sources.Line], config: config_lib.Config) -> str:
  """What tells one input with its settings from others; no file is opened."""
  found = hashlib.sha256(config_lib.to_text(config).encode())
  for line in lines:
    parts: list[Any] = [dataclasses.asdict(line)]
    if not line.stamp and os.path.isfile(line.file):
      parts.append(os.path.getsize(line.file))
    found.update(json.dumps(parts).encode())
  return found.hexdigest()[:32]


def wait(look: Callable[[], Any], message: str) -> None:
  """Looks again and again, until there is something; says so from time to time."""
  reminded = time.monotonic()
  while not look():
    time.sleep(_POLL_SECONDS)
    if time.monotonic() > reminded + _REMIND_SECONDS:
      logging.warning("%s", message)
      reminded = time.monotonic()


def _mark(plan: plan_lib.Plan) -> str:
  """What tells one plan from another."""
  found = hashlib.sha256(plan.key.tobytes())
  for column in (plan.mark, plan.frames, plan.height, plan.width):
    found.update(np.ascontiguousarray(column).tobytes())
  return found.hexdigest()[:32]


def _save(path: pathlib.Path, wanted: np.ndarray) -> None:
  with path.open("wb") as file:
    np.save(file, wanted, allow_pickle=False)
