"""What evaluate writes, from rendered clips in the place of generated ones."""

import json

from PIL import Image
import pytest

from tests import tiny
from video_dit.evaluate import measure, report
from video_dit.media.shapes import demo, rendering


@pytest.fixture(scope="module")
def findings() -> report.Findings:
  judged = []
  for i, (prompt, scene) in enumerate(demo.held_out_prompts(6)):
    truth = demo.truth(scene)
    if i == 0:
      prompt, truth["colour"] = f"<b>{prompt}</b>", "ultraviolet"
    sample = tiny.sample(prompt=prompt, truth=truth)
    judged.append(measure.judge(sample, rendering.render(scene)))
  clips = [j.few_FHWC for j in judged]
  pair = report.Pair(caption="<i>a</i> — 3.0", first_FHWC=clips[0], second_FHWC=clips[1])
  return report.Findings(
    facts={"checkpoint": "step 12"},
    losses={0.1: 0.5, 0.9: 0.25},
    judged=judged,
    shares=measure.count(judged),
    nearest=[pair, pair],
    nearest_note="Distances are in pixel values.",
    specials=[("an image: a photo", clips[0][:1])],
    reconstructions=[pair],
  )


def test_numbers(tmp_path, findings):
  path = tmp_path / "evaluation.json"
  report.write_json(path, findings, {"checkpoint": 12})
  numbers = json.loads(path.read_text())
  assert numbers["colour"] == 5 / 6
  assert numbers["direction"] == numbers["shape"] == numbers["wholeness"] == 1
  assert numbers["n"] == 6
  assert numbers["chance"]["direction"] == 0.25
  assert numbers["measures"]["colour"]["right"] == 5
  low, high = numbers["measures"]["colour"]["interval_95"]
  assert 0 < low < 5 / 6 < high < 1
  assert numbers["heldout_loss"] == {"0.1": 0.5, "0.9": 0.25}
  assert numbers["heldout_loss_mean"] == 0.375
  assert numbers["checkpoint"] == 12


def test_the_page_stands_alone_and_escapes_prompts(tmp_path, findings):
  path = tmp_path / "report.html"
  report.write_page(path, findings)
  text = path.read_text()
  assert "<b>" not in text and "&lt;b&gt;" in text
  assert "<i>" not in text
  assert text.count("data:image/png;base64,") == 6 + 2 + 1 + 1
  assert 'src="data:' in text and 'src="/' not in text and "http" not in text
  assert "83.3%" in text and "95 % interval" in text
  assert "✗\N{NO-BREAK SPACE}colour (red)" in text


def test_nothing_found_is_still_a_page(tmp_path):
  nothing = report.Findings(facts={}, losses={})
  report.write_page(tmp_path / "report.html", nothing)
  report.write_json(tmp_path / "evaluation.json", nothing, {})
  assert json.loads((tmp_path / "evaluation.json").read_text()).keys() == {"heldout_loss"}


def test_the_contact_sheet_shows_samples_and_specials(tmp_path, findings):
  path = tmp_path / "contact_sheet.png"
  report.write_sheet(path, findings)
  with Image.open(path) as sheet:
    assert sheet.size[1] > 7 * 72
