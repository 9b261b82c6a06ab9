"""Phases of a run: their layers, steps, identities and initial states. Nothing is compiled."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.config.parsing import parse
from fer_jax.models.hsic_dense import HsicDense
from fer_jax.runtime.errors import UserError
from fer_jax.training.phases import plan_phases
from tests.tiny_run import config

NETWORK = HsicDense(blocks=1, convs=1, growth=4, stem=4, pyramid=4).build(3, jnp.float32, None)
CLASSIFIER = NETWORK.classifier


def planned(epoch_rows=60, **changes):
  return plan_phases(parse(config(**changes)), NETWORK, None, epoch_rows)


@functools.cache
def variables():
  return jax.eval_shape(NETWORK.init, jax.random.key(0), jnp.zeros((1, 16, 16, 1)))


@pytest.mark.parametrize(
  ("duration", "bottleneck", "steps"),
  [("2 epochs", "1 epoch", 5), ("40 steps", "7 steps", 7), ("40 steps", "0.6 epochs", 3)],
)
def test_durations_become_steps(duration, bottleneck, steps):
  # 60 rows in batches of 12: an epoch is 5 steps.
  first, _ = planned(**{"duration": duration, "phases.bottleneck.duration": bottleneck})
  assert first.steps == steps


def test_patterns_select_the_trainable_layers():
  first, second = planned(**{"phases.bottleneck.train": ("*",), "phases.deepening.train": (CLASSIFIER,)})
  assert first.trainable == frozenset(NETWORK.layers)
  assert second.trainable == {CLASSIFIER}


def test_rejects_patterns_without_a_layer():
  with pytest.raises(UserError, match=r"^config\.phases\.deepening\.train: 'no\*' matches no layer; the layers are .*"):
    planned(**{"phases.deepening.train": ("no*",)})


def test_rejects_objectives_that_do_not_fit():
  with pytest.raises(UserError, match=r"^config\.phases\.deepening\.objective: .*class_weights: 2 of them, expected 3"):
    planned(**{"phases.deepening.objective.class_weights": (1.0, 2.0)})


@pytest.mark.parametrize(
  ("changes", "equal"),
  [
    ({}, True),
    ({"seed": 3}, True),
    ({"duration": "500 steps"}, True),
    ({"phases.bottleneck.optimizer.learning_rate": 0.5}, False),
    ({"phases.bottleneck.average": 0.9}, False),
    ({"augmentation.shift": 2}, False),
    ({"mixing.mixup": 0.2}, False),
    ({"precision": "bfloat16"}, False),
  ],
)
def test_the_identity_contains_what_the_step_depends_on(changes, equal):
  assert (planned(**changes)[0].identity == planned()[0].identity) == equal


def test_the_optimizer_state_covers_the_trainable_layers_only():
  phase = planned(**{"phases.bottleneck.train": (CLASSIFIER,), "phases.bottleneck.average": 0.9})[0]
  state = jax.eval_shape(functools.partial(phase.initial_state, 7), *variables())
  expected = jax.eval_shape(phase.optimizer.init, {CLASSIFIER: variables()[0][CLASSIFIER]})
  chex.assert_trees_all_equal_shapes_and_dtypes(state.opt_state, expected)
  assert set(state.average[0]) == {CLASSIFIER}
  assert set(state.params) == set(NETWORK.layers)


def test_the_score_is_the_watched_metric():
  accuracy, loss = (planned(**{"phases.bottleneck.watch": watch})[0] for watch in ("accuracy", "loss"))
  assert accuracy.score(0.75, 2.0) == 0.75
  assert loss.score(0.75, 2.0) == -2.0


def test_the_logged_learning_rate_follows_the_schedule():
  changes = {"learning_rate": 0.4, "schedule": "linear", "warmup": 0.0}
  phase = planned(**{f"phases.bottleneck.optimizer.{key}": value for key, value in changes.items()})[0]
  np.testing.assert_allclose([phase.learning_rate(p) for p in (0.0, 0.5, 1.0)], [0.4, 0.2, 0.0], atol=1e-7)
