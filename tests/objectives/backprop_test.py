"""Back-propagation: comparison with `jax.grad`, several devices, frozen layers, losses and class weights."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.losses import LOSSES, focal
from fer_jax.models.resnet import CifarResNet
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.objective import Examples


def test_gradients_equal_jax_grad(network, variables, batch):
  params, stats = variables
  key = jax.random.key(3)

  def loss(params):
    outputs, _ = network.apply(params, stats, batch.image, key=key)
    return -jnp.sum(batch.target * jax.nn.log_softmax(outputs.logits), axis=-1).mean()

  output = Backprop().build(network, frozenset(network.layers), None)(params, stats, batch, key)
  value, gradients = jax.value_and_grad(loss)(params)
  np.testing.assert_allclose(output.metrics["loss"], value, rtol=1e-6)
  chex.assert_trees_all_close(output.gradients, gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_cross_entropy_is_computed_in_float32(network, variables, batch, dtype, scale):
  logits = jnp.clip(scale * network.apply(*variables, batch.image)[0].logits, -6e4, 6e4).astype(dtype)

  def walk(apply, image):
    _, features = network.walk(apply, image)
    return logits, features

  objective = Backprop().build(dataclasses.replace(network, walk=walk), frozenset({"classifier"}), None)
  loss = objective(*variables, batch._replace(target=VOTES), jax.random.key(3)).metrics["loss"]
  exact = np.asarray(logits.astype(jnp.float32), float)
  assert loss.dtype == jnp.float32
  expected = np.logaddexp.reduce(exact, axis=1) - np.sum(VOTES * exact, axis=1)
  np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


@pytest.mark.parametrize(
  ("devices", "settings"), [(2, Backprop()), (4, Backprop(loss="focal", class_weights=(1.0, 3.0, 0.5)))]
)
def test_several_devices_give_the_output_of_one(network, variables, batch, on_devices, devices, settings):
  trainable = frozenset(network.layers)
  one = settings.build(network, trainable, None)(*variables, batch, jax.random.key(3))
  many = on_devices(settings, devices, trainable)
  chex.assert_trees_all_close(many.metrics, one.metrics, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(many.gradients, one.gradients, rtol=1e-3, atol=1e-5)


def test_frozen_layers_have_no_gradient_and_keep_their_statistics(network, variables, batch):
  trainable = frozenset({"classifier"})
  output = Backprop().build(network, trainable, None)(*variables, batch, jax.random.key(3))
  assert set(output.gradients) == trainable
  frozen = set(network.layers) - trainable
  chex.assert_trees_all_equal(*({name: stats[name] for name in frozen} for stats in (output.stats, variables[1])))


def test_accuracy_is_the_share_of_correct_rows(network, variables, batch):
  output = Backprop().build(network, frozenset(network.layers), None)(*variables, batch, jax.random.key(3))
  outputs, _ = network.apply(*variables, batch.image, key=jax.random.key(3))
  expected = np.mean(np.argmax(outputs.logits, -1) == np.argmax(batch.target, -1))
  np.testing.assert_allclose(output.metrics["accuracy"], expected, rtol=1e-6)


def test_label_smoothing_increases_the_loss_of_confident_predictions(network, variables, batch):
  params, stats = variables
  confident = {**params, "classifier": jax.tree.map(lambda p: 50 * p, params["classifier"])}
  logits = network.apply(confident, stats, batch.image, key=jax.random.key(3))[0].logits
  batch = batch._replace(target=jnp.eye(3)[jnp.argmax(logits, -1)])
  losses = [
    Backprop(label_smoothing=s)
    .build(network, frozenset(network.layers), None)(confident, stats, batch, jax.random.key(3))
    .metrics["loss"]
    for s in (0.0, 0.2)
  ]
  assert losses[0] < losses[1]


@pytest.fixture(scope="module")
def evaluate_classifier(network, variables):
  """Returns a function of settings and a batch that applies the objective to the classifier, which is small."""

  def apply(settings, batch):
    objective = settings.build(network, frozenset({"classifier"}), None)
    return objective(*variables, batch, jax.random.key(3))

  return apply


@pytest.fixture(scope="module")
def logits(network, variables, batch):
  return network.apply(*variables, batch.image, key=jax.random.key(3), trainable=frozenset({"classifier"}))[0].logits


VOTES = jnp.asarray(np.random.default_rng(5).dirichlet(np.ones(3), 16), jnp.float32)


@pytest.mark.parametrize(
  ("settings", "loss"),
  [
    (Backprop(loss="focal", gamma=1.5), lambda z, t: focal.softmax_focal(z, t, 1.5)),
    (
      Backprop(loss="focal_one_vs_rest", gamma=1.5, alpha=0.7),
      lambda z, t: focal.one_vs_rest_focal(z, t, 1.5, 0.7),
    ),
    (Backprop(loss="focal_sigmoid", gamma=1.5, alpha=0.7), lambda z, t: focal.sigmoid_focal(z, t, 1.5, 0.7)),
  ],
  ids=lambda value: getattr(value, "loss", ""),
)
def test_uses_the_named_loss(evaluate_classifier, logits, batch, settings, loss):
  batch = batch._replace(target=VOTES)
  np.testing.assert_allclose(
    evaluate_classifier(settings, batch).metrics["loss"], loss(logits, VOTES).mean(), rtol=1e-5
  )
  smoothed = dataclasses.replace(settings, label_smoothing=0.2)
  expected = loss(logits, 0.8 * VOTES + 0.2 / 3).mean()
  np.testing.assert_allclose(evaluate_classifier(smoothed, batch).metrics["loss"], expected, rtol=1e-5)


class TestClassWeights:
  def test_rows_are_weighted_by_their_target(self, evaluate_classifier, logits, batch):
    weights = np.array([1.0, 3.0, 0.5])
    settings = Backprop(label_smoothing=0.2, class_weights=tuple(weights))
    expected = optax.softmax_cross_entropy(logits, 0.8 * VOTES + 0.2 / 3) * (VOTES @ weights.astype(np.float32))
    found = evaluate_classifier(settings, batch._replace(target=VOTES)).metrics["loss"]
    np.testing.assert_allclose(found, expected.sum() / len(VOTES), rtol=1e-5)

  def test_gradients_of_single_classes_add_up(self, evaluate_classifier, batch):
    each = [evaluate_classifier(Backprop(class_weights=tuple(one)), batch).gradients for one in np.eye(3)]
    together = evaluate_classifier(Backprop(class_weights=(1.0, 1.0, 1.0)), batch).gradients
    chex.assert_trees_all_close(jax.tree.map(lambda *g: sum(g), *each), together, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(together, evaluate_classifier(Backprop(), batch).gradients)

  @pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0,) * 7])
  def test_rejects_a_wrong_number_of_weights(self, network, weights):
    message = rf"objective\.class_weights: {len(weights)} of them, expected 3 numbers, one per class, or none"
    with pytest.raises(ValueError, match=message):
      Backprop(class_weights=weights).build(network, frozenset(network.layers), None)


@pytest.mark.parametrize(
  "settings",
  [
    {"loss": "hinge"},
    {"gamma": -1.0},
    {"gamma": float("inf")},
    {"alpha": 1.1},
    {"alpha": float("nan")},
    {"label_smoothing": -0.1},
    {"class_weights": (1.0, -1.0)},
    {"class_weights": (0.0, 0.0)},
    {"class_weights": (1.0, float("inf"))},
  ],
)
def test_rejects_settings_out_of_range(settings):
  with pytest.raises(ValueError, match=rf"objective\.{next(iter(settings))}=.*: expected"):
    Backprop(**settings)


WITH_CENTERS = Backprop(center_weight=0.1, center_rate=0.25)


@pytest.fixture(scope="module")
def with_centers(network, variables, batch):
  """Returns the parameters, and statistics with centres that differ from zero."""
  params, stats = variables
  features = jax.eval_shape(network.apply, params, stats, batch.image)[0].features.shape[-1]
  same, with_state = WITH_CENTERS.initial(network, variables, batch.image, jax.random.key(0))
  assert same is params
  ((name, centers),) = ((name, value) for name, value in with_state.items() if name not in network.layers)
  assert [(x.shape, x.dtype) for x in centers.values()] == [((3, features), jnp.float32)]
  return params, {**stats, name: jax.tree.map(lambda x: x + jnp.linspace(-1, 1, x.size).reshape(x.shape), centers)}


def evaluate(settings, network, trainable, variables, batch):
  return jax.jit(settings.build(network, frozenset(trainable), None))(*variables, batch, jax.random.key(3))


class TestCenterLoss:
  @staticmethod
  def centers_of(stats):
    return stats["center_loss"]["centers"]

  def test_adds_to_the_loss_and_its_gradients(self, network, with_centers, batch):
    params, stats = with_centers
    key = jax.random.key(3)

    def center_loss(params):
      features = network.apply(params, stats, batch.image, key=key)[0].features
      difference = features - self.centers_of(stats)[jnp.argmax(batch.target, -1)]
      return 0.5 * jnp.sum(difference**2, -1).mean()

    joint, plain = (evaluate(each, network, network.layers, with_centers, batch) for each in (WITH_CENTERS, Backprop()))
    value, gradients = jax.jit(jax.value_and_grad(center_loss))(params)
    np.testing.assert_allclose(joint.metrics["center_loss"], value, rtol=1e-5)
    np.testing.assert_allclose(joint.metrics["loss"], plain.metrics["loss"] + 0.1 * value, rtol=1e-5)
    expected = jax.tree.map(lambda a, b: a + 0.1 * b, plain.gradients, gradients)
    chex.assert_trees_all_close(joint.gradients, expected, rtol=1e-3, atol=1e-5)

  def test_centres_move_towards_the_features(self, network, with_centers, batch):
    params, stats = with_centers
    before = np.asarray(self.centers_of(stats), np.float64)
    output = evaluate(WITH_CENTERS, network, network.layers, with_centers, batch)
    features = jax.jit(network.apply)(params, stats, batch.image, key=jax.random.key(3))[0].features
    expected = before.copy()
    for k in range(3):
      rows = np.asarray(features, np.float64)[np.argmax(batch.target, -1) == k]
      expected[k] -= 0.25 * np.sum(before[k] - rows, axis=0) / (1 + len(rows))
    np.testing.assert_allclose(self.centers_of(output.stats), expected, rtol=1e-4, atol=1e-5)

  def test_several_devices_give_the_centres_of_one(self, network, with_centers, batch, on_devices):
    trainable = frozenset(network.layers)
    one = evaluate(WITH_CENTERS, network, trainable, with_centers, batch)
    many = on_devices(WITH_CENTERS, 4, trainable, with_centers)
    chex.assert_trees_all_close(self.centers_of(many.stats), self.centers_of(one.stats), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(many.metrics, one.metrics, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(many.gradients, one.gradients, rtol=1e-3, atol=1e-5)

  def test_frozen_layers_have_no_gradient_but_centres_still_move(self, network, with_centers, batch):
    joint, plain = (evaluate(each, network, {"classifier"}, with_centers, batch) for each in (WITH_CENTERS, Backprop()))
    chex.assert_trees_all_close(joint.gradients, plain.gradients, rtol=1e-6)
    assert (self.centers_of(joint.stats) != self.centers_of(with_centers[1])).any()

  def test_no_state_without_center_loss(self, network, variables, batch):
    assert Backprop().initial(network, variables, batch.image, jax.random.key(0)) == variables

  @pytest.mark.parametrize(
    ("settings", "message"),
    [
      ({"center_weight": -1.0}, "objective.center_weight=-1.0: expected a number, 0 or more"),
      ({"center_rate": 1.5}, "objective.center_rate=1.5: expected a number, 0 to 1"),
    ],
  )
  def test_rejects_values_out_of_range(self, settings, message):
    with pytest.raises(ValueError, match=message):
      Backprop(**settings)


def test_registered_loss_receives_its_hyper_parameters(monkeypatch, evaluate_classifier, logits, batch):
  def scaled(logits, target, gamma):
    return gamma * jnp.sum(target * logits, axis=-1)

  monkeypatch.setitem(LOSSES, "scaled", scaled)
  found = evaluate_classifier(Backprop(loss="scaled", gamma=3.0), batch).metrics["loss"]
  np.testing.assert_allclose(found, 3 * jnp.sum(batch.target * logits, axis=-1).mean(), rtol=1e-5)


class TestMemory:
  @pytest.mark.parametrize("trainable", [None, {"block1_conv2", "pyramid_level1", "classifier"}])
  def test_checkpointing_changes_nothing(self, network, with_centers, batch, trainable):
    trainable = trainable or set(network.layers)
    plain, checkpointed = (
      evaluate(dataclasses.replace(WITH_CENTERS, checkpoint=checkpoint), network, trainable, with_centers, batch)
      for checkpoint in (False, True)
    )
    assert set(checkpointed.gradients) == trainable
    chex.assert_trees_all_close(checkpointed, plain, rtol=1e-3, atol=1e-5)

  def test_checkpointing_on_several_devices_equals_one(self, network, with_centers, batch, on_devices):
    settings, trainable = dataclasses.replace(WITH_CENTERS, checkpoint=True), frozenset(network.layers)
    one = evaluate(settings, network, trainable, with_centers, batch)
    many = on_devices(settings, 4, trainable, with_centers)
    chex.assert_trees_all_close(many.metrics, one.metrics, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(many.gradients, one.gradients, rtol=1e-3, atol=1e-5)

  def test_checkpointing_takes_less_memory(self):
    """Of the maps of four blocks, those of one are alive at a time."""
    network = CifarResNet(depth=14, width=4).build(3, jnp.float32, None)
    image, key = jnp.zeros((32, 32, 32, 1)), jax.random.key(0)
    variables = jax.jit(network.init)(key, image[:1])
    examples = Examples(image, jnp.eye(3)[jnp.zeros(32, int)])

    def temporary_bytes(**settings):
      objective = Backprop(**settings).build(network, frozenset(network.layers), None)
      return jax.jit(objective).lower(*variables, examples, key).compile().memory_analysis().temp_size_in_bytes

    plain = temporary_bytes()
    assert temporary_bytes(checkpoint=True) < 0.85 * plain
    assert temporary_bytes(accumulation=4) < 0.5 * plain

  @pytest.mark.parametrize("parts", [2, 3])
  def test_accumulated_gradients_are_those_of_the_parts(self, network, with_centers, batch, parts):
    """Evaluates each part on its own, with the batch statistics that the parts before it leave."""
    settings, key = dataclasses.replace(WITH_CENTERS, accumulation=parts), jax.random.key(3)
    found = evaluate(settings, network, network.layers, with_centers, batch)
    params, stats = with_centers
    gradients, rows, start = [], len(batch.target), 0
    for i in range(parts):
      size = (i + 1) * rows // parts - start
      part = jax.tree.map(lambda x, i=start, n=size: x[i : i + n], batch)
      output = jax.jit(WITH_CENTERS.build(network, frozenset(network.layers), None))(params, stats, part, key)
      gradients.append(jax.tree.map(lambda x, n=size: x * n / rows, output.gradients))
      stats = {**output.stats, "center_loss": stats["center_loss"]}
      start += size
    chex.assert_trees_all_close(found.gradients, jax.tree.map(lambda *x: sum(x), *gradients), rtol=1e-3, atol=1e-5)
    same = [name for name in stats if name != "center_loss"]
    chex.assert_trees_all_close(
      {name: found.stats[name] for name in same}, {name: stats[name] for name in same}, rtol=1e-5
    )

  def test_rejects_more_parts_than_rows(self, network, with_centers, batch):
    with pytest.raises(ValueError, match=r"objective.accumulation=99: a device has 16 rows"):
      evaluate(Backprop(accumulation=99), network, network.layers, with_centers, batch)
