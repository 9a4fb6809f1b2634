"""A stand-in for Dataflow's service, as far as a job's sender sees it.

It takes a job by the REST interface, fetches the pipeline that was staged in the bucket,
runs it in Beam's worker processes, and tells how that goes. It is the machine's metadata
server too, from which Google's libraries have credentials. What it does not do: start
machines, scale, run a container, or move data between machines.
"""

from collections.abc import Iterator
import contextlib
from http import server
import json
import sys
import threading
from typing import Any
from urllib import request

from apache_beam.options import pipeline_options
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.transforms import environments

PROJECT = "our-project"
_METADATA = {
  "/computeMetadata/v1/project/project-id": PROJECT,
  "/computeMetadata/v1/instance/service-accounts/default/": json.dumps(
    {"email": "us@example.com", "scopes": [], "aliases": []}
  ),
  "/computeMetadata/v1/instance/service-accounts/default/token": json.dumps(
    {"access_token": "letmein", "expires_in": 3600, "token_type": "Bearer"}
  ),
}


class Service:
  """Jobs, and what became of them.

  Attributes:
    jobs: as they were sent, by id.
    states: of the jobs.
    messages: that the jobs left.
  """

  def __init__(self, bucket_host: str):
    """Serves once `serve` is entered.

    Args:
      bucket_host: of a server of Cloud Storage's interface.
    """
    self._bucket_host = bucket_host
    self.jobs: dict[str, dict[str, Any]] = {}
    self.states: dict[str, str] = {}
    self.messages: dict[str, str] = {}

  @contextlib.contextmanager
  def serve(self) -> Iterator[str]:
    """Serves on a free port; yields host and port."""
    service = self

    class Handler(server.BaseHTTPRequestHandler):
      def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path in _METADATA or path == "/":
          self._answer(_METADATA.get(path, ""))
        elif path.endswith("/messages"):
          self._answer(json.dumps(service._messages(path.split("/")[-2])))
        elif path.startswith("/v1b3/") and path.split("/")[-1] in service.jobs:
          self._answer(json.dumps(service._job(path.split("/")[-1])))
        else:
          self.send_error(404)

      def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(json.dumps(service._begin(json.loads(body))))

      def _answer(self, text: str) -> None:
        content = text.encode()
        kind = "application/json" if text.startswith("{") else "application/text"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Metadata-Flavor", "Google")
        self.end_headers()
        self.wfile.write(content)

      def log_message(self, format: str, *args: Any) -> None:
        pass

    http = server.ThreadingHTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
      yield f"localhost:{http.server_port}"
    finally:
      http.shutdown()
      thread.join()
      http.server_close()

  def _begin(self, job: dict[str, Any]) -> dict[str, Any]:
    id = f"job-{len(self.jobs)}"
    self.jobs[id], self.states[id] = job, "JOB_STATE_RUNNING"
    threading.Thread(target=self._run, args=(id,)).start()
    return self._job(id)

  def _job(self, id: str) -> dict[str, Any]:
    names = ("name", "clientRequestId", "projectId", "type")
    known = {name: self.jobs[id][name] for name in names if name in self.jobs[id]}
    return known | {"id": id, "currentState": self.states[id]}

  def _messages(self, id: str) -> dict[str, Any]:
    if id not in self.messages:
      return {}
    message = {
      "id": "1",
      "time": "2020-01-01T00:00:00Z",
      "messageText": self.messages[id],
      "messageImportance": "JOB_MESSAGE_ERROR",
    }
    return {"jobMessages": [message]}

  def _run(self, id: str) -> None:
    try:
      proto = self._staged(self.jobs[id])
      command = f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
      worker = environments.SubprocessSDKEnvironment.from_command_string(command)
      for environment in proto.components.environments.values():
        made = worker.to_runner_api(None)  # type: ignore[arg-type]
        environment.urn, environment.payload = made.urn, made.payload
        del environment.dependencies[:]
      options = pipeline_options.PipelineOptions(["--direct_num_workers=2"])
      fn_runner.FnApiRunner().run_via_runner_api(proto, options)
    except Exception as error:
      self.messages[id] = f"Traceback: {error}"
      self.states[id] = "JOB_STATE_FAILED"
      return
    self.states[id] = "JOB_STATE_DONE"

  def _staged(self, job: dict[str, Any]) -> beam_runner_api_pb2.Pipeline:
    url = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    bucket, _, name = url.removeprefix("gs://").partition("/")
    quoted = name.replace("/", "%2F")
    place = f"{self._bucket_host}/storage/v1/b/{bucket}/o/{quoted}?alt=media"
    with request.urlopen(place) as answer:
      return beam_runner_api_pb2.Pipeline.FromString(answer.read())
