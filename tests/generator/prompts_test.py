"""Files of prompts: encodings, lines, values."""

import pytest

from video_dit.generator import prompts


@pytest.mark.parametrize(
  "text, message",
  [
    ('{"prompt": "x", "heigth": 8}', r"p.jsonl:1: unknown key 'heigth'.*'height'"),
    ('{"prompt": "x", "seed": "1"}', "seed='1' must be a whole number"),
    ('{"prompt": "x", "frames": true}', "frames=True must be a whole number"),
    ('{"height": 8}', "has no 'prompt'"),
    ('\n{"prompt": 3}', "p.jsonl:2: prompt=3 must be text"),
    ("prompt", "is not JSON"),
    ('{"prompt": "x", "seed": ' + "9" * 5000 + "}", "p.jsonl:1: is not JSON"),
    ("[" * 100_000, "p.jsonl:1: is not JSON"),
    ("[1]", "must be an object"),
    ('{"prompt": "x", "guidance": ' + "9" * 400 + "}", "guidance has 400 digits"),
    ('{"prompt": "x", "guidance": NaN}', "guidance=nan must be a number"),
    ('{"prompt": "\\ud800"}', r"p.jsonl:1: .* contains '.ud800'"),
    ('{"prompt": "x", "given": "a.png", "given_frames": 0}', "given_frames=0 must be at"),
    ('{"prompt": "x", "given_frames": 2}', "given_frames needs 'given'"),
  ],
)
def test_wrong_lines_are_named(tmp_path, text, message):
  path = tmp_path / "p.jsonl"
  path.write_text(text + "\n")
  with pytest.raises(ValueError, match=message):
    prompts.read(path)


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "P.TXT", "P.JSONL"])
def test_a_line_is_what_ends_in_a_line_feed(tmp_path, name):
  path, texts = tmp_path / name, ["a\u2028b", "c\u0085d", "\u732b"]
  jsonl = name.lower().endswith(".jsonl")
  lines = [f'{{"prompt": "{text}"}}' if jsonl else text for text in texts]
  # As some editors of Windows save it.
  path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
  assert prompts.read(path) == [{"prompt": text} for text in texts]


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("p.txt", "plain\ncaf\u00e9\n".encode("latin-1"), r"p.txt:2: is not UTF-8 .*0xe9"),
    ("p.jsonl", '{"prompt": "x"}'.encode("utf-16"), r"p.jsonl:1: is not UTF-8"),
    ("p.txt", "plain\n".encode("utf-16-le"), r"p.txt:1: .* is not a text character"),
    ("p.csv", b"prompt\nx\n", r"p.csv: the suffix '.csv' is not one of .txt, .jsonl"),
  ],
)
def test_other_encodings_and_formats_are_refused(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    prompts.read(tmp_path / name)
