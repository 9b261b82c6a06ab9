"""The local objective: its gradients against a plain rendering, their locality, their groupings, their devices."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.losses import hsic
from fer_jax.losses.cross_entropy import cross_entropy
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck

FORMS = [
  HsicBottleneck(),
  HsicBottleneck(measure="trace", kernel="gaussian", balanced=False, grid=0, sigma=1.0),
  HsicBottleneck(measure="cka", kernel="linear", grid=2),
]


def plain_loss(settings, network, params, stats, batch, key, barrier=jax.lax.stop_gradient):
  """The sum of all layers' losses in one forward pass, written with none of the objective's machinery."""
  label = settings.label_gram(batch.target)
  rows = settings.rows(batch.image)
  image = settings.gram(rows @ rows.T, rows.shape[-1])
  measure = {"trace": hsic.hsic, "cka": hsic.cka}[settings.measure]
  losses = {}

  def apply(name, *inputs):
    output, _ = network.call(name, params[name], stats[name], tuple(barrier(x) for x in inputs), key)
    if name == network.classifier:
      losses[name] = cross_entropy(output, batch.target).mean()
    else:
      z = settings.rows(output)
      gram = settings.gram(z @ z.T, z.shape[-1])
      losses[name] = measure(gram, image) - settings.beta * measure(gram, label)
    return output

  network.walk(apply, batch.image)
  return losses


@pytest.mark.parametrize("settings", FORMS, ids=lambda s: f"{s.measure}-{s.kernel}")
def test_gradients_equal_those_of_the_plain_rendering(network, variables, batch, settings):
  key = jax.random.key(3)
  learned = settings.build(network, frozenset(network.layers), None)(*variables, batch, key)

  def total(params):
    return sum(plain_loss(settings, network, params, variables[1], batch, key).values())

  chex.assert_trees_all_close(learned.gradients, jax.grad(total)(variables[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", FORMS, ids=lambda s: f"{s.measure}-{s.kernel}")
@pytest.mark.parametrize("group", ["network", "block"])
def test_every_grouping_gives_the_same_gradients(network, variables, batch, settings, group):
  trainable = frozenset(network.layers)
  by_layer = settings.build(network, trainable, None)(*variables, batch, jax.random.key(3))
  grouped = dataclasses.replace(settings, group=group).build(network, trainable, None)
  found = grouped(*variables, batch, jax.random.key(3))
  # Some gradients are 0 in exact arithmetic (normalisation undoes a lone input's weight): there only rounding differs.
  scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(by_layer.gradients))
  chex.assert_trees_all_close(found.gradients, by_layer.gradients, rtol=1e-4, atol=1e-6 * scale)
  chex.assert_trees_all_close(found.metrics, by_layer.metrics, rtol=1e-4, atol=1e-5)


def test_a_layers_loss_has_no_gradient_on_any_other_layer(network, variables, batch):
  settings, key = HsicBottleneck(), jax.random.key(3)

  def losses(params):
    return plain_loss(settings, network, params, variables[1], batch, key)

  whole = settings.build(network, frozenset(network.layers), None)(*variables, batch, key).gradients
  jacobian = jax.jacrev(losses)(variables[0])
  for of in network.layers:
    for on in network.layers:
      size = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(jacobian[of][on]))
      assert (size > 0) == (of == on), f"loss of {of} on the parameters of {on}"
    # And what the objective hands to the optimiser is that own loss's gradient and nothing besides.
    chex.assert_trees_all_close(whole[of], jacobian[of][of], rtol=1e-3, atol=1e-4)


def test_what_comes_later_does_not_change_what_a_layer_learns(network, variables, batch):
  """The proof on the objective itself: other layers' parameters, changed downstream, leave a gradient as it is."""
  params, stats = variables
  settings = HsicBottleneck(group="network")
  learn = settings.build(network, frozenset(network.layers), None)
  before = learn(params, stats, batch, jax.random.key(3)).gradients
  first = network.hidden[:3]
  changed = {name: p if name in first else jax.tree.map(lambda x: x * 1.5 + 0.1, p) for name, p in params.items()}
  after = learn(changed, stats, batch, jax.random.key(3)).gradients
  for name in first:
    chex.assert_trees_all_equal(before[name], after[name])
  assert not np.allclose(before["classifier"]["Dense_2"]["kernel"], after["classifier"]["Dense_2"]["kernel"])


@pytest.mark.parametrize("settings", FORMS, ids=lambda s: f"{s.measure}-{s.kernel}")
@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_learn_what_one_does(network, variables, batch, on_devices, settings, devices):
  trainable = frozenset(network.layers)
  one = settings.build(network, trainable, None)(*variables, batch, jax.random.key(3))
  many = on_devices(settings, devices, trainable)
  chex.assert_trees_all_close(many.metrics, one.metrics, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(many.stats, one.stats, rtol=1e-5, atol=1e-6)
  scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(one.gradients))
  chex.assert_trees_all_close(many.gradients, one.gradients, rtol=1e-4, atol=1e-5 * scale)


def test_frozen_layers_have_no_gradient_and_keep_their_statistics(network, variables, batch):
  trainable = frozenset(network.blocks[0])
  learned = HsicBottleneck().build(network, trainable, None)(*variables, batch, jax.random.key(3))
  assert set(learned.gradients) == trainable
  for name in network.layers:
    same = jax.tree.map(lambda a, b: bool((a == b).all()), learned.stats[name], variables[1][name])
    assert all(jax.tree.leaves(same)) == (name not in trainable), name


@pytest.mark.parametrize("target", ["one class", "two rows"])
def test_degenerate_batches_stay_finite(network, variables, batch, target):
  if target == "one class":
    batch = batch._replace(target=jnp.tile(batch.target[:1], (len(batch.target), 1)))
  else:
    batch = jax.tree.map(lambda x: x[:2], batch)
  learned = HsicBottleneck().build(network, frozenset(network.layers), None)(*variables, batch, jax.random.key(3))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learned))


def test_constant_images_stay_finite(network, variables, batch):
  batch = batch._replace(image=jnp.zeros_like(batch.image))
  learned = HsicBottleneck().build(network, frozenset(network.layers), None)(*variables, batch, jax.random.key(3))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learned))


@pytest.mark.parametrize("field", ["measure", "kernel", "group"])
def test_an_unknown_choice_names_the_known_ones(field):
  with pytest.raises(ValueError, match=f"{field}='nope': expected one of"):
    HsicBottleneck(**{field: "nope"})
