"""Runners of clusters give what the pool gives: Dask's, and Dataflow's up to the service.

What is missing of the extras `beam`, `remote` and `runners` skips its tests.
"""

import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("apache_beam")

from tests.preprocess import pipeline_test
from tests.preprocess.files import moving
from video_dit.media import write
from video_dit.preprocess import beam_runner, ways
from video_dit.preprocess import facts as facts_lib

pytestmark = pytest.mark.filterwarnings("default")
media, by_pool = pipeline_test.media, pipeline_test.by_pool
_DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"


def test_dask_makes_the_tables_of_the_pool(media, by_pool, tmp_path):
  dask = pytest.importorskip("dask")
  distributed = pytest.importorskip("distributed")
  with (
    dask.config.set({"distributed.worker.daemon": False}),
    distributed.LocalCluster(n_workers=2, dashboard_address=":0") as cluster,
  ):
    options = [f"--dask_client_address={cluster.scheduler_address}"]
    assert pipeline_test._run(media, tmp_path / "out", options, _DASK) == 8
    distributed.default_client().close()  # Beam leaves it open.
  assert pipeline_test._bytes(tmp_path / "out") == by_pool
  # Its facts came too.
  with facts_lib.Facts(tmp_path / "out" / "work" / "facts.sqlite") as facts:
    assert facts.num_unseen(pipeline_test.CONFIG.media) == 0


@pytest.fixture
def cloud(monkeypatch):
  """A bucket and a Dataflow service: the environment has their addresses."""
  pytest.importorskip("google.cloud.dataflow_v1beta3")
  pytest.importorskip("gcsfs")
  emulator = pytest.importorskip("gcp_storage_emulator.server")
  from tests.preprocess import dataflow

  server = emulator.create_server("localhost", 0, in_memory=True)
  server.start()
  bucket_host = f"http://localhost:{server._api._httpd.server_port}"
  service = dataflow.Service(bucket_host)
  with service.serve() as host:
    for name, value in {
      "STORAGE_EMULATOR_HOST": bucket_host,
      "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask by gRPC
      "GCE_METADATA_HOST": host,
      "GCE_METADATA_IP": host,
    }.items():
      monkeypatch.setenv(name, value)
    _http(f"{bucket_host}/storage/v1/b", {"name": "our-bucket"})
    yield service, host, bucket_host
  server.stop()


def _http(url: str, sent: dict | None = None) -> bytes:
  import requests

  answer = requests.request("POST" if sent else "GET", url, json=sent, timeout=60)
  answer.raise_for_status()
  return answer.content


def _preprocess(*flags: str) -> subprocess.CompletedProcess:
  command = [sys.executable, "-m", "video_dit.preprocess"]
  command += ["--config=configs/autoencoder.py", "--config.media.validation_fraction=0"]
  root = pathlib.Path(__file__).parents[2]
  return subprocess.run(
    [*command, *flags],
    cwd=root,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_dataflow_takes_the_job_and_runs_what_was_staged(cloud, tmp_path):
  service, host, bucket_host = cloud
  (tmp_path / "in").mkdir()
  for seed in range(3):
    write.write_video(tmp_path / "in" / f"{seed}.png", moving(1, 64, 64, seed), 8.0)
  (tmp_path / "in" / "bad.mp4").write_text("no")
  wanted = _preprocess(
    f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--runner=pool"
  )
  assert wanted.returncode == 0, wanted.stderr
  flags = [
    f"--input={tmp_path / 'in'}",
    "--output=gs://our-bucket/data",
    "--runner=DataflowRunner",
    "--project=our-project",
    "--region=us-central1",
    "--temp_location=gs://our-bucket/tmp",
    "--sdk_container_image=registry.example.com/video_dit:1",
    f"--dataflow_endpoint=http://{host}",
  ]
  found = _preprocess(*flags)
  assert found.returncode == 0, (found.stderr, service.messages)
  (job,) = service.jobs.values()
  (worker,) = job["environment"]["workerPools"]
  images = [image["containerImage"] for image in worker["sdkHarnessContainerImages"]]
  assert images == ["registry.example.com/video_dit:1"]

  place = f"{bucket_host}/storage/v1/b/our-bucket/o/data%2F{{}}?alt=media"
  for name in pipeline_test.TABLES:
    assert _http(place.format(name)) == (tmp_path / "out" / name).read_bytes()

  # A template is not run: there is nothing to make tables of.
  write.write_video(tmp_path / "in" / "new.png", moving(1, 64, 64, 9), 8.0)
  found = _preprocess(*flags, "--template_location=gs://our-bucket/template")
  assert found.returncode != 0
  assert "error: --runner=DataflowRunner ended without" in found.stderr
  assert "template" in found.stderr and "Traceback" not in found.stderr
  for name in pipeline_test.TABLES:
    assert _http(place.format(name)) == (tmp_path / "out" / name).read_bytes()
  assert len(service.jobs) == 1


@pytest.mark.parametrize(
  ("runner", "options", "message"),
  [
    ("FlinkRuner", [], r"--runner=FlinkRuner cannot be found: .*FlinkRunner"),
    ("no.such.Runner", [], r"--runner=no\.such\.Runner cannot be found: No module"),
    ("FlinkRunner", ["--projekt=p"], r"--projekt=p: unknown flag"),
    ("FlinkRunner", ["--parallelism=two"], r"--parallelism: invalid int value: 'two'"),
  ],
)
def test_what_beam_does_not_know_is_refused(runner, options, message, capsys):
  with pytest.raises(ValueError, match=message):
    beam_runner.check(runner, options)
  assert "usage" not in capsys.readouterr().err


def test_flags_of_runners_are_known():
  options = ["--project=p", "--region", "r", "--flink_master=h:8081"]
  output = "gs://our-bucket/data"
  beam_runner.check("DataflowRunner", options, output)
  with pytest.raises(ValueError, match=r"^--regoin=r: "):
    beam_runner.check("DataflowRunner", [*options, "--regoin=r"], output)


def test_dataflow_is_not_given_a_local_folder(tmp_path):
  pytest.importorskip("google.cloud.dataflow_v1beta3")
  way = ways.Way("DataflowRunner")
  with pytest.raises(ValueError, match=r"--output=.*cannot see local folders"):
    way.check(pipeline_test.CONFIG.ingest, tmp_path)
  way.check(pipeline_test.CONFIG.ingest, "gs://our-bucket/data")


def test_an_output_that_beam_cannot_write_is_refused():
  way = ways.Way("DirectRunner")
  way.check(pipeline_test.CONFIG.ingest, "")
  with pytest.raises(ValueError, match=r"--output=nosuch://b.*Beam cannot write there"):
    way.check(pipeline_test.CONFIG.ingest, "nosuch://b/data")
