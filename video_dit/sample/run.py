"""Sampling: prompts in, files out."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from absl import logging

from video_dit.generator import generator as generator_lib
from video_dit.generator import prompts as prompts_lib
from video_dit.generator import records
from video_dit.generator import request as request_lib
from video_dit.media import write
from video_dit.parallel import hosts
from video_dit.sample import files, gallery, prompts


def sample(
  generator: generator_lib.Generator,
  lines: Sequence[dict[str, Any]],
  folder: pathlib.Path,
  *,
  wait_seconds: float = 10.0,
) -> list[records.Sample]:
  """Generates a clip for every line; the leading process writes what there is to see.

  That is the clips, and whenever rows of them are done, their records and the gallery,
  behind those of earlier runs in the folder whose files are still there.

  Args:
    generator: of the run.
    lines: from `prompts.lines`.
    folder: where the files go; made where missing.
    wait_seconds: how long to wait for another run that is writing into it.

  Returns:
    The records of these lines, in their order.

  Raises:
    ValueError: a request that the grid, the row or the format has no place for, before
      anything is generated.
    lock.Busy: another run is writing into the folder.
  """
  config = generator.config
  requests = prompts.requests(lines, config.sample, config.media)
  generator.check(requests)
  for request in requests:
    request.check_format(config.sample.format)
  prompts_of = dict.fromkeys(text for r in requests for text in (r.prompt, r.negative))
  cut = [prompt for prompt in prompts_of if generator.encoder.is_cut(prompt)]
  if cut:
    limit = generator.encoder.text.max_tokens
    hosts.say(f"cut to {limit} tokens: {len(cut)} of the prompts, like {cut[0]!r}")
  with hosts.alone(folder, flag="--output", wait_seconds=wait_seconds):
    return _sample(generator, lines, requests, folder)


def _sample(
  generator: generator_lib.Generator,
  lines: Sequence[dict[str, Any]],
  requests: Sequence[request_lib.Request],
  folder: pathlib.Path,
) -> list[records.Sample]:
  earlier, wrong = records.read(folder)
  for what in wrong if hosts.leads() else ():
    logging.warning("%s It is dropped from the record.", what)
  numbers = {id(request): i for i, request in enumerate(requests)}
  done: dict[int, records.Sample] = {}
  blank: set[int] = set()
  with hosts.bar(total=len(requests), desc="sample", unit="clip") as bar:

    def begin(part: str) -> None:
      bar.set_postfix_str(part)
      _save(folder, earlier, done)

    for request, frames_FHWC in generator.generate(
      requests, begin, lambda request: blank.add(id(request))
    ):
      number = numbers[id(request)]
      record = _record(generator, request, number, prompts_lib.truth(lines[number]))
      record = dataclasses.replace(record, blank=id(request) in blank)
      if hosts.leads():
        write.write_video(
          folder / record.file,
          frames_FHWC,
          request.frames_per_second,
          metadata=files.metadata(record),
        )
      done[number] = record
      bar.update()
  return _save(folder, earlier, done)


def _save(
  folder: pathlib.Path,
  earlier: Sequence[records.Sample],
  done: Mapping[int, records.Sample],
) -> list[records.Sample]:
  """Writes the records and the gallery of what is there; returns the new records."""
  samples = [done[i] for i in sorted(done)]
  if samples and hosts.leads():
    names = {sample.file for sample in samples}
    together = [*(old for old in earlier if old.file not in names), *samples]
    records.write(folder, together)
    gallery.write(folder, together)
  return samples


def _record(
  generator: generator_lib.Generator,
  request: request_lib.Request,
  number: int,
  truth: dict[str, str],
) -> records.Sample:
  settings = generator.config.sample
  given = request.given_FHWC
  return records.Sample(
    file=files.name(number, request, settings.format),
    prompt=request.prompt,
    height=request.height,
    width=request.width,
    frames=request.frames,
    frames_per_second=request.frames_per_second,
    seed=request.seed,
    guidance=settings.guidance if request.guidance is None else request.guidance,
    negative=request.negative,
    given=0 if given is None else len(given),
    sampler=settings.sampler,
    eta=settings.eta,
    steps=settings.steps,
    checkpoint=generator.step,
    truth=truth,
  )
