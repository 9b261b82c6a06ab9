"""Back-propagation: against plain differentiation, over devices, and with frozen layers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.losses.cross_entropy import cross_entropy
from fer_jax.objectives.backprop import Backprop


def test_gradients_equal_plain_differentiation(network, variables, batch):
  params, stats = variables
  key = jax.random.key(3)

  def loss(params):
    outputs, _ = network.apply(params, stats, batch.image, key=key)
    return cross_entropy(outputs.logits, batch.target).mean()

  learned = Backprop().build(network, frozenset(network.layers), None)(params, stats, batch, key)
  value, gradients = jax.value_and_grad(loss)(params)
  np.testing.assert_allclose(learned.metrics["loss"], value, rtol=1e-6)
  chex.assert_trees_all_close(learned.gradients, gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_learn_what_one_does(network, variables, batch, on_devices, devices):
  trainable = frozenset(network.layers)
  one = Backprop().build(network, trainable, None)(*variables, batch, jax.random.key(3))
  many = on_devices(Backprop(), devices, trainable)
  chex.assert_trees_all_close(many.metrics, one.metrics, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(many.gradients, one.gradients, rtol=1e-3, atol=1e-5)


def test_frozen_layers_have_no_gradient_and_keep_their_statistics(network, variables, batch):
  trainable = frozenset({"classifier"})
  learned = Backprop().build(network, trainable, None)(*variables, batch, jax.random.key(3))
  assert set(learned.gradients) == trainable
  frozen = set(network.layers) - trainable
  chex.assert_trees_all_equal(*({name: stats[name] for name in frozen} for stats in (learned.stats, variables[1])))


def test_accuracy_counts_the_rows_that_are_right(network, variables, batch):
  learned = Backprop().build(network, frozenset(network.layers), None)(*variables, batch, jax.random.key(3))
  outputs, _ = network.apply(*variables, batch.image, key=jax.random.key(3))
  right = np.mean(np.argmax(outputs.logits, -1) == np.argmax(batch.target, -1))
  np.testing.assert_allclose(learned.metrics["accuracy"], right, rtol=1e-6)


def test_label_smoothing_raises_the_loss_of_a_sure_network(network, variables, batch):
  params, stats = variables
  sure = {**params, "classifier": jax.tree.map(lambda p: 50 * p, params["classifier"])}
  logits = network.apply(sure, stats, batch.image, key=jax.random.key(3))[0].logits
  batch = batch._replace(target=jnp.eye(3)[jnp.argmax(logits, -1)])
  losses = [
    Backprop(label_smoothing=s)
    .build(network, frozenset(network.layers), None)(sure, stats, batch, jax.random.key(3))
    .metrics["loss"]
    for s in (0.0, 0.2)
  ]
  assert losses[0] < losses[1]
