"""The sides of `tests/benchmarks/step.py`: each makes its step and says what it is."""

from collections.abc import Callable
import dataclasses
import pathlib
import time

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What the flags of the benchmark say; see there."""

  width: int
  depth: int
  heads: int
  remat: str
  unroll: int
  patch_dim: int
  text_width: int
  dtype: str
  mesh: str
  threads: int


def dit(settings: Settings):
  """Our transformer's section of the config."""
  from video_dit import config as config_lib

  return config_lib.DiT(
    width=settings.width,
    depth=settings.depth,
    heads=settings.heads,
    remat=settings.remat,
    unroll=settings.unroll,
    patch=(1, 1, 1),
  )


def flops(settings: Settings, tokens_S: np.ndarray, text_tokens_S: np.ndarray) -> float:
  """Model FLOPs of one training step on these clips."""
  from video_dit.models.dit import flops as flops_lib

  extents = {"patch_dim": settings.patch_dim, "text_width": settings.text_width}
  counts = {"tokens_S": tokens_S, "text_tokens_S": text_tokens_S}
  return float(flops_lib.train_flops(dit(settings), **extents, **counts))


def ours(
  layout: str, folder: pathlib.Path, settings: Settings
) -> tuple[Callable[[], None], dict]:
  """Our step, and facts about it; leaves weights and a prediction in the folder."""
  from video_dit import config as config_lib
  from video_dit.parallel import mesh as mesh_lib

  mesh = mesh_lib.start(settings.mesh, config_lib.Mesh())
  from flax import nnx
  import jax
  import jax.numpy as jnp

  from video_dit.data.batch import Batch
  from video_dit.models.dit import layers, rotary
  from video_dit.trainer import task as task_lib
  from video_dit.trainer.step import Trainer

  arrays = dict(np.load(folder / f"{layout}.npz"))
  config = config_lib.Config(
    name="benchmark",
    objective="diffusion",
    dit=dit(settings),
    data=config_lib.Data(rows=arrays["segments"].shape[0]),
    train=config_lib.Train(compute_dtype=settings.dtype),
  )
  task = task_lib.diffusion_task(config, settings.patch_dim, settings.text_width)
  shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: task.build(nnx.Rngs(0)))))
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    values = rng.standard_normal(leaf.shape, np.float32)
    fan = leaf.shape[-2] if path[-1].key == "kernel" else 100
    return values / np.float32(fan) ** 0.5 + np.float32(path[-1].key == "scale")

  weights = jax.tree_util.tree_map_with_path(draw, shapes)
  task = dataclasses.replace(
    task, initial=lambda _: weights, weight=float(arrays["weights"].sum())
  )
  trainer = Trainer(task, config, mesh)
  state = trainer.init()
  batch = jax.device_put(Batch(**arrays), task.layout(mesh))

  @jax.jit
  def look(params, batch):
    times_RS = jnp.full(batch.tokens.shape, 0.5)
    given = batch.patches.astype(jnp.float32), times_RS, batch.segments, batch.positions
    predicted = trainer.model(params)(
      *given, batch.text.astype(jnp.float32), batch.text_segments, dtype=jnp.float32
    )
    place = layers.fourier(batch.positions, 5)
    return predicted, *rotary.rotation(batch.positions, config.dit), place

  names = ("prediction", "cosine", "sine", "place")
  with jax.set_mesh(mesh):
    seen = dict(zip(names, jax.device_get(look(state.params, batch)), strict=True))
    if layout == "packed":
      named = jax.tree_util.tree_flatten_with_path(weights)[0]
      np.savez(
        folder / "weights.npz", **{"/".join(k.key for k in p): v for p, v in named}
      )
    np.savez(folder / f"{layout}_seen.npz", **seen)
    start = time.perf_counter()
    compiled = trainer.step.lower(state, batch).compile()
    facts = {
      "compile_seconds": time.perf_counter() - start,
      "device": mesh.devices.flat[0].device_kind,
      "devices": mesh.size,
      "peak": _peak(mesh, settings.dtype) if layout == "packed" else None,
      "memory": compiled.memory_analysis().temp_size_in_bytes,
    }
  held = [state]

  def step() -> None:
    with jax.set_mesh(mesh):
      held[0], metrics = compiled(held[0], batch)
      jax.block_until_ready(metrics)

  return step, facts


def _peak(mesh, dtype: str) -> float:
  """FLOP/s of the mesh: its devices' peak, or what a large product reaches here."""
  import jax
  import jax.numpy as jnp

  from video_dit.parallel import peaks

  known = peaks.FLOPS.get(mesh.devices.flat[0].device_kind)
  if known:
    return known * mesh.size
  x = jnp.ones((1536, 1536), jnp.dtype(dtype))
  product = jax.jit(jnp.dot)
  product(x, x).block_until_ready()
  best = 1e9
  for _ in range(10):
    start = time.perf_counter()
    product(x, x).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return 2 * 1536.0**3 / best


def theirs(layout: str, folder: pathlib.Path, settings: Settings, compiled: bool):
  """PyTorch's step, and how far its prediction lies from ours."""
  import torch

  from tests.benchmarks import torch_dit

  cuda = settings.mesh.startswith("gpu")
  device = "cuda" if cuda else "cpu"
  torch.manual_seed(0)
  torch.set_num_threads(settings.threads)
  torch.set_float32_matmul_precision(
    "high" if settings.dtype == "bfloat16" else "highest"
  )
  arrays = dict(np.load(folder / f"{layout}.npz"))
  seen = np.load(folder / f"{layout}_seen.npz")
  model = torch_dit.DiT(
    settings.width,
    settings.depth,
    settings.heads,
    settings.patch_dim,
    settings.text_width,
  )
  torch_dit.load(model, dict(np.load(folder / "weights.npz")))
  model.to(device)
  half = settings.dtype == "bfloat16"
  rope = seen["cosine"], seen["sine"]
  rows = torch_dit.rows(arrays, rope, seen["place"], device, varlen=cuda and half)
  tensors = {
    name: torch.from_numpy(arrays[name]).to(device, torch.float32)
    for name in ("patches", "text", "tokens", "weights")
  }
  patches, text = tensors["patches"], tensors["text"]
  real = torch.from_numpy(arrays["segments"] > 0).to(device)
  share = tensors["weights"] / tensors["tokens"].clamp(min=1)
  share = torch.gather(share, 1, rows.at[..., 0]) * real / tensors["weights"].sum()

  shape = tensors["tokens"].shape
  with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
    found = model(patches, torch.full(shape, 0.5, device=device), text, rows)
  mask = arrays["segments"] > 0
  expected = seen["prediction"][mask]
  apart = np.abs(found.cpu().numpy()[mask] - expected).max() / np.abs(expected).max()

  forward = torch.compile(model) if compiled else model
  params = list(model.parameters())
  average = [p.detach().clone() for p in params]
  optimizer = torch.optim.AdamW(params, lr=1e-4, betas=(0.9, 0.95), fused=True)

  def step() -> None:
    times = torch.sigmoid(torch.randn(shape, device=device))
    times_RN1 = torch.gather(times, 1, rows.at[..., 0])[..., None]
    noise = torch.randn_like(patches)
    x = (1 - times_RN1) * patches + times_RN1 * noise
    with torch.autocast(device, torch.bfloat16, enabled=half):
      predicted = forward(x, times, text, rows)
    error = (predicted - (noise - patches)).square().mean(-1)
    (share * error).sum().backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
      torch._foreach_lerp_(average, [p.detach() for p in params], 1e-4)
    if cuda:
      torch.cuda.synchronize()

  return step, {"apart": float(apart), "device": device, "torch": torch.__version__}
