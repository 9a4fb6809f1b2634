"""Remote inputs and outputs, on file systems of fsspec that need no network."""

import builtins
import contextlib
import dataclasses
import http.server
import json
import os
import threading

import pytest

from tests.preprocess.files import moving
from video_dit.data import reader, verify
from video_dit.media import write
from video_dit.preprocess import (
  folders,
  ingest,
  remote,
  remote_disk,
  remote_sources,
  run,
  sources,
  summary,
)

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def folder(tmp_path):
  """Some pictures with captions, in two folders."""
  (tmp_path / "in" / "sub").mkdir(parents=True)
  for i, name in enumerate(["a.png", "b c.png", "sub/d.png"]):
    write.write_video(tmp_path / "in" / name, moving(1, 32, 32, i), 8.0)
  (tmp_path / "in" / "a.txt").write_text("an a")
  (tmp_path / "in" / "sub" / "bad.mp4").write_text("no")
  return tmp_path / "in"


@pytest.fixture
def memory():
  """An empty file system in memory."""
  system = fsspec.filesystem("memory")
  system.store.clear()
  system.pseudo_dirs[:] = [""]
  yield system
  system.store.clear()


def _pixels(config):
  return dataclasses.replace(config, objective="reconstruction")


def test_a_remote_folder_is_listed_like_a_local_one(folder):
  there, here = list(sources.lines(f"file://{folder}")), list(sources.lines(folder))
  assert [line.path for line in there] == [f"file://{line.path}" for line in here]
  assert [line.caption for line in there] == [line.caption for line in here]
  assert all(line.stamp for line in there)


def test_folders_are_listed_ahead_and_large_ones_one_at_a_time(tmp_path, monkeypatch):
  for i in range(40):
    (tmp_path / f"{i:02d}").mkdir()
    (tmp_path / f"{i:02d}" / "a.png").write_bytes(b"a")
  system = fsspec.filesystem("file")
  together, inside, most = threading.Barrier(20, timeout=60), [], []

  def ls(call, wait):
    def listing(self, path, **kwargs):
      if path != str(tmp_path):
        inside.append(path)
        most.append(len(inside))
        if wait:
          together.wait()
      found = call(self, path, **kwargs)
      if path != str(tmp_path):
        inside.remove(path)
      return found

    return listing

  real = type(system).ls
  monkeypatch.setattr(type(system), "ls", ls(real, True))
  found = list(remote_sources.walk(f"file://{tmp_path}"))
  assert [each.folder[-3:] for each in found[1:]] == [f"/{i:02d}" for i in range(40)]
  assert max(most) >= 20
  # Where a folder is as large as all that may be listed at a time, no second one is.
  monkeypatch.setattr(type(system), "ls", ls(real, False))
  monkeypatch.setattr(remote_sources, "_LISTED", 1)
  most.clear()
  assert len(list(remote_sources.walk(f"file://{tmp_path}"))) == 41 and max(most) == 1


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_folder_that_cannot_be_listed_is_a_line(folder, monkeypatch, prefix):
  scandir = os.scandir

  def refuse(path):
    if str(path).endswith("/sub"):
      raise PermissionError(13, "Permission denied", str(path))
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  *found, refused = sources.lines(f"{prefix}{folder}")
  assert [line.path[-7:] for line in found] == ["n/a.png", "b c.png"]
  assert refused.path == f"{prefix}{folder}/sub"
  assert refused.error[0] == "unreachable"
  assert "cannot list the folder" in refused.error[1] and "denied" in refused.error[1]


def test_a_manifest_names_remote_files_and_files_beside_itself(folder):
  rows = [
    {"path": "a.png", "caption": "beside"},
    {"path": f"file://{folder}/sub/d.png", "caption": "anywhere"},
    {"path": "gone.png"},
    {"path": "../out.png"},
  ]
  (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
  a, d, gone, out = sources.lines(f"file://{folder}/m.jsonl")
  assert (a.file, a.caption) == (f"file://{folder}/a.png", "beside")
  assert (d.file, d.caption) == (f"file://{folder}/sub/d.png", "anywhere")
  assert gone.error[0] == "missing" and out.error[0] == "outside"
  assert next(iter(sources.lines(folder / "m.jsonl"))).file == str(folder / "a.png")


def test_from_a_remote_folder_to_a_remote_output_and_again(
  config, folder, memory, tmp_path
):
  config, url = _pixels(config), "memory://bucket/data"
  outcome = run.preprocess(config, f"file://{folder}", url)
  assert (outcome.made.written, outcome.counts.reasons) == (3, {"not_media": 1})
  assert "memory://bucket/data/pixels" in summary.text(outcome, config)
  names = {path.removeprefix("/bucket/data/") for path in memory.find("/bucket/data")}
  assert {"clips.parquet", "rejects.parquet", "pixels/dataset_info.json"} <= names
  assert not any("unfinished" in name for name in names)
  # Another machine adds a file: the others are neither looked at nor made again.
  write.write_video(folder / "e.png", moving(1, 32, 32, 9), 8.0)
  outcome = run.preprocess(config, f"file://{folder}", url)
  assert (outcome.examined, outcome.made.written, outcome.made.reused) == (1, 1, 3)
  # What lies there is what a local run makes.
  memory.get("/bucket/data/pixels", str(tmp_path / "copy"), recursive=True)
  run.preprocess(config, folder, tmp_path / "local")
  keys = [
    sorted(data[i].key for i in range(len(data)))
    for data in map(reader.Dataset, (tmp_path / "copy", tmp_path / "local" / "pixels"))
  ]
  assert keys[0] == keys[1] and len(keys[0]) == 4
  # Without one of its files the others stay as they are.
  (folder / "a.png").unlink()
  tables = memory.cat("/bucket/data/clips.parquet")
  with pytest.raises(ValueError, match="no longer wanted"):
    run.preprocess(config, f"file://{folder}", url)
  assert memory.cat("/bucket/data/clips.parquet") == tables
  outcome = run.preprocess(config, f"file://{folder}", url, overwrite=True)
  assert (outcome.made.written, outcome.made.reused) == (0, 3)
  memory.get("/bucket/data/pixels", str(tmp_path / "less"), recursive=True)
  report = verify.verify(tmp_path / "less")
  assert (report.records, report.faults, report.finished) == (3, [], True)


def test_files_of_a_bucket_are_asked_for_many_at_a_time(folder, tmp_path, monkeypatch):
  """In order, by one file system."""
  names = [f"{i:02d}" for i in range(40)]
  for name in names:
    (folder / f"{name}.png").write_bytes((folder / "a.png").read_bytes())
    (folder / f"{name}.txt").write_text(name)
  together = threading.Barrier(20, timeout=60)
  system = fsspec.filesystem("file")
  made, info, cat_file = set(), type(system).info, type(system).cat_file

  def wait(call):
    def waiting(self, path, **kwargs):
      if os.path.splitext(path)[0][-2:] in names:
        made.add(id(self))
        together.wait()
      return call(self, path, **kwargs)

    return waiting

  rows = [json.dumps({"path": f"file://{folder}/{name}.png"}) for name in names]
  (tmp_path / "m.jsonl").write_text("\n".join(rows))
  monkeypatch.setattr(type(system), "cat_file", wait(cat_file))
  found = [line.caption for line in sources.lines(f"file://{folder}")]
  assert [caption for caption in found if caption in names] == names
  monkeypatch.setattr(type(system), "info", wait(info))
  lines = list(sources.lines(tmp_path / "m.jsonl"))
  assert [line.file[-6:-4] for line in lines] == names
  assert all(line.stamp for line in lines) and len(made) == 1


def test_a_key_that_leads_out_of_an_output_is_refused_before_a_file_is_made(memory):
  memory.pipe_file("/bucket/data/clips.parquet", b"x")
  key = "/bucket/data/../leads/out.txt"
  memory.store[key] = memory.store["/bucket/data/clips.parquet"]
  with pytest.raises(ValueError, match=r"bucket/data: holds '\.\./leads/out\.txt'"):
    remote_disk.output("memory://bucket/data", read_only=True)


def test_verifying_holds_one_shard_at_a_time(config, folder, memory, monkeypatch):
  url = "memory://bucket/data"
  media = dataclasses.replace(config.media, shard_records=1)
  run.preprocess(dataclasses.replace(_pixels(config), media=media), folder, url)
  there, disk = remote_disk.output(url, read_only=True)
  held, whole = [], disk.whole

  def watch(path):
    held.append(sum(p.stat().st_blocks > 0 for p in path.parent.glob("*array_record*")))
    return whole(path)

  monkeypatch.setattr(disk, "whole", watch)
  report = verify.verify(there / "pixels", disk)
  assert (report.records, report.shards, report.faults) == (3, 3, [])
  assert held == [0, 0, 0]


def test_looks_at_files_outlive_the_machine(config, folder, memory, monkeypatch):
  def fail(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(ingest, "tabulate", fail)
    run.preprocess(_pixels(config), folder, "memory://bucket/data")
  outcome = run.preprocess(_pixels(config), folder, "memory://bucket/data")
  assert (outcome.examined, outcome.made.written) == (0, 3)


def test_media_in_memory(config, folder, memory, tmp_path):
  memory.put(str(folder), "/media", recursive=True)
  outcome = run.preprocess(_pixels(config), "memory://media", tmp_path / "out")
  assert outcome.made.written == 3


def test_a_shard_takes_no_room_here_once_it_is_there(memory, tmp_path):
  disk = remote_disk.RemoteDisk("memory://x", tmp_path)
  path = tmp_path / "latents-train.array_record-00000"
  path.write_bytes(b"1" * 100_000)
  disk.wrote(path)
  assert path.stat().st_size == 100_000 and path.stat().st_blocks < 8
  assert memory.cat("/x/" + path.name) == b"1" * 100_000


def test_what_is_not_installed_is_named(monkeypatch):
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name.startswith("fsspec"):
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(ValueError, match=r"gs://.*\[remote\]"):
    list(sources.lines("gs://bucket/clips"))


@pytest.mark.parametrize(
  ("paths", "message"),
  [
    (("gs:/bucket/in", "out"), "--input=gs:/bucket/in: a URL has two .*gs://bucket/in"),
    (("in", "s3:/bucket/out"), "--output=s3:/bucket/out: a URL has two slashes"),
    (
      ("memory://", "out"),
      "memory://: has no bucket or folder. Give one, like memory://bucket",
    ),
  ],
)
def test_a_misspelt_url_is_refused(config, paths, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=message):
    run.preprocess(_pixels(config), *paths)
  assert not list(tmp_path.iterdir())


def test_an_output_of_folders_is_made(config, folder, tmp_path):
  outcome = run.preprocess(_pixels(config), folder, f"file://{tmp_path}/new/out")
  assert outcome.made.written == 3
  assert (tmp_path / "new" / "out" / "clips.parquet").is_file()


def test_an_unknown_kind_of_path_is_refused():
  with pytest.raises(ValueError, match="fsspec does not support"):
    list(sources.lines("nosuch://bucket/clips"))


@contextlib.contextmanager
def _served(folder):
  """URL of a folder, the names that are refused, and those that were sent."""
  refused, sent = [], []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args):
      super().__init__(*args, directory=str(folder))

    def do_GET(self):
      if self.path in refused:
        self.send_error(503)
      else:
        sent.append(self.path)
        super().do_GET()

    def log_message(self, *args):
      pass

  server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  try:
    yield f"http://localhost:{server.server_port}", refused, sent
  finally:
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_does_not_come_is_tried_again(config, folder, tmp_path):
  pytest.importorskip("aiohttp")
  config = _pixels(config)
  with _served(folder) as (url, refused, _):
    manifest = tmp_path / "m.jsonl"
    lines = [json.dumps({"path": f"{url}/{name}"}) for name in ("a.png", "sub/d.png")]
    manifest.write_text("\n".join(lines))
    refused.append("/sub/d.png")
    outcome = run.preprocess(config, manifest, tmp_path / "out")
    assert (outcome.made.written, outcome.counts.reasons) == (1, {"unreachable": 1})
    assert "again to retry them" in summary.text(outcome, config)
    refused.clear()
    outcome = run.preprocess(config, manifest, tmp_path / "out")
    assert (outcome.examined, outcome.made.written, outcome.made.reused) == (1, 1, 1)
    assert not outcome.counts.reasons
    assert remote.kind(f"{url}/a.png") == "file" and remote.kind(f"{url}/gone") is None
  with pytest.raises(remote.RemoteError, match=f"{url}/a.png: could not be accessed"):
    remote.kind(f"{url}/a.png")
  with pytest.raises(remote.RemoteError, match=f"{url}/a.png: could not be accessed"):
    run.preprocess(config, manifest, tmp_path / "out")


def test_a_file_of_many_clips_is_fetched_once(config, folder, tmp_path):
  pytest.importorskip("aiohttp")
  config, manifest = _pixels(config), tmp_path / "m.jsonl"
  write.write_video(folder / "long.mp4", moving(60, 32, 32, 5), 12.0)
  with _served(folder) as (url, _, sent):
    parts = [{"path": f"{url}/long.mp4", "start": i, "end": i + 1} for i in range(5)]
    manifest.write_text("\n".join(map(json.dumps, parts)))
    outcome = run.preprocess(config, manifest, tmp_path / "out")
  assert outcome.counts.clips >= 5 and outcome.made.written == outcome.counts.clips
  assert sent == ["/long.mp4"]


def test_a_run_ends_when_remote_media_have_stopped_coming():
  reach, lost = ingest.Reach(), {"reason": "unreachable", "message": "cannot be fetched"}
  for i in range(99):
    reach.saw(f"gs://bucket/{i}", lost)
  reach.saw("gs://bucket/there", {})
  for i in range(99):
    reach.saw(f"gs://bucket/{i}", lost)
  with pytest.raises(remote.RemoteError, match="100 files in a row"):
    reach.saw("gs://bucket/last", lost)
  reach = ingest.Reach()
  for i in range(200):  # what may not be read here says nothing of a network
    reach.saw(f"/media/{i}.png", lost)


@pytest.mark.parametrize(
  ("raised", "error", "message"),
  [
    (FileNotFoundError("bucket"), ValueError, "--output=memory://b/d: no such"),
    (OSError("Forbidden: b/d"), PermissionError, "memory://b/d: OSError: Forbidden"),
    (RuntimeError("out\nof reach"), remote.RemoteError, "RuntimeError: out of reach"),
  ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_input_is_seen(
  config, folder, memory, monkeypatch, raised, error, message
):
  def fail(*args):
    raise raised

  monkeypatch.setattr(memory, "pipe_file", fail)
  monkeypatch.setattr(folders, "listing", lambda *args: pytest.fail("looked"))
  with pytest.raises(error, match=message):
    run.preprocess(_pixels(config), folder, "memory://b/d")


def test_what_fails_is_not_taken_for_absent(memory, monkeypatch, tmp_path):
  memory.pipe_file("/b/d/work/done-1.json", b"{}")
  disk = remote_disk.RemoteDisk("memory://b/d", tmp_path)
  path = tmp_path / "work" / "done-1.json"
  assert disk.fetch(path) and not disk.fetch(path.with_name("done-2.json"))

  def fail(*args, **kwargs):
    raise RuntimeError("out of reach")

  monkeypatch.setattr(memory, "info", fail)
  for call in (lambda: disk.fetch(path), disk.refresh, lambda: remote.kind("memory://b")):
    with pytest.raises(remote.RemoteError, match="out of reach"):
      call()
  assert path.is_file()
