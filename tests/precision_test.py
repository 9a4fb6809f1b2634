"""Products of float32 operands ask for float32; those of others are left alone.

The models are traced, not run: which product a device takes, it says in the program.
"""

from collections.abc import Iterator
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import pytest

from video_dit import config as config_lib
from video_dit.models.autoencoder import published
from video_dit.models.autoencoder.cogvideox import CogVideoX, CogVideoXConfig
from video_dit.models.autoencoder.hunyuan import Hunyuan, HunyuanConfig
from video_dit.models.autoencoder.model import Autoencoder
from video_dit.models.autoencoder.stable import Stable, StableConfig
from video_dit.models.autoencoder.wan import Wan as WanAutoencoder
from video_dit.models.autoencoder.wan import WanConfig
from video_dit.models.dit import build, layers, rotary
from video_dit.models.text import clip, t5
from video_dit.parallel import precision
from video_dit.parallel.kernels import chunked, dense

_PRODUCTS = ("dot_general", "conv_general_dilated")
_SIZES = {"latent_channels": 3, "layers_per_block": 1, "norm_num_groups": 2}
_AUTOENCODERS = {
  "own": lambda rngs: Autoencoder(
    config_lib.Autoencoder(channels=3, space=2, time=2, patch=1, widths=(4, 6), blocks=1),
    rngs=rngs,
  ),
  "wan": functools.partial(
    WanAutoencoder,
    WanConfig(
      base_dim=4,
      z_dim=3,
      dim_mult=(1, 2),
      num_res_blocks=1,
      temperal_downsample=(True,),
      latents_mean=(0.0,) * 3,
      latents_std=(1.0,) * 3,
    ),
  ),
  "cogvideox": functools.partial(
    CogVideoX,
    CogVideoXConfig(block_out_channels=(4, 6), temporal_compression_ratio=2, **_SIZES),
  ),
  "hunyuan": functools.partial(
    Hunyuan,
    HunyuanConfig(block_out_channels=(4, 6, 4), spatial_compression_ratio=4, **_SIZES),
  ),
  "stable": functools.partial(Stable, StableConfig(block_out_channels=(4, 6), **_SIZES)),
}


def _equations(jaxpr) -> Iterator:
  """All equations of a program, those of its loops and branches too."""
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      for part in value if isinstance(value, tuple | list) else (value,):
        inner = getattr(part, "jaxpr", part)
        if hasattr(inner, "eqns"):
          yield from _equations(inner)


def _check(run, *arguments) -> None:
  """Checks each product that a function and its gradients consist of."""

  def total(*given):
    return sum(
      jnp.sum(jnp.sin(x.astype(jnp.float32))) for x in jax.tree.leaves(run(*given))
    )

  gradients = jax.grad(total, argnums=range(len(arguments)), allow_int=True)
  found = 0
  for traced in (run, gradients):
    for equation in _equations(jax.make_jaxpr(traced)(*arguments).jaxpr):
      if equation.primitive.name not in _PRODUCTS:
        continue
      found += 1
      whole = all(x.aval.dtype == jnp.float32 for x in equation.invars[:2])
      asked, convolves = equation.params["precision"], equation.primitive.name[0] == "c"
      wanted = precision.CONVOLUTION if convolves else jax.lax.Precision.HIGHEST
      assert asked == ((wanted, wanted) if whole else None), equation
  assert found


def _abstract(make):
  """A model's graph, and its parameters without values."""
  graph, shapes = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
  return graph, nnx.to_pure_dict(shapes)


def _array(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)


_DTYPES = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)


def test_only_float32_by_float32_is_asked_for():
  x, y = jnp.ones(2), jnp.ones(2, jnp.bfloat16)
  assert precision.of(x, x) == jax.lax.Precision.HIGHEST
  assert precision.of(x, y) is precision.of(y, y) is None


@_DTYPES
@pytest.mark.parametrize("device", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("architecture", ["own", "wan"])
def test_transformers(monkeypatch, architecture, device, dtype):
  monkeypatch.setattr(layers, "one_cpu", lambda: device == "cpu")
  for module in (layers, rotary):
    monkeypatch.setattr(module, "on_gpu", lambda: device == "gpu")
  dit = config_lib.DiT(
    **{"architecture": architecture, "width": 12, "depth": 1, "heads": 2},
    **{"mlp_ratio": 2.0, "remat": "none", "text_length": 4},
  )
  graph, params = _abstract(lambda rngs: build.build(dit, 6, 5, rngs=rngs))
  segments, positions = jnp.ones((1, 8), jnp.int32), jnp.ones((1, 8, 3))
  text_segments = jnp.ones((1, 3), jnp.int32)

  def run(params, patches, times, text):
    return nnx.merge(graph, params)(
      *(patches, times, segments, positions, text, text_segments), dtype=dtype
    )

  _check(run, params, _array(1, 8, 6), _array(1, 2), _array(1, 3, 5))


@_DTYPES
@pytest.mark.parametrize("kernel", [dense, chunked], ids=["dense", "chunked"])
def test_attention_and_its_own_gradients(kernel, dtype):
  segments = jnp.ones((1, 8), jnp.int32)
  q, sums = _array(1, 8, 2, 4, dtype=dtype), _array(1, 8, 2)

  def run(q, k, v, lse, delta, dout):
    given = (q, k, v, segments, segments)
    return kernel.attention(*given), kernel.gradients(*given, lse, delta, dout)

  found = list(_equations(jax.make_jaxpr(run)(q, q, q, sums, sums, q).jaxpr))
  asked = {e.params["precision"] for e in found if e.primitive.name in _PRODUCTS}
  highest = jax.lax.Precision.HIGHEST
  assert asked == ({(highest, highest)} if dtype == jnp.float32 else {None})


@_DTYPES
@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_text_encoders(kind, dtype):
  sizes = {"width": 8, "depth": 1, "heads": 2, "mlp_width": 12}

  def make(rngs):
    if kind == "t5":
      return t5.T5Encoder(t5.T5Config(vocabulary=9, head_size=4, **sizes), rngs=rngs)
    return clip.ClipEncoder(clip.ClipConfig(vocabulary=9, **sizes), rngs=rngs)

  graph, params = _abstract(make)
  ids = jnp.ones((1, 4), jnp.int32)
  _check(lambda params: nnx.merge(graph, params)(ids, ids > 0, dtype=dtype), params)


@_DTYPES
@pytest.mark.parametrize("kind", _AUTOENCODERS)
def test_autoencoders(kind, dtype):
  make = _AUTOENCODERS[kind]
  model = published.abstract(lambda rngs: make(rngs=rngs))
  graph, shapes = nnx.split(model)
  side = 4 * model.space

  def run(params, pixels, latents):
    model = nnx.merge(graph, params)
    return model.encode_chunk(pixels, None), model.decode_chunk(latents, None)

  _check(
    run,
    nnx.to_pure_dict(shapes),
    _array(1, 1, side, side, 3, dtype=dtype),
    _array(1, 1, 4, 4, model.channels, dtype=dtype),
  )
