"""Latents in their principal components.

A short training leaves channels that repeat each other: a few directions hold nearly all
of the variance, and a generator, whose loss is a squared error, learns the others last.
Where a background's brightness is in most channels, these are the outlines. Turned into
principal components, each of which is then normalised, all directions weigh the same
(whitening). The turn is a linear map of channels, and lies in the convolutions on both
sides of the latent: what is decoded of what is encoded stays the same.
"""

import numpy as np

_LEAST = 1e-8  # of a normalised channel's variance: less is rounding


def components(
  mean_C: np.ndarray, covariance_CC: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Principal components of channels that are first brought to one deviation.

  Args:
    mean_C, covariance_CC: of the latents.

  Returns:
    The map `(c, c)`, by which latents `(..., c)` are multiplied from the right, and mean
    and deviation `(c,)` of what comes out, the greatest deviation first; 1 for one that
    is nothing but rounding.
  """
  variance_C = np.diag(covariance_CC)
  deviation_C = np.sqrt(np.where(variance_C > 1e-12, variance_C, 1.0))
  correlation_CC = covariance_CC / np.outer(deviation_C, deviation_C)
  found_C, basis_CC = np.linalg.eigh(correlation_CC)
  found_C, basis_CC = found_C[::-1], basis_CC[:, ::-1]
  # A direction is as good as its opposite: its greatest weight is made positive.
  greatest_C = np.take_along_axis(basis_CC, np.abs(basis_CC).argmax(0)[None], 0)[0]
  turn_CC = basis_CC * np.sign(greatest_C) / deviation_C[:, None]
  return turn_CC, mean_C @ turn_CC, np.sqrt(np.where(found_C > _LEAST, found_C, 1.0))


def turn(params: dict, turn_CC: np.ndarray) -> dict:
  """Parameters of the autoencoder that has the latents of another, times a matrix.

  Args:
    params: pure dictionary of an `Autoencoder`'s parameters, on the host.
    turn_CC: of full rank.

  Returns:
    The same dictionary with other first and last convolutions. Log-variances, which have
    no counterpart among the new channels, stay those of the old ones.
  """

  def changed(conv: dict, **arrays: np.ndarray) -> dict:
    return conv | {k: v.astype(conv[k].dtype) for k, v in arrays.items()}

  encoder, decoder = params["encoder"], params["decoder"]
  last, first = encoder["conv_out"], decoder["conv_in"]
  kernel = np.asarray(last["kernel"], np.float64) @ turn_CC
  bias = np.asarray(last["bias"], np.float64) @ turn_CC
  back = np.linalg.inv(turn_CC) @ np.asarray(first["kernel"], np.float64)
  return params | {
    "encoder": encoder | {"conv_out": changed(last, kernel=kernel, bias=bias)},
    "decoder": decoder | {"conv_in": changed(first, kernel=back)},
  }
