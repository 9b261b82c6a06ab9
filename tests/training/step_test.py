"""The step: the same updates on 1, 2 and 4 devices; randomness from the step alone; one compilation."""

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
SHIFTED, UNMIXED = Augmentation(flip=0.5, shift=2), Mixing()
ALL_OF_IT = Augmentation(shift=1, rotation=(0.0, 20.0), crop=(0.7, 1.0), gamma=(0.5, 2.0), noise=0.01, erase=0.5)


def moment(progress=0.0, seed=0):
  return StepContext(np.float32(progress), np.int32(seed))


class Rig:
  """A run's pieces on a number of devices."""

  def __init__(self, objective, devices, precision=jnp.float32, augmentation=SHIFTED, mixing=UNMIXED, average=0.0):
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
    kept = (params, stats) if average else ()
    state = TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params), kept)
    self.state = self.devices.replicate(state)

  def batch(self, k=0):
    index = np.random.default_rng(k).permutation(EXAMPLES)[:ROWS].astype(np.int32)
    return self.devices.split(Batch(index, np.ones(ROWS, bool)))

  def take(self, steps):
    state = self.state
    for k in range(steps):
      state, metrics = self.step(state, self.resident, self.batch(k), moment())
    return state, metrics


# Keyed by all that a rig is made of: a step compiled for one test serves the next.
rig_of = functools.cache(Rig)


OBJECTIVES = {
  "backprop": Backprop(),
  "cka": HsicBottleneck(beta=1.0),
  "trace": HsicBottleneck(measure="trace", kernel="gaussian", balanced=False, grid=0),
}


@pytest.mark.parametrize(
  ("name", "devices"), [("backprop", 2), ("backprop", 4), ("cka", 4), pytest.param("trace", 4, marks=pytest.mark.slow)]
)
def test_the_same_global_batch_gives_the_same_updates_on_any_number_of_devices(name, devices):
  one, many = rig_of(OBJECTIVES[name], 1), rig_of(OBJECTIVES[name], devices)
  (alone, metrics_alone), (spread, metrics_spread) = one.take(1), many.take(1)
  chex.assert_trees_all_close(spread.params, alone.params, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(spread.stats, alone.stats, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(metrics_spread, metrics_alone, rtol=1e-4, atol=1e-5)
  # And there was an update to compare.
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), alone.params, one.state.params)
  assert max(jax.tree.leaves(moved)) > 1e-3


def test_images_are_augmented_and_mixed_alike_on_any_number_of_devices():
  one, four = (
    rig_of(Backprop(), devices, augmentation=ALL_OF_IT, mixing=Mixing(mixup=0.5, cutmix=1.0)) for devices in (1, 4)
  )
  (alone, _), (spread, _), (plain, _) = one.take(1), four.take(1), rig_of(Backprop(), 1).take(1)
  chex.assert_trees_all_close(spread.params, alone.params, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(spread.stats, alone.stats, rtol=1e-5, atol=1e-5)
  differs = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), alone.params, plain.params)
  assert max(jax.tree.leaves(differs)) > 1e-3


def test_the_average_follows_what_is_learned():
  decay, rig = 0.25, rig_of(Backprop(), 1, average=0.25)
  state, expected = rig.state, (rig.state.params, rig.state.stats)
  for k in range(3):
    state, _ = rig.step(state, rig.resident, rig.batch(k), moment())
    kept = min(decay, (2 + k) / (11 + k))
    expected = jax.tree.map(lambda mean, new, d=kept: d * mean + (1 - d) * new, expected, (state.params, state.stats))
    chex.assert_trees_all_close(state.average, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(state.variables, state.average)
  plain, _ = rig_of(Backprop(), 1).take(3)
  chex.assert_trees_all_close(state.params, plain.params, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_equal(plain.variables, (plain.params, plain.stats))


def test_the_rate_scales_the_update():
  rig = rig_of(Backprop(), 1)
  full, half = (
    rig.step(rig.state, rig.resident, rig.batch(), moment()._replace(lr_scale=np.float32(r)))[0] for r in (1, 0.5)
  )
  moved = jax.tree.map(lambda a, b, at: (a - at) - 2 * (b - at), full.params, half.params, rig.state.params)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(moved)) < 1e-5


@pytest.mark.parametrize("devices", [1, 4])
def test_one_compilation_serves_every_step(devices):
  rig = rig_of(Backprop(), devices)
  state, _ = rig.step(rig.state, rig.resident, rig.batch(), moment())
  compiled = []
  listen = lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None  # noqa: E731
  jax.monitoring.register_event_duration_secs_listener(listen)
  for k in range(3):
    state, _ = rig.step(state, rig.resident, rig.batch(k), moment(k / 3, seed=k))
  assert compiled == []
  jax.jit(lambda x: x * 3 + len(compiled))(jnp.ones(7))  # the listener does hear a compilation
  assert compiled


def test_randomness_is_a_function_of_the_seed_and_the_step():
  rig = rig_of(Backprop(), 1)
  chex.assert_trees_all_equal(rig.take(2)[0], rig.take(2)[0])
  late = rig.state.replace(step=jnp.asarray(5, jnp.int32))
  outcomes = [
    rig.step(state, rig.resident, rig.batch(), moment(seed=seed))[1]["loss"]
    for seed, state in ((0, rig.state), (1, rig.state), (0, late))
  ]
  assert len({float(loss) for loss in outcomes}) == 3


def test_bfloat16_activations_leave_state_and_losses_in_float32():
  exact, rough = (
    rig_of(OBJECTIVES["cka"], 1, precision=precision).take(2) for precision in (jnp.float32, jnp.bfloat16)
  )
  state, metrics = rough
  assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.stats, metrics))} == {jnp.dtype("float32")}
  np.testing.assert_allclose(metrics["loss"], exact[1]["loss"], rtol=0.1)


def test_rows_on_the_host_and_rows_on_the_device_are_the_same_to_a_step():
  rig = rig_of(Backprop(), 1)
  batch = rig.batch()
  carried = Batch(batch.index, batch.mask, rig.image[batch.index], rig.target[batch.index])
  one = rig.step(rig.state, rig.resident, batch, moment())
  two = rig.step(rig.state, Resident(), carried, moment())
  chex.assert_trees_all_close(one, two, rtol=1e-6)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_view_is_evaluated_as_the_image_that_it_shows(devices):
  rig = rig_of(Backprop(), devices)
  variables, batch = rig.devices.replicate((rig.state.params, rig.state.stats)), rig.batch()
  view = np.full(batch.mask.shape, 1, np.int32)
  _, mirrored = rig.eval_step(variables, rig.resident, batch._replace(view=view))
  flipped = rig.devices.replicate(Resident(rig.image[:, :, ::-1], rig.target))
  _, expected = rig.eval_step(variables, flipped, batch)
  np.testing.assert_allclose(mirrored, expected, rtol=1e-6)
  assert np.abs(np.asarray(mirrored) - np.asarray(rig.eval_step(variables, rig.resident, batch)[1])).max() > 1e-5


@pytest.mark.parametrize("devices", [1, 4])
def test_evaluation_counts_real_rows_alone(devices):
  rig = rig_of(Backprop(), devices)
  batch = rig.batch()
  mask = np.arange(ROWS) < 11
  masked = batch._replace(mask=mask.reshape(batch.mask.shape))
  variables = rig.devices.replicate((rig.state.params, rig.state.stats))
  sums, probability = rig.eval_step(variables, rig.resident, masked)
  predicted = np.asarray(probability).reshape(ROWS, CLASSES)[mask].argmax(-1)
  label = rig.target[np.asarray(batch.index).reshape(-1)[mask]].argmax(-1)
  want = np.zeros((CLASSES, CLASSES), int)
  np.add.at(want, (label, predicted), 1)
  np.testing.assert_array_equal(sums.confusion, want)
  likelihood = np.asarray(probability).reshape(ROWS, CLASSES)[mask][np.arange(11), label]
  np.testing.assert_allclose(sums.loss, -np.log(likelihood).sum(), rtol=1e-5)
