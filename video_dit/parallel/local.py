"""One device's attention: which kernel, and its gradients.

`auto` takes the plain form for short rows, else the kernel of the device: `splash` on
TPU, `tokamax` on GPU where it is installed, else `triton`, `chunked` elsewhere. The
choice is logged once for each shape.
"""

import functools
import importlib.util
import types

from absl import logging
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from video_dit import extras
from video_dit.parallel.kernels import chunked, dense

KERNELS = (
  *("auto", "dense", "chunked", "triton", "tokamax", "cudnn"),
  *("splash", "splash_256", "splash_1024"),  # suffix: tokens of a block, if not 512
)
SHORT = 1024  # queries and keys up to which all scores at once are faster than blocks
_GPU = ("gpu", "cuda")  # as JAX names the platform
_OLD_GPUS = ("T4", "V100", "RTX 20", "Quadro RTX", "TITAN")  # without bfloat16
_WIDEST = 256  # head size on GPU
SAVED = "attention"  # name of the values that the policy `attention` keeps


def local_attention(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  *,
  kernel: str = "auto",
) -> tuple[jax.Array, jax.Array]:
  """Attends one device's queries to one device's keys, in a form that can be merged.

  Both results are differentiable. Results over disjoint keys merge to that over all:
  with lse = logaddexp(lse1, lse2), out = out1 exp(lse1 - lse) + out2 exp(lse2 - lse).

  Args:
    q_RNAK: queries, not yet scaled.
    k_RMAK, v_RMAK: keys and values.
    segments_RN, key_segments_RM: segments, 0 is padding. Any numbers are exact (but see
      `tokamax`); work is least where they ascend.
    kernel: one of `KERNELS`.

  Returns:
    Output `(R, N, A, K)` in the queries' dtype, 0 for a query that sees no key; and the
    natural log of the sum of the exponentials of its scaled scores, `(R, N, A)` float32,
    `dense.NO_KEYS` = -1e30 for a query that sees no key.

  Raises:
    ValueError: no such kernel, or one that does not run here.
  """
  arguments = (q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM)
  name = choose(kernel, q_RNAK.shape, k_RMAK.shape[1])
  if name == "dense":
    out, lse_RNA = dense.attention(*arguments)
    return _named(out, q_RNAK, k_RMAK), lse_RNA
  out, lse_RAN = _local(*arguments, name, device()[1])
  return out, lse_RAN.swapaxes(1, 2)


def local_gradients(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  lse_RNA: jax.Array,
  delta_RNA: jax.Array,
  dout_RNAK: jax.Array,
  *,
  kernel: str = "auto",
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """These keys' part of the gradients, where softmax went over more keys than these.

  Args:
    q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM: as for `local_attention`.
    lse_RNA: log-sum-exp over all keys, `(R, N, A)` float32.
    delta_RNA: sum over K of output times its cotangent, over all keys, float32.
    dout_RNAK: cotangent of the output over all keys.
    kernel: one of `KERNELS`.

  Returns:
    Parts of the gradients of the queries (to be summed over all keys), keys and values.
  """
  name = choose(kernel, q_RNAK.shape, k_RMAK.shape[1])
  return _gradients(name, device()[1])(
    *(q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM),
    *(lse_RNA, delta_RNA, dout_RNAK),
  )


def device() -> tuple[str, str]:
  """Platform and kind of the target device: the mesh's, else the default."""
  mesh = jax.sharding.get_abstract_mesh()
  found = None if mesh.empty else mesh.abstract_device
  if found is None:
    found = jax.devices()[0]
  return found.platform, found.device_kind


def one_cpu() -> bool:
  """Whether the target is a single CPU device: nothing is sharded, layouts are free."""
  mesh = jax.sharding.get_abstract_mesh()
  return device()[0] == "cpu" and (mesh.empty or mesh.size == 1)


def on_gpu() -> bool:
  """Whether the target is a GPU, whose memory has no lanes to fill."""
  return device()[0] in _GPU


def choose(kernel: str, shape: tuple[int, ...], keys: int) -> str:
  """Names the kernel for queries of a shape `(R, N, A, K)` and a number of keys.

  Raises:
    ValueError: no such kernel, or one that needs what is not installed.
  """
  platform, kind = device()
  if kernel not in KERNELS:
    raise ValueError(
      f"config.dit.attention={kernel!r} is not a kernel. Choose one of"
      f" {', '.join(KERNELS)}."
    )
  if kernel == "tokamax" and not _has_tokamax():
    raise ValueError(
      "config.dit.attention='tokamax': Tokamax is not installed, or not in a version that"
      " can be used. Install it with"
      f" {extras.command('tokamax')}, or choose 'auto'."
    )
  gpu = platform in _GPU
  if gpu and kernel in ("tokamax", "cudnn") and not _gpu_is_here():
    raise ValueError(
      f"config.dit.attention={kernel!r}: the library queries the GPU of this machine, and"
      " there is none. Choose 'triton' or 'auto' to compile for one."
    )
  if gpu and kernel in ("triton", "tokamax", "cudnn") and shape[3] > _WIDEST:
    raise ValueError(
      f"config.dit.attention={kernel!r}: heads of {shape[3]} are wider than {_WIDEST},"
      " the most that the GPU kernels support. Choose 'chunked', or more heads."
    )
  name, why = kernel, "chosen by name"
  if kernel == "auto":
    if shape[1] * keys <= SHORT**2:
      name, why = "dense", "a short row"
    elif platform == "tpu":
      name, why = "splash", "a TPU"
    elif gpu and any(old in kind for old in _OLD_GPUS):
      name, why = "chunked", "a GPU older than the kernels"
    elif gpu and shape[3] > _WIDEST:
      name, why = "chunked", "heads wider than the GPU kernels support"
    elif gpu and _gpu_is_here() and _has_tokamax():
      name, why = "tokamax", "a GPU"
    elif gpu and not _has_triton():
      name, why = "chunked", "a JAX without Pallas for Triton"
    elif gpu and _has_tokamax():
      name, why = "triton", "a GPU that is not present"
    elif gpu:
      name, why = "triton", f"a GPU without Tokamax: {extras.command('tokamax')}"
    else:
      name, why = "chunked", f"a long row on {platform}"
  _say(name, why, kind, shape, keys)
  return name


@functools.cache
def _say(name: str, why: str, kind: str, shape: tuple[int, ...], keys: int):
  logging.info(
    "attention: %s (%s) for %d queries x %d keys, %d heads of %d, %d rows, on %s",
    *(name, why, shape[1], keys, shape[2], shape[3], shape[0], kind),
  )


@functools.cache
def _has_tokamax() -> bool:
  """Whether Tokamax is here, in a version with the private parts that are used."""
  if importlib.util.find_spec("tokamax") is None:
    return False
  from video_dit.parallel.kernels import gpu

  try:
    gpu.parts()
  except (ImportError, AttributeError) as error:
    logging.warning("attention: this version of Tokamax cannot be used (%s)", error)
    return False
  return True


def _gpu_is_here() -> bool:
  return jax.default_backend() == "gpu"


@functools.cache
def _has_triton() -> bool:
  # JAX announces that a later version will drop it.
  return importlib.util.find_spec("jax.experimental.pallas.triton") is not None


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _local(q, k, v, segments, key_segments, name: str, kind: str):
  return _forward(q, k, v, segments, key_segments, name, kind)[0]


def _forward(q, k, v, segments, key_segments, name: str, kind: str):
  out, lse_RNA = _attention(name, kind)(q, k, v, segments, key_segments)
  out = _named(out, q, k)
  # Heads before tokens: what is saved ends in the long axis, so nothing is padded to
  # whole lanes.
  lse_RAN = _named(lse_RNA.swapaxes(1, 2), q, k)
  return (out, lse_RAN), (q, k, v, segments, key_segments, out, lse_RAN)


def _named(x: jax.Array, q_RNAK: jax.Array, k_RMAK: jax.Array) -> jax.Array:
  """Lets `SAVED` keep it, unless keys are few (a text) and recomputing is cheap."""
  return checkpoint_name(x, SAVED) if k_RMAK.shape[1] >= q_RNAK.shape[1] else x


def _backward(name: str, kind: str, saved, cotangents):
  q, k, v, segments, key_segments, out, lse_RAN = saved
  dout, dlse_RAN = cotangents
  delta_RNA = jnp.sum(out.astype(jnp.float32) * dout.astype(jnp.float32), -1)
  # A weight is the gradient of the log-sum-exp: it enters the scores' like -delta.
  delta_RNA -= dlse_RAN.swapaxes(1, 2)
  arguments = (q, k, v, segments, key_segments, lse_RAN.swapaxes(1, 2), delta_RNA, dout)
  return *_gradients(name, kind)(*arguments), None, None


_local.defvjp(_forward, _backward)


def _attention(name: str, kind: str):
  """The forward pass of a kernel."""
  if name.startswith("splash"):
    return functools.partial(_splash().attention, device=_tpu(kind), block=_block(name))
  if name == "triton":
    return functools.partial(_triton().attention, device=_gpu(kind))
  if name in ("tokamax", "cudnn"):
    from video_dit.parallel.kernels import gpu

    return functools.partial(getattr(gpu, name), device=_gpu(kind))
  return {"dense": dense, "chunked": chunked}[name].attention


def _gradients(name: str, kind: str):
  """The backward pass of a kernel; the libraries' would visit every block of a row."""
  if name.startswith("splash"):
    return functools.partial(_splash().gradients, device=_tpu(kind), block=_block(name))
  by_library = name in ("tokamax", "cudnn") and _gpu(kind) and _has_triton()
  if name == "triton" or by_library:
    return functools.partial(_triton().gradients, device=_gpu(kind))
  return (dense if name == "dense" else chunked).gradients


def _splash() -> types.ModuleType:
  # Imported where it is used: Pallas takes half a second.
  from video_dit.parallel.kernels import splash

  return splash


def _triton() -> types.ModuleType:
  from video_dit.parallel.kernels import triton

  return triton


def _block(name: str) -> int:
  """Tokens of a block from the kernel's name; 0 leaves them to the kernel."""
  return int(name.partition("_")[2] or 0)


def _gpu(kind: str) -> str:
  """The kind of GPU; empty elsewhere, where the kernels run as plain JAX."""
  return kind if on_gpu() else ""


def _tpu(kind: str) -> str:
  """The kind of TPU; empty elsewhere, where the kernel runs in interpret mode."""
  return kind if device()[0] == "tpu" else ""
