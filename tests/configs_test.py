"""Every config builds, and takes one step of each of its phases."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hsic
from fer_jax.config import parse
from fer_jax.data.batch import Batch
from fer_jax.parallel import Devices
from fer_jax.phases import plan
from fer_jax.step import Resident

VARIANTS = [("hsic", v) for v in ("", *hsic.VARIANTS, "small,backprop", "small,paper", "small,blockwise")]
# The step is what is tested, not the arithmetic: a narrower network, fewer convolutions.
NARROW = {"convs": 2, "growth": 4, "stem": 4, "transition": 4, "pyramid": 4}


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_config_takes_one_step_of_each_phase(name, variant):
  config = importlib.import_module(f"configs.{name}").get_config(variant)
  config.model.update(NARROW)
  settings = parse(config)
  devices = Devices(jax.devices()[:1])
  network = settings.model.build(7, jnp.dtype(settings.precision), devices.axis_name)
  image = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 1), dtype=np.uint8)
  resident = devices.replicate(Resident(image, np.eye(7, dtype=np.float32)[np.arange(8) % 7]))
  params, stats = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 48, 48, 1)))
  learned = set()
  for phase in plan(settings, network, devices, rows=1000):
    state = phase.begin(0, params, stats)
    batch = Batch(np.arange(8, dtype=np.int32), np.ones(8, bool))
    new_state, metrics = phase.step(state, resident, batch, np.float32(0.5))
    assert np.isfinite(metrics["loss"])
    for layer in network.layers:
      same = jax.tree.map(lambda a, b: bool((a == b).all()), new_state.params[layer], params[layer])
      assert all(jax.tree.leaves(same)) == (layer not in phase.trainable), layer
    learned |= phase.trainable
  assert learned == set(network.layers)
