"""Remote files are fetched once for all that want them, and do not pile up."""

import multiprocessing
import os
import pathlib
import time

import pytest

from video_dit.preprocess import fetched, remote

pytest.importorskip("fsspec")


@pytest.fixture
def urls(tmp_path):
  """URLs of some files of 1,000 bytes."""
  folder = tmp_path / "there"
  folder.mkdir()
  for i in range(6):
    (folder / f"{i}.png").write_bytes(bytes([i]) * 1000)
  return [f"file://{folder}/{i}.png" for i in range(6)]


@pytest.fixture
def fetches(monkeypatch):
  """The URLs that were fetched."""
  done, fetch = [], remote.fetch
  monkeypatch.setattr(
    remote, "fetch", lambda url, path: (done.append(url), fetch(url, path))
  )
  return done


def _names(folder):
  return sorted(path.name for path in folder.rglob("*.png"))


def test_a_file_is_fetched_once_and_keeps_its_name(urls, fetches, tmp_path):
  for _ in range(3):
    with fetched.local(urls[0], str(tmp_path)) as path:
      assert os.path.basename(path) == "0.png"
      assert pathlib.Path(path).read_bytes() == bytes(1000)
  assert fetches == urls[:1]


def test_a_name_as_long_as_a_disk_takes_keeps_its_end(tmp_path):
  name = "x" * 250 + ".png"
  (tmp_path / name).write_bytes(b"1")
  for folder in (None, str(tmp_path)):
    with fetched.local(f"file://{tmp_path}/{name}", folder) as path:
      assert pathlib.Path(path).suffix == ".png"
      assert pathlib.Path(path).read_bytes() == b"1"


def test_without_a_folder_it_is_gone_at_once(urls, fetches):
  for _ in range(2):
    with fetched.local(urls[0]) as path:
      assert os.path.exists(path)
    assert not os.path.exists(os.path.dirname(path))
  assert len(fetches) == 2


def test_a_local_file_is_itself(tmp_path, fetches):
  with fetched.local(str(tmp_path / "a"), str(tmp_path)) as path:
    assert path == str(tmp_path / "a")
  assert not fetches


@pytest.mark.parametrize("limit", [("_MOST_FILES", 2), ("_MOST_BYTES", 2500)])
def test_what_was_not_used_for_longest_goes_first(
  urls, fetches, tmp_path, monkeypatch, limit
):
  monkeypatch.setattr(fetched, *limit)
  folder = tmp_path / "held"
  folder.mkdir()
  with fetched.local(urls[0], str(folder)):  # Who uses a file keeps it.
    for url in (*urls[1:4], urls[2], urls[4], urls[2]):
      with fetched.local(url, str(folder)):
        time.sleep(0.01)
    assert _names(folder) == ["0.png", "2.png", "4.png"]
  assert fetches == urls[:5]
  with fetched.local(urls[5], str(folder)):
    pass
  assert _names(folder) == ["2.png", "5.png"]
  assert len(list(folder.glob("*.lock"))) == 2


def test_a_file_that_does_not_come_leaves_nothing(urls, tmp_path):
  gone = urls[0].replace("0.png", "gone.png")
  for _ in range(2):
    with (
      pytest.raises(OSError, match="the file no longer exists") as raised,
      fetched.local(gone, str(tmp_path)),
    ):
      pass
    assert raised.value.errno
  assert "gone.png" not in _names(tmp_path)


def _use(urls, folder, seed, faults):
  fetched._MOST_FILES = 1
  for i in range(60):
    url = urls[(seed + i * (seed + 1)) % len(urls)]
    with fetched.local(url, folder) as path:
      content = pathlib.Path(path).read_bytes()
      number = int(os.path.basename(path)[0])
      if content != bytes([number]) * 1000 or not url.endswith(os.path.basename(path)):
        faults.put((url, path))


def test_processes_share_files_that_come_and_go(urls, tmp_path):
  context = multiprocessing.get_context("spawn")
  faults = context.Queue()
  arguments = [(urls, str(tmp_path), seed, faults) for seed in range(4)]
  processes = [context.Process(target=_use, args=args) for args in arguments]
  for process in processes:
    process.start()
  for process in processes:
    process.join(60)
  assert [process.exitcode for process in processes] == [0] * 4
  assert faults.empty()
