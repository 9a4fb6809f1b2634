"""Our Wan 2.1 autoencoder beside diffusers', and what feeds it, in one run.

    python -m tests.benchmarks.encode --height=480 --width=832 --frames=81

Autoencoder: both sides have the same random weights of the published sizes and the same
clip of bytes; each runs in a process of its own, ours streamed, theirs as diffusers does
it, float32, on the CPU or the GPU that there is. Times are the best of `--repeats` after
one run that compiles. Memory is the greatest while a clip is encoded and decoded: of the
process on a CPU, of the device on a GPU. Diffusers is left out where it is not installed.

Decoding: RGB frames of an h264 clip (or of `--file`) a second of processor time, ours as
a worker decodes, against plain PyAV, each in a process of its own; of the clip's size,
and of 0.6 of it, where PyAV scales by its default.
Reading back: latent records at random, as training reads them.
"""

from collections.abc import Callable
import importlib.util
import json
import multiprocessing
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import av
import numpy as np

from video_dit import config as config_lib
from video_dit import heap
from video_dit.data import reader, schema
from video_dit.data import writer as writer_lib
from video_dit.media import decode, write

_HEIGHT = flags.DEFINE_integer("height", 480, "Of the autoencoder's clip.")
_WIDTH = flags.DEFINE_integer("width", 832, "Of the autoencoder's clip.")
_FRAMES = flags.DEFINE_integer("frames", 81, "Of the autoencoder's clip: 1 + 4k.")
_BASE = flags.DEFINE_integer("base", 96, "Channels of the finest level; Wan 2.1 has 96.")
_REPEATS = flags.DEFINE_integer("repeats", 1, "Measured runs.", lower_bound=1)
_VIDEO = flags.DEFINE_integer("video_frames", 240, "Frames of the 480p h264 clip.")
_FILE = flags.DEFINE_string("file", "", "Decode this video instead.")
_RECORDS = flags.DEFINE_integer("records", 2000, "Records read back.")
_PARTS = flags.DEFINE_list("parts", ["autoencoder", "decode", "read"], "What to measure.")
_JSON = flags.DEFINE_string("json", "", "Write the figures to this file, too.")
_WORKER = flags.DEFINE_string("worker", "", "For the processes that this one starts.")
_FOLDER = flags.DEFINE_string("folder", "", "For the processes that this one starts.")


def _best(run: Callable[[], object], clock=time.perf_counter) -> float:
  """Fewest seconds of the measured runs."""
  seconds = []
  for _ in range(_REPEATS.value):
    start = clock()
    run()
    seconds.append(clock() - start)
  return min(seconds)


def _rss() -> int:
  """Most bytes that this process has held since `_forget`."""
  status = pathlib.Path("/proc/self/status").read_text()
  (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
  return int(line.split()[1]) * 1024


def _forget() -> None:
  pathlib.Path("/proc/self/clear_refs").write_text("5")


def _write_weights(folder: pathlib.Path) -> None:
  """Random weights of the published sizes, as diffusers' files, and a clip of bytes."""
  from flax import nnx
  import jax

  from video_dit import interop
  from video_dit.models.autoencoder.wan import Wan, WanConfig

  arch = WanConfig(base_dim=_BASE.value)
  graph, state = nnx.split(nnx.eval_shape(lambda: Wan(arch, rngs=nnx.Rngs(0))))
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    values = rng.standard_normal(leaf.shape, np.float32)
    fan = np.prod(leaf.shape[:-1] or (100,), dtype=np.float32)
    return 1 + 0.1 * values if path[-1].key == "scale" else values / fan**0.5

  params = jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state))
  loaded = interop.Loaded(
    kind="wan_autoencoder",
    model=nnx.merge(graph, params),
    config=arch,
    naming="diffusers",
    licence=None,
    files=(),
    dtypes=(np.dtype(np.float32),),
    tensors=0,
  )
  interop.save(loaded, folder)
  shape = (_FRAMES.value, _HEIGHT.value // 8, _WIDTH.value // 8, 3)
  coarse = rng.integers(256, size=shape, dtype=np.uint8)
  np.save(folder / "clip.npy", coarse.repeat(8, axis=1).repeat(8, axis=2))


def _ours(folder: pathlib.Path):
  """How we encode and decode, and the memory that it takes."""
  from video_dit.parallel import mesh as mesh_lib

  mesh = mesh_lib.start("", config_lib.Mesh())  # sets the flags of the commands
  from video_dit import interop

  frozen = interop.autoencoder(folder, mesh=mesh)

  def memory() -> int | None:
    found = mesh.devices.flat[0].memory_stats()
    return found["peak_bytes_in_use"] if found else None

  return frozen.encode, frozen.decode, memory


def _theirs(folder: pathlib.Path):
  """How a user of diffusers encodes and decodes, and the memory that it takes."""
  import diffusers
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
  model = diffusers.AutoencoderKLWan.from_pretrained(folder).to(device).eval()
  shift, scale = (
    torch.tensor(x, device=device)[None, :, None, None, None]
    for x in (model.config.latents_mean, model.config.latents_std)
  )

  @torch.no_grad()
  def encode(clip_FHWC):
    x = torch.from_numpy(np.moveaxis(clip_FHWC, -1, 0)[None]).to(device)
    latent = model.encode(x.float() / 127.5 - 1).latent_dist.mode()
    return np.moveaxis(((latent - shift) / scale)[0].cpu().numpy(), 0, -1)

  @torch.no_grad()
  def decode_(latent_FHWC):
    z = torch.from_numpy(np.moveaxis(latent_FHWC, -1, 0)[None].copy()).to(device)
    pixels = model.decode(z * scale + shift).sample
    bytes_ = ((pixels + 1) * 127.5).round().to(torch.uint8)
    return np.moveaxis(bytes_[0].cpu().numpy(), 0, -1)

  def memory() -> int | None:
    return torch.cuda.max_memory_allocated() if device == "cuda" else None

  return encode, decode_, memory


def _work(side: str, folder: pathlib.Path) -> None:
  """Measures one side and leaves its figures and outputs in the folder."""
  encode, decode_, memory = {"ours": _ours, "diffusers": _theirs}[side](folder)
  clip_FHWC = np.load(folder / "clip.npy")
  short_FHWC = clip_FHWC[:9]  # compiles all that the whole clip needs
  decode_(encode(short_FHWC))
  figures: dict[str, float] = {}
  _forget()
  figures["encode"] = len(clip_FHWC) / _best(lambda: encode(clip_FHWC))
  figures["encode_memory"] = memory() or _rss()
  latent_FHWC = encode(clip_FHWC)
  _forget()
  figures["decode"] = len(clip_FHWC) / _best(lambda: decode_(latent_FHWC))
  figures["decode_memory"] = memory() or _rss()
  np.savez(folder / f"{side}.npz", latent=latent_FHWC, clip=decode_(latent_FHWC))
  (folder / f"{side}.json").write_text(json.dumps(figures))


def _autoencoder(folder: pathlib.Path) -> dict[str, dict[str, float]]:
  _write_weights(folder)
  sides = ["ours"]
  if all(importlib.util.find_spec(name) for name in ("torch", "diffusers")):
    sides.append("diffusers")
  figures = {}
  for side in sides:
    command = [sys.executable, "-m", "tests.benchmarks.encode", f"--worker={side}"]
    command += [f"--folder={folder}", f"--repeats={_REPEATS.value}"]
    subprocess.run(command, check=True)
    found = figures[side] = json.loads((folder / f"{side}.json").read_text())
    print(
      f"{side:10} encode {found['encode']:8.3f} frames/s"
      f" {found['encode_memory'] / 2**30:6.2f} GiB   decode {found['decode']:8.3f}"
      f" frames/s {found['decode_memory'] / 2**30:6.2f} GiB",
      flush=True,
    )
  if len(sides) == 2:
    a, b = (np.load(folder / f"{side}.npz") for side in sides)
    apart = np.abs(a["latent"] - b["latent"]).max()
    pixels = np.abs(a["clip"].astype(int) - b["clip"]).max()
    print(f"apart by {apart:.1e} in latents and {pixels} of 255 in pixels")
  return figures


def _decode(folder: pathlib.Path) -> dict[str, float]:
  """Frames of a file a second of processor time, ours and plain PyAV's."""
  path = str(_FILE.value or _noise(folder / "clip.mp4"))
  with av.open(path) as container:
    context = container.streams.video[0].codec_context
    codec, height, width = context.name, context.height, context.width
  small = round(height * 0.6), round(width * 0.6)
  runs: dict[str, tuple] = {
    "ours": (_decode_ours, path, None),
    "pyav": (_decode_pyav, path, True),
    "no_rgb": (_decode_pyav, path, False),
    "ours_small": (_decode_ours, path, small),
    "pyav_small": (_decode_pyav, path, True, small),
  }
  rates, most = dict.fromkeys(runs, 0.0), dict.fromkeys(runs, 0.0)
  for _ in range(3):  # in turns, so that all have the same neighbours
    for name, (run, *arguments) in runs.items():
      with multiprocessing.get_context("spawn").Pool(1) as pool:
        rate, megabytes = pool.apply(run, arguments)
      rates[name], most[name] = max(rates[name], rate), max(most[name], megabytes)
  print(f"decode     {width}x{height} {codec}, frames a second and core:")
  print(
    f"           RGB: ours {rates['ours']:,.0f}, PyAV {rates['pyav']:,.0f}"
    f" ({rates['ours'] / rates['pyav']:.0%}); without RGB, PyAV {rates['no_rgb']:,.0f}"
  )
  print(
    f"           RGB of {small[1]}x{small[0]}: ours {rates['ours_small']:,.0f}, PyAV"
    f" {rates['pyav_small']:,.0f} ({rates['ours_small'] / rates['pyav_small']:.0%})"
  )
  print(f"           memory: ours {most['ours']:.0f} MB, PyAV {most['pyav']:.0f} MB")
  return rates | {f"{name}_megabytes": value for name, value in most.items()}


def _decode_ours(path: str, size: tuple[int, int] | None) -> tuple[float, float]:
  """Rate and memory of a worker of ingest or of encoding."""
  heap.keep_some()
  media = config_lib.Media(frames_per_second=0.0, max_frames=1 << 20)
  return _rate(lambda: sum(1 for _ in decode.frames(path, media, size=size)))


def _decode_pyav(
  path: str, rgb: bool, size: tuple[int, int] | None = None
) -> tuple[float, float]:
  """Rate and memory of PyAV's own loop, which scales by its default."""
  wanted = {} if size is None else {"height": size[0], "width": size[1]}

  def run() -> int:
    count = 0
    with av.open(path) as container:
      for frame in container.decode(video=0):
        count += 1
        if rgb:
          assert frame.to_ndarray(format="rgb24", **wanted).size > 0
    return count

  return _rate(run)


def _rate(run: Callable[[], int]) -> tuple[float, float]:
  """Frames a second of processor time, the best of three; the process' greatest MB."""
  best = 0.0
  for _ in range(3):
    start = time.process_time()
    count = run()
    best = max(best, count / (time.process_time() - start))
  return best, _rss() / 1e6


def _noise(path: pathlib.Path) -> pathlib.Path:
  """Writes 480p h264 of noise that moves."""
  rng = np.random.default_rng(0)
  ground = rng.integers(256, size=(60, 104, 3), dtype=np.uint8)
  ground_HWC = ground.repeat(10, axis=0).repeat(10, axis=1)
  moved = (np.roll(ground_HWC, 3 * i, axis=1)[:480, :832] for i in range(_VIDEO.value))
  write.write_video(path, moved, 24.0)
  return path


def _read(folder: pathlib.Path) -> dict[str, float]:
  """Latent records read back a second, in a random order."""
  rng = np.random.default_rng(0)
  latent = rng.standard_normal((5, 32, 32, 16)).astype(np.float16)
  text = rng.standard_normal((32, 1024)).astype(np.float16)
  metadata = schema.Metadata(
    kind="latents", channels=16, space=8, time=4, text_width=1024
  )
  with writer_lib.ShardWriter(folder / "latents", metadata) as writer:
    for i in range(_RECORDS.value):
      record = schema.LatentRecord(
        key=f"{i:032x}",
        latent=latent,
        text=text,
        caption="a caption",
        frames_per_second=16.0,
        frames=17,
        height=256,
        width=256,
      )
      writer.write(record, "train")
    writer.finish()
  data = reader.Dataset(folder / "latents", "train")
  order = rng.permutation(len(data))
  seconds = _best(lambda: [data[int(i)] for i in order])
  rate = len(data) / seconds
  megabytes = rate * (latent.nbytes + text.nbytes) / 1e6
  print(f"read back  {rate:,.0f} records/s, {megabytes:,.0f} MB/s")
  return {"records": rate, "megabytes": megabytes}


def main(argv: list[str]) -> None:
  """Prints a line for each figure."""
  del argv
  if _WORKER.value:
    _work(_WORKER.value, pathlib.Path(_FOLDER.value))
    return
  parts = {"autoencoder": _autoencoder, "decode": _decode, "read": _read}
  figures = {}
  with tempfile.TemporaryDirectory() as folder:
    for name in _PARTS.value:
      figures[name] = parts[name](pathlib.Path(folder))
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
  app.run(main)
