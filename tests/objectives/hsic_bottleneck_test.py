"""The local objective: its gradients against a plain rendering, their locality, their groupings, their devices."""

import dataclasses
import fnmatch
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.losses import hsic
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from tests.objectives.conftest import CLASSES
from tests.objectives.conftest import SETTINGS as NETWORK

FORMS = [
  HsicBottleneck(),
  HsicBottleneck(measure="trace", kernel="gaussian", balanced=False, grid=0, sigma=(1.0,)),
  HsicBottleneck(measure="nhsic", kernel="gaussian", bandwidth="median", sigma=(0.5, 1.0), epsilon=1e-2, grid=2),
  HsicBottleneck(measure="phsic", compress="self", beta=2.0, channel_groups=3, center_features=False),
  HsicBottleneck(kernel="linear", grid=2, layer_beta={"block1_*": 3.0, "*_stem": 1.0}),
]


def learner(settings, network, trainable=None):
  """Returns the objective, compiled (operation by operation it is slow), of all layers unless some are named."""
  return jax.jit(settings.build(network, frozenset(trainable or network.layers), None))


@pytest.fixture(scope="session")
def one_device(network, variables, batch):
  """Returns what a form learns from the batch on one device, layer by layer; computed once for each form."""
  known = {}

  def learned(settings):
    if repr(settings) not in known:
      known[repr(settings)] = learner(settings, network)(*variables, batch, jax.random.key(3))
    return known[repr(settings)]

  return learned


def name_of(settings):
  return f"{settings.measure}-{settings.kernel}"


def plain_loss(settings, network, params, stats, batch, key, barrier=jax.lax.stop_gradient):
  """The sum of all layers' losses in one forward pass, written with none of the objective's machinery."""
  measure = {
    "trace": hsic.hsic,
    "cka": hsic.cka,
    "nhsic": functools.partial(hsic.nhsic, epsilon=settings.epsilon),
    "phsic": hsic.phsic,
  }[settings.measure]
  label = settings.label_gram(batch.target)
  rows = settings.input_rows(batch.image)
  image = settings.gram(rows @ rows.T, rows.shape[-1])
  losses = {}

  def apply(name, *inputs):
    output, _ = network.call(name, params[name], stats[name], tuple(barrier(x) for x in inputs), key)
    if name == network.classifier:
      losses[name] = optax.softmax_cross_entropy(output, batch.target).mean()
    else:
      z = settings.rows(output)
      gram = settings.gram(z @ z.T, z.shape[-1])
      beta = settings.beta
      for pattern, value in settings.layer_beta.items():
        beta = value if fnmatch.fnmatch(name, pattern) else beta
      compressed = measure(gram, gram if settings.compress == "self" else image)
      losses[name] = compressed - beta * measure(gram, label)
    return output

  network.walk(apply, batch.image)
  return losses


@pytest.mark.parametrize("settings", FORMS, ids=name_of)
def test_gradients_equal_those_of_the_plain_rendering(network, variables, batch, one_device, settings):
  key = jax.random.key(3)
  learned = one_device(settings)

  def total(params):
    return sum(plain_loss(settings, network, params, variables[1], batch, key).values())

  chex.assert_trees_all_close(learned.gradients, jax.jit(jax.grad(total))(variables[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  ("settings", "group"), [*((form, "network") for form in FORMS), (FORMS[0], "block"), (FORMS[2], "block")]
)
def test_every_grouping_gives_the_same_gradients(network, variables, batch, one_device, settings, group):
  by_layer = one_device(settings)
  found = learner(dataclasses.replace(settings, group=group), network)(*variables, batch, jax.random.key(3))
  # Some gradients are 0 in exact arithmetic (normalisation undoes a lone input's weight): there only rounding differs.
  scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(by_layer.gradients))
  chex.assert_trees_all_close(found.gradients, by_layer.gradients, rtol=1e-4, atol=1e-6 * scale)
  chex.assert_trees_all_close(found.metrics, by_layer.metrics, rtol=1e-4, atol=1e-5)


def test_inside_a_unit_losses_reach_earlier_layers_and_no_further(network, variables, batch):
  """Against one differentiation of the whole in which only what crosses a block's border is stopped."""
  settings, key = HsicBottleneck(unit="block", group="block"), jax.random.key(3)
  learned = learner(settings, network)(*variables, batch, key)
  block_of = {name: i for i, block in enumerate(network.blocks) for name in block}
  label, image = settings.label_gram(batch.target), settings.input_rows(batch.image)
  image = settings.gram(image @ image.T, image.shape[-1])

  def total(params):
    made, losses = {}, []

    def apply(name, *inputs):
      seen = tuple(x if made.get(id(x)) == block_of.get(name, -1) else jax.lax.stop_gradient(x) for x in inputs)
      output, _ = network.call(name, params[name], variables[1][name], seen, key)
      made[id(output)] = block_of.get(name)
      kept.append(output)
      if name != network.classifier:
        z = settings.rows(output)
        gram = settings.gram(z @ z.T, z.shape[-1])
        losses.append(hsic.cka(gram, image) - settings.beta * hsic.cka(gram, label))
      return output

    kept = []  # an array that lives keeps its identity
    network.walk(apply, batch.image)
    return sum(losses)

  want = jax.jit(jax.grad(total))(variables[0])
  of_hidden = {name: learned.gradients[name] for name in network.hidden}
  chex.assert_trees_all_close(of_hidden, {name: want[name] for name in of_hidden}, rtol=1e-3, atol=1e-4)
  alone = learner(HsicBottleneck(group="block"), network)(*variables, batch, key).gradients
  stem = "block1_stem"
  assert not np.allclose(alone[stem]["kernel"], of_hidden[stem]["kernel"], rtol=1e-2)


def test_a_unit_of_a_block_needs_a_group_that_holds_it():
  with pytest.raises(ValueError, match="objective.unit='block': expected objective.group='block' or 'network'"):
    HsicBottleneck(unit="block")


def test_a_layers_loss_has_no_gradient_on_any_other_layer(network, variables, batch, one_device):
  settings, key = HsicBottleneck(), jax.random.key(3)

  def losses(params):
    return plain_loss(settings, network, params, variables[1], batch, key)

  whole = one_device(settings).gradients
  jacobian = jax.jit(jax.jacrev(losses))(variables[0])
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
  learn = learner(settings, network)
  before = learn(params, stats, batch, jax.random.key(3)).gradients
  first = network.hidden[:3]
  changed = {name: p if name in first else jax.tree.map(lambda x: x * 1.5 + 0.1, p) for name, p in params.items()}
  after = learn(changed, stats, batch, jax.random.key(3)).gradients
  for name in first:
    chex.assert_trees_all_equal(before[name], after[name])
  assert not np.allclose(before["classifier"]["Dense_2"]["kernel"], after["classifier"]["Dense_2"]["kernel"])


@pytest.mark.parametrize(
  ("settings", "devices"),
  [(FORMS[0], 2), (FORMS[0], 4), *(pytest.param(form, 4, marks=pytest.mark.slow) for form in FORMS[1:])],
)
def test_several_devices_learn_what_one_does(network, one_device, on_devices, settings, devices):
  one = one_device(settings)
  many = on_devices(settings, devices, frozenset(network.layers))
  chex.assert_trees_all_close(many.metrics, one.metrics, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(many.stats, one.stats, rtol=1e-5, atol=1e-6)
  scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(one.gradients))
  chex.assert_trees_all_close(many.gradients, one.gradients, rtol=1e-4, atol=1e-5 * scale)


def test_frozen_layers_have_no_gradient_and_keep_their_statistics(network, variables, batch):
  trainable = frozenset(network.blocks[0])
  learned = learner(HsicBottleneck(), network, trainable)(*variables, batch, jax.random.key(3))
  assert set(learned.gradients) == trainable
  for name in network.layers:
    same = jax.tree.map(lambda a, b: bool((a == b).all()), learned.stats[name], variables[1][name])
    assert all(jax.tree.leaves(same)) == (name not in trainable), name


def make_degenerate(case, variables, batch):
  """Returns variables and a batch in which something has gone wrong."""
  params, stats = variables
  if case == "one class":
    batch = batch._replace(target=jnp.tile(batch.target[:1], (len(batch.target), 1)))
  elif case == "two rows":
    batch = jax.tree.map(lambda x: x[:2], batch)
  elif case == "constant images":
    batch = batch._replace(image=jnp.zeros_like(batch.image))
  else:
    dead = {"kernel": params["block1_conv1"]["kernel"] * 0, "norm": {"scale": jnp.zeros(4), "bias": -jnp.ones(4)}}
    params = {**params, "block1_conv1": {**params["block1_conv1"], **dead}}
  return (params, stats), batch


@pytest.mark.parametrize(
  "settings", [FORMS[0], *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])], ids=name_of
)
def test_degenerate_batches_stay_finite(network, variables, batch, settings):
  learn = learner(settings, network)
  for case in ("one class", "two rows", "constant images", "dead layer"):
    these, rows = make_degenerate(case, variables, batch)
    learned = learn(*these, rows, jax.random.key(3))
    finite = [bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(learned)]
    assert all(finite), case


@pytest.mark.parametrize("settings", FORMS[:2], ids=name_of)
def test_float16_activations_that_overflow_stay_finite(variables, batch, settings):
  """A first convolution beyond 65,504: normalisation then sees the largest number, not an infinity."""
  network = NETWORK.build(CLASSES, jnp.float16, None)
  params, stats = variables
  strong = {**params, "block1_stem": {**params["block1_stem"], "kernel": params["block1_stem"]["kernel"] * 1e5}}
  learned = learner(settings, network)(strong, stats, batch, jax.random.key(3))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learned))
  assert jnp.abs(learned.gradients["block1_conv1"]["kernel"]).max() > 0


@pytest.mark.parametrize("field", ["measure", "kernel", "bandwidth", "compress", "group", "unit"])
def test_an_unknown_choice_names_the_known_ones(field):
  with pytest.raises(ValueError, match=f"{field}='nope': expected one of"):
    HsicBottleneck(**{field: "nope"})


@pytest.mark.parametrize(("field", "value"), [("sigma", ()), ("sigma", (1.0, 0.0)), ("epsilon", 0.0)])
def test_a_number_that_makes_no_sense_is_refused(field, value):
  with pytest.raises(ValueError, match=f"objective.{field}="):
    HsicBottleneck(**{field: value})


def test_a_beta_for_no_layer_is_refused(network):
  with pytest.raises(ValueError, match=r"objective.layer_beta: 'blok\*' matches no hidden layer"):
    learner(HsicBottleneck(layer_beta={"blok*": 1.0}), network)
