"""The one error of reading media, and the words that say why.

`MediaError.reason` is a stable word, fit for counting rejects by:

| reason        | means |
|---------------|-------|
| `empty`       | the file has no bytes |
| `not_media`   | neither an image nor a known media container |
| `unreadable`  | looks like media, but does not open, or no frame of it decodes here |
| `unsupported` | decodes, but to something that cannot be a clip |
| `no_video`    | a good file without a video stream |
| `too_small`   | a side is below `media.min_side` |
| `too_large`   | a frame has more pixels than `media.max_source_pixels` |
| `too_long`    | lasts longer than `media.max_seconds` |
| `truncated`   | ends before the time that the file declares |
| `damaged`     | the decoder met invalid bytes, or lost frames |
| `changed`     | not what was examined; the next run examines it again |
| `unreachable` | its bytes were refused or did not arrive; the next run tries again |
| `timeout`     | took longer than `media.timeout_seconds` |
"""

import os

REASONS = (
  "empty",
  "not_media",
  "unreadable",
  "unsupported",
  "no_video",
  "too_small",
  "too_large",
  "too_long",
  "truncated",
  "damaged",
  "changed",
  "unreachable",
  "timeout",
)


class MediaError(ValueError):
  """A media file that cannot become a clip.

  Attributes:
    path: the file.
    reason: one of `REASONS`.
    message: what was found, which rule it breaks and what helps.
  """

  def __init__(self, path: str | os.PathLike, reason: str, message: str):
    """Names the file, the reason and the finding.

    Args:
      path: the file.
      reason: one of `REASONS`.
      message: value, rule and remedy, as the end of a sentence about `path`.
    """
    assert reason in REASONS, reason
    super().__init__(f"{os.fspath(path)}: {message}")
    self.path = os.fspath(path)
    self.reason = reason
    self.message = message

  def __reduce__(self):
    """Pickles by its arguments, so that it can cross processes."""
    return type(self), (self.path, self.reason, self.message)
