"""Metrics: exact means of a window, also of one that a checkpoint interrupted."""

import json
import os
import types

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from video_dit.parallel import mesh as mesh_lib
from video_dit.parallel import peaks
from video_dit.plan import gpus
from video_dit.train import metrics


def _step(loss: float, skipped: int = 0) -> metrics.StepMetrics:
  one = np.float32(1)
  return metrics.StepMetrics(
    means={
      "loss": (np.float32(loss), one),
      "loss/low": (np.float32(6), np.float32(loss)),
      "loss/none": (np.float32(0), np.float32(0)),
    },
    counts={"tokens": np.float32(10 * loss)},
    learning_rate=np.float32(0.5),
    skipped=np.int32(skipped),
    num_skipped=np.int32(skipped),
  )


def test_means_are_totals_over_weights():
  window = metrics.Window()
  for loss in (1.0, 2.0):
    window.add(_step(loss))
  window.add(_step(float("nan"), skipped=1))
  means = window.means()
  assert means["loss"] == 1.5  # a skipped step counts for nothing
  assert means["loss/low"] == 4.0
  assert "loss/none" not in means
  assert (means["learning_rate"], means["skipped_steps"]) == (0.5, 1)


def test_a_window_goes_on_exactly_where_a_checkpoint_cut_it():
  whole, first = metrics.Window(), metrics.Window()
  losses = (0.1, 0.7, 1.3)
  for loss in losses:
    whole.add(_step(loss))
  first.add(_step(losses[0]))
  second = metrics.Window(json.loads(json.dumps(first.totals())))
  for loss in losses[1:]:
    second.add(_step(loss))
  assert second.means() == whole.means()
  assert second.counts() == whole.counts()


def _full(mode: str):
  return os.fdopen(os.open("/dev/full", os.O_WRONLY), mode)


def test_a_full_disk_is_named(tmp_path):
  log = metrics.Log(tmp_path, step=0)
  log._board._records._writer.close()
  log._board._records._writer = _full("wb")
  with pytest.raises(OSError, match=r"No space.*events\.out\.tfevents"):
    log.write(1, {"loss": 1.0})
  log._file.close()
  log._file = _full("w")
  with pytest.raises(OSError, match=r"No space.*metrics\.jsonl"):
    log.write(2, {"loss": 1.0})
  with pytest.raises(OSError, match="No space"):
    log.close()


def test_a_full_disk_hides_no_other_error(tmp_path):
  with pytest.raises(ValueError, match="first"), metrics.Log(tmp_path, step=0) as log:
    log._board._records._writer.close()
    log._board._records._writer = _full("wb")
    log._board._records.write(b"x")
    raise ValueError("first")


def _events(path) -> list:
  data, events = path.read_bytes(), []
  while data:
    size = int.from_bytes(data[:8], "little")
    events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  return events


def test_tensorboard_reads_what_is_logged(tmp_path):
  with metrics.Log(tmp_path, step=0) as log:
    log.write(1, {"loss": 0.5, "bad": float("nan")})
  (path,) = (tmp_path / "tensorboard").iterdir()
  events = _events(path)
  assert events[0].file_version == "brain.Event:2"
  assert [(e.step, e.summary.value[0].tag) for e in events[1:]] == [(1, "loss")]


def test_tensorboard_forgets_what_was_written_after_the_checkpoint(tmp_path):
  with metrics.Log(tmp_path, step=0) as log:
    for step in (1, 2, 3):
      log.write(step, {"loss": 1.0})
  for path in (tmp_path / "tensorboard").iterdir():
    path.unlink()
  metrics.Log(tmp_path, step=2).close()
  (path,) = (tmp_path / "tensorboard").iterdir()
  _, began = _events(path)
  assert began.step == 3
  assert began.session_log.status == event_pb2.SessionLog.START


def test_lines_after_the_step_are_cut_and_a_torn_one_too(tmp_path):
  path = tmp_path / "metrics.jsonl"
  with metrics.Log(tmp_path, step=0) as log:
    for step in (1, 2, 3):
      log.write(step, {"loss": 1.0 / step, "bad": float("inf")})
  path.write_text(path.read_text() + '{"step": 4, "lo')
  assert [line["step"] for line in metrics.read(path)] == [1, 2, 3]
  with metrics.Log(tmp_path, step=2) as log:
    log.write(3, {"loss": 7.0})
  lines = metrics.read(path)
  assert [line["loss"] for line in lines] == [1.0, 0.5, 7.0]
  assert lines[0]["bad"] is None
  assert list((tmp_path / "tensorboard").iterdir())


def test_a_damaged_line_in_the_middle_costs_itself_alone(tmp_path, caplog):
  path = tmp_path / "metrics.jsonl"
  lines = [b'{"step": %d, "loss": 1.0}' % step for step in range(1, 8)]
  lines[1:5] = [b"\0" * 20, b"\xff", b'["step"]', b'{"loss": 1.0}']
  path.write_bytes(b"\n".join(lines) + b"\n")
  metrics.Log(tmp_path, step=6).close()
  assert f"{path}: skipped damaged lines: 2, 3, 4, 5" in caplog.text
  assert [line["step"] for line in metrics.read(path)] == [1, 6]


def test_a_gpu_that_is_planned_for_has_a_peak():
  assert {gpu.kind for gpu in gpus.GPUS.values()} <= set(peaks.FLOPS)


def test_a_device_without_a_known_peak_is_named_once(capsys):
  device = types.SimpleNamespace(device_kind="NVIDIA Z1", platform="gpu")
  mesh = types.SimpleNamespace(devices=np.array([device]), size=1)
  for _ in range(2):
    assert "mfu" not in metrics.speed(2.0, 4, {"model_flops": 4e12}, mesh)
  assert capsys.readouterr().out.count("no MFU: the peak of 'NVIDIA Z1'") == 1


def test_speed_is_per_second_and_mfu_needs_a_known_peak(monkeypatch):
  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))
  counts = {"tokens": 100.0, "model_flops": 4e12}
  values = metrics.speed(2.0, 4, counts, mesh)
  assert values["steps_per_second"] == 2.0
  assert values["tokens_per_second"] == 200.0
  assert values["model_tflops_per_second"] == pytest.approx(8.0)
  assert "mfu" not in values
  monkeypatch.setitem(peaks.FLOPS, jax.devices()[0].device_kind, 2e12)
  assert metrics.speed(2.0, 4, counts, mesh)["mfu"] == pytest.approx(0.5)
  assert metrics.speed(0.0, 0, counts, mesh) == {"model_tflops_per_step": 4.0}
