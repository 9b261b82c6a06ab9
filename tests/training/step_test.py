"""Training and evaluation steps: equality on 1, 2 and 4 devices, randomness, and a single compilation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.augment import Augmentation
from fer_jax.data.batch import Batch
from fer_jax.data.mixing import Mixing
from fer_jax.models.hsic_dense import HsicDense
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.optim import Optimizer
from fer_jax.runtime.parallel import Devices
from fer_jax.training.step import Resident, StepContext, TrainState, make_eval_step, make_train_step

SETTINGS = HsicDense(blocks=1, convs=2, growth=4, stem=6, transition=6, pyramid=5)
ROWS, CLASSES, EXAMPLES = 16, 3, 40
OPTIMIZER = Optimizer(name="sgd", learning_rate=0.1, schedule="constant")
SHIFT, NO_MIXING = Augmentation(flip=0.5, shift=2), Mixing()
ALL_AUGMENTATIONS = Augmentation(
  shift=1, rotation=(0.0, 20.0), crop=(0.7, 1.0), gamma=(0.5, 2.0), noise=0.01, erase=0.5
)


def context(progress=0.0, seed=0):
  return StepContext(np.float32(progress), np.int32(seed))


class StepSetup:
  """Compiled steps, data and initial state on a number of devices."""

  def __init__(self, objective, devices, precision=jnp.float32, augmentation=SHIFT, mixing=NO_MIXING, average=0.0):
    self.devices = Devices(jax.devices()[:devices])
    axis = self.devices.axis_name
    self.network = SETTINGS.build(CLASSES, precision, axis)
    trainable = frozenset(self.network.layers)
    optimizer = OPTIMIZER.build()
    step = make_train_step(
      objective.build(self.network, trainable, axis), optimizer, augmentation, axis, mixing=mixing, average=average
    )
    self.step = self.devices.compile_train(step, "step")
    self.eval_step = self.devices.compile_eval(make_eval_step(self.network, axis), "evaluation")
    generator = np.random.default_rng(0)
    self.image = generator.integers(0, 256, (EXAMPLES, 12, 12, 1), dtype=np.uint8)
    self.target = np.eye(CLASSES, dtype=np.float32)[generator.integers(0, CLASSES, EXAMPLES)]
    self.resident = self.devices.replicate(Resident(self.image, self.target))
    params, stats = jax.jit(self.network.init)(jax.random.key(0), jnp.zeros((1, 12, 12, 1)))
    averages = (params, stats) if average else ()
    state = TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params), averages)
    self.state = self.devices.replicate(state)

  def batch(self, k=0):
    index = np.random.default_rng(k).permutation(EXAMPLES)[:ROWS].astype(np.int32)
    return self.devices.split(Batch(index, np.ones(ROWS, bool)))

  def run_steps(self, steps):
    state = self.state
    for k in range(steps):
      state, metrics = self.step(state, self.resident, self.batch(k), context())
    return state, metrics


# Cached by all arguments: tests share compiled steps.
make_setup = functools.cache(StepSetup)


OBJECTIVES = {
  "backprop": Backprop(),
  "cka": HsicBottleneck(beta=1.0),
  "trace": HsicBottleneck(measure="trace", kernel="gaussian", balanced=False, grid=0),
}


@pytest.mark.parametrize(
  ("name", "devices"), [("backprop", 2), ("backprop", 4), ("cka", 4), pytest.param("trace", 4, marks=pytest.mark.slow)]
)
def test_updates_are_independent_of_the_number_of_devices(name, devices):
  one, many = make_setup(OBJECTIVES[name], 1), make_setup(OBJECTIVES[name], devices)
  (one_device, metrics_alone), (many_devices, metrics_spread) = one.run_steps(1), many.run_steps(1)
  chex.assert_trees_all_close(many_devices.params, one_device.params, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(many_devices.stats, one_device.stats, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(metrics_spread, metrics_alone, rtol=1e-4, atol=1e-5)
  # The update is not zero.
  differences = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one_device.params, one.state.params)
  assert max(jax.tree.leaves(differences)) > 1e-3


def test_augmentation_and_mixing_are_independent_of_the_number_of_devices():
  one, four = (
    make_setup(Backprop(), devices, augmentation=ALL_AUGMENTATIONS, mixing=Mixing(mixup=0.5, cutmix=1.0))
    for devices in (1, 4)
  )
  (one_device, _), (many_devices, _), (plain, _) = (
    one.run_steps(1),
    four.run_steps(1),
    make_setup(Backprop(), 1).run_steps(1),
  )
  chex.assert_trees_all_close(many_devices.params, one_device.params, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(many_devices.stats, one_device.stats, rtol=1e-5, atol=1e-5)
  differs = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one_device.params, plain.params)
  assert max(jax.tree.leaves(differs)) > 1e-3


def test_average_is_an_exponential_moving_average():
  decay, setup = 0.25, make_setup(Backprop(), 1, average=0.25)
  state, expected = setup.state, (setup.state.params, setup.state.stats)
  for k in range(3):
    state, _ = setup.step(state, setup.resident, setup.batch(k), context())
    weight = min(decay, (2 + k) / (11 + k))
    expected = jax.tree.map(lambda mean, new, w=weight: w * mean + (1 - w) * new, expected, (state.params, state.stats))
    chex.assert_trees_all_close(state.average, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(state.variables, state.average)
  plain, _ = make_setup(Backprop(), 1).run_steps(3)
  chex.assert_trees_all_close(state.params, plain.params, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_equal(plain.variables, (plain.params, plain.stats))


def test_lr_scale_scales_the_update():
  setup = make_setup(Backprop(), 1)
  full, half = (
    setup.step(setup.state, setup.resident, setup.batch(), context()._replace(lr_scale=np.float32(r)))[0]
    for r in (1, 0.5)
  )
  differences = jax.tree.map(lambda a, b, at: (a - at) - 2 * (b - at), full.params, half.params, setup.state.params)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(differences)) < 1e-5


@pytest.mark.parametrize("devices", [1, 4])
def test_all_steps_share_one_compilation(devices):
  setup = make_setup(Backprop(), devices)
  state, _ = setup.step(setup.state, setup.resident, setup.batch(), context())
  compiled = []
  listener = lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None  # noqa: E731
  jax.monitoring.register_event_duration_secs_listener(listener)
  for k in range(3):
    state, _ = setup.step(state, setup.resident, setup.batch(k), context(k / 3, seed=k))
  assert compiled == []
  jax.jit(lambda x: x * 3 + len(compiled))(jnp.ones(7))  # the listener detects compilations
  assert compiled


def test_randomness_depends_on_seed_and_step():
  setup = make_setup(Backprop(), 1)
  chex.assert_trees_all_equal(setup.run_steps(2)[0], setup.run_steps(2)[0])
  later_state = setup.state.replace(step=jnp.asarray(5, jnp.int32))
  outcomes = [
    setup.step(state, setup.resident, setup.batch(), context(seed=seed))[1]["loss"]
    for seed, state in ((0, setup.state), (1, setup.state), (0, later_state))
  ]
  assert len({float(loss) for loss in outcomes}) == 3


def test_state_and_losses_are_float32_with_bfloat16_activations():
  float32, bfloat16 = (
    make_setup(OBJECTIVES["cka"], 1, precision=precision).run_steps(2) for precision in (jnp.float32, jnp.bfloat16)
  )
  state, metrics = bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.stats, metrics))} == {jnp.dtype("float32")}
  np.testing.assert_allclose(metrics["loss"], float32[1]["loss"], rtol=0.1)


def test_host_batches_equal_device_batches():
  setup = make_setup(Backprop(), 1)
  batch = setup.batch()
  host_batch = Batch(batch.index, batch.mask, setup.image[batch.index], setup.target[batch.index])
  one = setup.step(setup.state, setup.resident, batch, context())
  two = setup.step(setup.state, Resident(), host_batch, context())
  chex.assert_trees_all_close(one, two, rtol=1e-6)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_view_is_evaluated_like_the_transformed_image(devices):
  setup = make_setup(Backprop(), devices)
  variables, batch = setup.devices.replicate((setup.state.params, setup.state.stats)), setup.batch()
  view = np.full(batch.mask.shape, 1, np.int32)
  _, mirrored = setup.eval_step(variables, setup.resident, batch._replace(view=view))
  flipped = setup.devices.replicate(Resident(setup.image[:, :, ::-1], setup.target))
  _, expected = setup.eval_step(variables, flipped, batch)
  np.testing.assert_allclose(mirrored, expected, rtol=1e-6)
  assert np.abs(np.asarray(mirrored) - np.asarray(setup.eval_step(variables, setup.resident, batch)[1])).max() > 1e-5


@pytest.mark.parametrize("devices", [1, 4])
def test_evaluation_ignores_masked_rows(devices):
  setup = make_setup(Backprop(), devices)
  batch = setup.batch()
  mask = np.arange(ROWS) < 11
  masked = batch._replace(mask=mask.reshape(batch.mask.shape))
  variables = setup.devices.replicate((setup.state.params, setup.state.stats))
  sums, probability = setup.eval_step(variables, setup.resident, masked)
  predicted = np.asarray(probability).reshape(ROWS, CLASSES)[mask].argmax(-1)
  label = setup.target[np.asarray(batch.index).reshape(-1)[mask]].argmax(-1)
  expected = np.zeros((CLASSES, CLASSES), int)
  np.add.at(expected, (label, predicted), 1)
  np.testing.assert_array_equal(sums.confusion, expected)
  likelihood = np.asarray(probability).reshape(ROWS, CLASSES)[mask][np.arange(11), label]
  np.testing.assert_allclose(sums.loss, -np.log(likelihood).sum(), rtol=1e-5)
