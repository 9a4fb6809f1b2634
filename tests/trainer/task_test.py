"""What is refused before anything is compiled."""

import dataclasses

import jax
import pytest

from tests import tiny
from video_dit.parallel import mesh as mesh_lib
from video_dit.trainer import task


@pytest.mark.parametrize("shape", [(4, 1, 2, 1), (2, 2, 1, 2)])
def test_an_autoencoder_is_not_trained_over_axes_that_repeat_its_work(shape):
  config = dataclasses.replace(tiny.CONFIG, objective="reconstruction")
  task.check_mesh(config, mesh_lib.make(jax.devices(), (4, 2, 1, 1)))
  with pytest.raises(ValueError, match="=2 of the mesh: the autoencoder is trained over"):
    task.check_mesh(config, mesh_lib.make(jax.devices(), shape))
