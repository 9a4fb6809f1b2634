"""Products of float32 operands are float32, on every device.

A TPU would multiply float32 operands rounded to bfloat16 unless asked otherwise, and an
NVIDIA GPU rounded to TensorFloat-32. Products of narrower operands are exact in any case,
and are left alone. Gradients of a product have its precision.
"""

import jax
import jax.numpy as jnp

# Of convolutions: three products of bfloat16 parts on TPU, which together have 16 bits;
# TensorFloat-32, which has 11, on NVIDIA GPUs, as PyTorch's by default.
CONVOLUTION = jax.lax.Precision.HIGH


def of(
  *operands: jax.Array, whole: jax.lax.Precision = jax.lax.Precision.HIGHEST
) -> jax.lax.Precision | None:
  """The precision to ask of a product.

  Args:
    *operands: of the product.
    whole: asked for where all are float32.

  Returns:
    `whole`, or None where an operand is narrower.
  """
  return whole if all(x.dtype == jnp.float32 for x in operands) else None
