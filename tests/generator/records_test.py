"""Records of samples: to a file and back, and damaged ones by their line."""

import json

from tests import tiny
from video_dit.generator import records


def make(**changes) -> records.Sample:
  return tiny.sample(**({"file": "a.gif", "prompt": "a"} | changes))


def test_records_go_to_a_file_and_back(tmp_path):
  samples = [make(), make(file="b.gif", prompt="é\n", truth={"colour": "red"}, eta=0.5)]
  for sample in samples:
    (tmp_path / sample.file).touch()
  records.write(tmp_path, samples)
  assert records.read(tmp_path) == (samples, [])


def test_what_is_damaged_or_gone_is_named_and_the_rest_is_read(tmp_path):
  assert records.read(tmp_path) == ([], [])
  path = records.write(tmp_path, [make(), make(file="gone.gif")])
  (tmp_path / "a.gif").touch()
  torn = ('{"file": "a.gif", "pro', '{"file": "a.gif"}', "[]", "\xff", '{"zebra": 1}')
  with path.open("ab") as file:
    file.write("\n".join(torn).encode("latin-1"))
  found, wrong = records.read(tmp_path)
  assert found == [make()]
  assert wrong[0] == f"{path}:2: {tmp_path / 'gone.gif'} is missing."
  assert wrong[1:] == [f"{path}:{i}: is not a sample record." for i in range(3, 8)]


def test_a_method_is_named_with_what_decides_it():
  assert make(sampler="euler", steps=30).method() == "euler, 30 steps"
  assert make(sampler="ddim", eta=0.5, steps=9).method() == "ddim with eta 0.5, 9 steps"
  assert not {"file", "prompt", "truth"} & set(json.loads(json.dumps(make().settings())))
