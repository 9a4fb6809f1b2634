"""The page of a run is written from whatever lies in its workdir."""

from video_dit import config as config_lib
from video_dit.train import report


def test_damaged_samples_are_left_out_and_named(tmp_path, caplog):
  for step, text in {"10": '[["a red ball", "0.png"]]', "20": '[["a'}.items():
    folder = tmp_path / "samples" / step
    folder.mkdir(parents=True)
    (folder / "index.json").write_text(text)
  (tmp_path / "samples" / "10" / "0.png").write_bytes(b"")
  page = report.write(
    tmp_path, config_lib.Config(name="tiny", objective="diffusion"), {}
  ).read_text()
  assert "a red ball" in page and "step 10" in page and "step 20" not in page
  assert "20/index.json: cannot be read" in caplog.text
