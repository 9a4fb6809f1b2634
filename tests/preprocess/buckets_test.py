"""Media in a bucket, and the output in it, through s3fs and gcsfs over HTTP.

The servers are moto's and gcp-storage-emulator, on this machine; what is missing of the
extras `remote` and `buckets` skips its tests.
"""

import contextlib
import dataclasses
import pathlib

import pytest

from tests.preprocess.files import moving
from video_dit.data import reader, verify
from video_dit.media import write
from video_dit.preprocess import remote, remote_disk, run, sources

fsspec = pytest.importorskip("fsspec")

_NAMES = ["a.png", "sub/ü 'q\" #1 %20 & [b].png", "sub/deep/-dash.png"]


@contextlib.contextmanager
def _s3():
  pytest.importorskip("s3fs")
  server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
  server.start()
  host, port = server.get_host_and_port()
  yield {
    "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
  }
  server.stop()


@contextlib.contextmanager
def _gs():
  pytest.importorskip("gcsfs")
  emulator = pytest.importorskip("gcp_storage_emulator.server")
  server = emulator.create_server("localhost", 0, in_memory=True)
  server.start()
  port = server._api._httpd.server_port  # the one that was free
  yield {
    "STORAGE_EMULATOR_HOST": f"http://localhost:{port}",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask by gRPC
  }
  server.stop()


@pytest.fixture(scope="module", params=[_s3, _gs], ids=["s3", "gs"])
def bucket(request):
  """URL of a bucket."""
  with request.param() as environment, pytest.MonkeyPatch.context() as patch:
    for name, value in environment.items():
      patch.setenv(name, value)
    kind = request.param.__name__[1:]
    fsspec.get_filesystem_class(kind).clear_instance_cache()
    fsspec.filesystem(kind).mkdir("bucket")
    yield f"{kind}://bucket"
    fsspec.get_filesystem_class(kind).clear_instance_cache()


@pytest.fixture
def folder(tmp_path):
  """Pictures under names that URLs must escape, a caption, and no picture."""
  for i, name in enumerate(_NAMES):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write.write_video(path, moving(1, 32, 32, i), 8.0)
  (tmp_path / "in" / "a.txt").write_text("an a")
  (tmp_path / "in" / "sub" / "bad.mp4").write_text("no")
  return tmp_path / "in"


def _shards(url):
  """Shards in a bucket with what changes when they are written or copied."""
  system, root = remote.filesystem(url)
  system.invalidate_cache()
  paths = [path for path in system.find(root) if "array_record" in path]
  return {path: str(system.modified(path)) for path in paths}


def _put(folder, url):
  system, root = remote.filesystem(url)
  for path in sorted(p for p in folder.rglob("*") if p.is_file()):
    system.put_file(str(path), f"{root}/{path.relative_to(folder).as_posix()}")


def test_from_a_bucket_to_a_bucket_and_again(config, bucket, folder, tmp_path):
  config = dataclasses.replace(config, objective="reconstruction")
  media, url = f"{bucket}/media", f"{bucket}/data"
  _put(folder, media)
  there, here = list(sources.lines(media)), list(sources.lines(folder))
  assert [line.path for line in there] == [
    line.path.replace(str(folder), media) for line in here
  ]
  assert [line.caption for line in there] == [line.caption for line in here]
  outcome = run.preprocess(config, media, url)
  assert (outcome.made.written, outcome.counts.reasons) == (3, {"not_media": 1})
  before = _shards(url)

  # Another machine adds a file: nothing else is made or moved.
  write.write_video(folder / "e.png", moving(1, 32, 32, 9), 8.0)
  _put(folder, media)
  outcome = run.preprocess(config, media, url)
  assert (outcome.made.written, outcome.made.reused) == (1, 3)
  assert before and before.items() < _shards(url).items()

  # What lies there is what a local run makes.
  there, disk = remote_disk.output(url, read_only=True)
  report = verify.verify(there / "pixels", disk)
  assert (report.records, report.faults, report.finished) == (4, [], True)
  run.preprocess(config, folder, tmp_path / "local")
  whole = pathlib.Path(remote.copy(url))
  keys = [
    sorted(data[i].key for i in range(len(data)))
    for data in map(reader.Dataset, (whole / "pixels", tmp_path / "local" / "pixels"))
  ]
  assert keys[0] == keys[1] and len(keys[0]) == 4


def test_a_bucket_s_folders_are_listed_one_by_one(bucket, folder):
  """In the order of local ones; marks that stand for folders are no files."""
  for name in ("sub-way/e.png", "sub/deep/f.png", "x/y/z/g.png", ".hidden/h.png"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes((folder / "a.png").read_bytes())
  media = f"{bucket}/listed"
  _put(folder, media)
  system, root = remote.filesystem(media)
  for mark in ("", "/sub", "/empty"):
    system.pipe_file(f"{root}{mark}/", b"")
  system.invalidate_cache()
  here, there = sources.lines(folder), sources.lines(media)
  assert [line.path.replace(str(folder), media) for line in here] == [
    line.path for line in there
  ]
  assert not system.dircache


def test_files_under_a_folder_without_a_name_are_counted(bucket, folder):
  media = f"{bucket}/twice"
  system, root = remote.filesystem(media)
  system.pipe_file(f"{root}/sub/a.png", (folder / "a.png").read_bytes())
  system.pipe_file(f"{root}/sub//b.png", b"lost")
  system.pipe_file(f"{root}/sub//deep/c.png", b"lost")
  system.invalidate_cache()
  refused, found = sources.lines(media)
  assert (found.path, found.error) == (f"{media}/sub/a.png", None)
  assert refused.path == f"{media}/sub" and refused.error[0] == "unreachable"
  assert "2 of its files have two slashes in a row" in refused.error[1]


def test_what_a_bucket_does_not_have_is_named(bucket):
  with pytest.raises(FileNotFoundError, match=r"bucket/gone: no such folder"):
    list(sources.lines(f"{bucket}/gone"))


def test_a_misspelt_bucket_is_refused_and_not_made(config, bucket, folder):
  config = dataclasses.replace(config, objective="reconstruction")
  system, _ = remote.filesystem(bucket)
  with pytest.raises(ValueError, match=r"--output=.*-typo/data: no such bucket or"):
    run.preprocess(config, folder, f"{bucket}-typo/data")
  assert [name.strip("/") for name in system.ls("")] == ["bucket"]
