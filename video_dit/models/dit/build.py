"""The transformer that a config names."""

from flax import nnx

from video_dit import config as config_lib
from video_dit.models.dit.model import DiT
from video_dit.models.dit.wan import Wan

Transformer = DiT | Wan


def build(
  dit: config_lib.DiT, patch_dim: int, text_width: int, *, rngs: nnx.Rngs
) -> Transformer:
  """Builds the transformer; both kinds are called in the same way.

  Args:
    dit: its sizes.
    patch_dim: P, of the latents' channels and the patch.
    text_width: E.
    rngs: of the weights.
  """
  kind = Wan if dit.architecture == "wan" else DiT
  return kind(dit, patch_dim, text_width, rngs=rngs)
