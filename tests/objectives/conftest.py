"""A small dense network, its variables and a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.models.hsic_dense import HsicDense
from fer_jax.objectives.objective import Examples

SETTINGS = HsicDense(blocks=1, convs=2, growth=4, stem=6, pyramid=5)
ROWS, CLASSES = 16, 3


@pytest.fixture(scope="session")
def network():
  return SETTINGS.build(CLASSES, jnp.float32, None)


@pytest.fixture(scope="session")
def variables(network):
  params, stats = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 12, 12, 1)))
  # The initial attention scores of the classifier are zero, which is a special case.
  keys = iter(jax.random.split(jax.random.key(1), 200))
  params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params)
  return params, stats


@pytest.fixture(scope="session")
def batch():
  generator = np.random.default_rng(0)
  image = generator.normal(size=(ROWS, 12, 12, 1)).astype(np.float32)
  return Examples(jnp.asarray(image), jnp.eye(CLASSES)[generator.integers(0, CLASSES, ROWS)])


@pytest.fixture(scope="session")
def on_devices(variables, batch):
  """Returns a function that applies an objective to the batch, split over several devices."""

  def apply(settings, devices, trainable, variables=variables):
    network = SETTINGS.build(CLASSES, jnp.float32, "d")
    objective = settings.build(network, trainable, "d")
    on_each = jax.pmap(
      objective, axis_name="d", in_axes=(None, None, 0, None), out_axes=None, devices=jax.devices()[:devices]
    )
    split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    return on_each(*variables, split, jax.random.key(3))

  return apply
