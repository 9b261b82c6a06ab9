"""Focal losses: comparison with float64, and behaviour for extreme logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.losses.focal import one_vs_rest_focal, sigmoid_focal, softmax_focal
from tests.losses.conftest import B, K


def softmax(logits):
  exponentials = np.exp(logits.astype(float))
  return exponentials / exponentials.sum(1, keepdims=True)


def sigmoid(logits):
  return 1 / (1 + np.exp(-logits.astype(float)))


def equation_4(p, y, gamma, alpha):
  """Computes equation 4 as printed, row by row and class by class."""
  losses = np.zeros(len(p))
  for n in range(p.shape[0]):
    for i in range(p.shape[1]):
      right = alpha * (1 - p[n, i]) ** gamma * y[n, i] * np.log(p[n, i])
      wrong = (1 - alpha) * p[n, i] ** gamma * (1 - y[n, i]) * np.log(1 - p[n, i])
      losses[n] -= right + wrong
  return losses


BINARY = {"softmax": (one_vs_rest_focal, softmax), "sigmoid": (sigmoid_focal, sigmoid)}
LOSSES = {
  "softmax_focal": functools.partial(softmax_focal, gamma=2.0),
  "one_vs_rest_focal": functools.partial(one_vs_rest_focal, gamma=2.0, alpha=0.25),
  "sigmoid_focal": functools.partial(sigmoid_focal, gamma=2.0, alpha=0.25),
}


class TestValues:
  @pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
  def test_softmax_focal_matches_float64(self, logits, target, gamma):
    p = softmax(logits)
    np.testing.assert_allclose(
      softmax_focal(jnp.asarray(logits), jnp.asarray(target), gamma),
      -(target * (1 - p) ** gamma * np.log(p)).sum(1),
      rtol=1e-5,
    )

  @pytest.mark.parametrize(("gamma", "alpha"), [(0.0, 0.5), (2.0, 0.25), (5.0, 1.0), (1.0, 0.0)])
  @pytest.mark.parametrize("kind", BINARY)
  def test_binary_losses_match_equation_4(self, logits, target, kind, gamma, alpha):
    loss, probability = BINARY[kind]
    found = loss(jnp.asarray(logits), jnp.asarray(target), gamma, alpha)
    np.testing.assert_allclose(found, equation_4(probability(logits), target, gamma, alpha), rtol=1e-5)

  def test_two_classes_by_hand(self):
    # p = 3/4 for the target class: (1/4)^2 ln(4/3). Eq. 4 gives it weight alpha, and 1 - alpha the other class's equal
    # term.
    logits, target = jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([[1.0, 0.0]])
    expected = np.log(4 / 3) / 16
    np.testing.assert_allclose(softmax_focal(logits, target, 2.0), [expected], rtol=1e-6)
    np.testing.assert_allclose(one_vs_rest_focal(logits, target, 2.0, 0.25), [expected], rtol=1e-6)
    np.testing.assert_allclose(one_vs_rest_focal(logits, target, 2.0, 1.0), [expected], rtol=1e-6)


class TestZeroGamma:
  def test_softmax_focal_equals_cross_entropy_bit_for_bit(self, logits, target):
    logits, target = jnp.asarray(logits), jnp.asarray(target)
    np.testing.assert_array_equal(softmax_focal(logits, target, 0.0), optax.softmax_cross_entropy(logits, target))
    gradient, expected = (
      jax.grad(lambda z, loss=loss: loss(z, target).sum())(logits)
      for loss in (functools.partial(softmax_focal, gamma=0.0), optax.softmax_cross_entropy)
    )
    np.testing.assert_array_equal(gradient, expected)

  def test_sigmoid_focal_is_half_the_binary_cross_entropy(self, logits, target):
    p = sigmoid(logits)
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum(1)
    found = sigmoid_focal(jnp.asarray(logits), jnp.asarray(target), 0.0, 0.5)
    np.testing.assert_allclose(2 * found, expected, rtol=1e-5)


def test_loss_of_confident_predictions_is_not_rounded_to_zero():
  # 1 - p and the other class's p are e^-20, which float32 loses when it is added to 1.
  found = sigmoid_focal(jnp.array([[20.0, -20.0]]), jnp.array([[1.0, 0.0]]), 1.0, 0.25)
  np.testing.assert_allclose(found, [np.exp(-40)], rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
class TestExtremeLogits:
  @pytest.mark.parametrize("gamma", [0.0, 0.5])
  def test_values_and_gradients_are_finite(self, name, gamma):
    logits = jnp.array([[100.0, -100, 0], [-100, 100, 100], [100, 100, 100], [1e4, -1e4, 0]])
    value_and_grad = jax.jit(jax.value_and_grad(lambda z, target: LOSSES[name](z, target, gamma=gamma).sum()))
    for label in range(3):
      value, gradient = value_and_grad(logits, jnp.tile(jnp.eye(3)[label : label + 1], (len(logits), 1)))
      assert np.isfinite(value) and np.all(np.isfinite(gradient))

  def test_confident_mistakes_have_the_loss_without_focusing(self, name):
    logits, target = jnp.array([[-100.0, 100.0]]), jnp.array([[1.0, 0.0]])
    # Softmax: log p = -200 both for the target class and for the complement of the other; sigmoid: -100 each.
    expected = {"softmax_focal": 200.0, "one_vs_rest_focal": 200.0, "sigmoid_focal": 100.0}
    np.testing.assert_allclose(LOSSES[name](logits, target), [expected[name]], rtol=1e-6)

  def test_gradient_equals_finite_differences_in_float64(self, name, logits, target):
    p_of = {"softmax_focal": softmax, "one_vs_rest_focal": softmax, "sigmoid_focal": sigmoid}[name]

    def reference(z):
      if name == "softmax_focal":
        return -(target * (1 - p_of(z)) ** 2 * np.log(p_of(z))).sum()
      return equation_4(p_of(z), target, 2.0, 0.25).sum()

    gradient = jax.jit(jax.grad(lambda z: LOSSES[name](z, jnp.asarray(target)).sum()))(jnp.asarray(logits))
    for k in range(K):
      step = np.zeros((B, K))
      step[0, k] = 1e-6
      slope = (reference(logits + step) - reference(logits - step)) / 2e-6
      np.testing.assert_allclose(gradient[0, k], slope, atol=2e-6)

  def test_bfloat16_logits_are_computed_in_float32(self, name, logits, target):
    low = jnp.asarray(logits, jnp.bfloat16)
    found = LOSSES[name](low, jnp.asarray(target))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, LOSSES[name](low.astype(jnp.float32), jnp.asarray(target)))
