"""Focal losses against float64, at the ends of their range, and the weights of unbalanced classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.losses.class_weights import balanced, effective_number
from fer_jax.losses.focal import one_vs_rest_focal, sigmoid_focal, softmax_focal
from tests.losses.conftest import B, K


def softmax(logits):
  exponentials = np.exp(logits.astype(float))
  return exponentials / exponentials.sum(1, keepdims=True)


def sigmoid(logits):
  return 1 / (1 + np.exp(-logits.astype(float)))


def equation_4(p, y, gamma, alpha):
  """As printed, row by row and class by class."""
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
  def test_softmax_focal_equals_float64(self, logits, target, gamma):
    p = softmax(logits)
    np.testing.assert_allclose(
      softmax_focal(jnp.asarray(logits), jnp.asarray(target), gamma),
      -(target * (1 - p) ** gamma * np.log(p)).sum(1),
      rtol=1e-5,
    )

  @pytest.mark.parametrize(("gamma", "alpha"), [(0.0, 0.5), (2.0, 0.25), (5.0, 1.0), (1.0, 0.0)])
  @pytest.mark.parametrize("kind", BINARY)
  def test_equation_4(self, logits, target, kind, gamma, alpha):
    loss, probability = BINARY[kind]
    found = loss(jnp.asarray(logits), jnp.asarray(target), gamma, alpha)
    np.testing.assert_allclose(found, equation_4(probability(logits), target, gamma, alpha), rtol=1e-5)

  def test_of_one_class_by_hand(self):
    # p = 3/4 for the class that is right: (1/4)^2 ln(4/3) of it, and eq. 4 has the other class's term besides.
    logits, target = jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([[1.0, 0.0]])
    of_right = np.log(4 / 3) / 16
    np.testing.assert_allclose(softmax_focal(logits, target, 2.0), [of_right], rtol=1e-6)
    np.testing.assert_allclose(one_vs_rest_focal(logits, target, 2.0, 0.25), [of_right], rtol=1e-6)
    np.testing.assert_allclose(one_vs_rest_focal(logits, target, 2.0, 1.0), [of_right], rtol=1e-6)


class TestGammaOfZero:
  def test_is_the_cross_entropy_to_the_bit(self, logits, target):
    logits, target = jnp.asarray(logits), jnp.asarray(target)
    np.testing.assert_array_equal(softmax_focal(logits, target, 0.0), optax.softmax_cross_entropy(logits, target))
    gradient, expected = (
      jax.grad(lambda z, loss=loss: loss(z, target).sum())(logits)
      for loss in (functools.partial(softmax_focal, gamma=0.0), optax.softmax_cross_entropy)
    )
    np.testing.assert_array_equal(gradient, expected)

  def test_is_half_the_binary_cross_entropy(self, logits, target):
    p = sigmoid(logits)
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum(1)
    found = sigmoid_focal(jnp.asarray(logits), jnp.asarray(target), 0.0, 0.5)
    np.testing.assert_allclose(2 * found, expected, rtol=1e-5)


def test_a_sure_answer_is_not_lost_to_rounding():
  # 1 - p is e^-20, which float32 cannot tell from nothing beside 1; so is the other class's p.
  found = sigmoid_focal(jnp.array([[20.0, -20.0]]), jnp.array([[1.0, 0.0]]), 1.0, 0.25)
  np.testing.assert_allclose(found, [np.exp(-40)], rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
class TestRange:
  @pytest.mark.parametrize("gamma", [0.0, 0.5])
  def test_extreme_logits_give_finite_values_and_gradients(self, name, gamma):
    logits = jnp.array([[100.0, -100, 0], [-100, 100, 100], [100, 100, 100], [1e4, -1e4, 0]])
    learn = jax.jit(jax.value_and_grad(lambda z, target: LOSSES[name](z, target, gamma=gamma).sum()))
    for right in range(3):
      value, gradient = learn(logits, jnp.tile(jnp.eye(3)[right : right + 1], (len(logits), 1)))
      assert np.isfinite(value) and np.all(np.isfinite(gradient))

  def test_a_sure_mistake_costs_what_it_does_without_focus(self, name):
    logits, target = jnp.array([[-100.0, 100.0]]), jnp.array([[1.0, 0.0]])
    # softmax: log p = -200 for the right class, and the same for "not the wrong one"; sigmoid: -100 of each.
    expected = {"softmax_focal": 200.0, "one_vs_rest_focal": 200.0, "sigmoid_focal": 100.0}
    np.testing.assert_allclose(LOSSES[name](logits, target), [expected[name]], rtol=1e-6)

  def test_gradient_equals_differences_in_float64(self, name, logits, target):
    p_of = {"softmax_focal": softmax, "one_vs_rest_focal": softmax, "sigmoid_focal": sigmoid}[name]

    def reference(z):
      if name == "softmax_focal":
        return -(target * (1 - p_of(z)) ** 2 * np.log(p_of(z))).sum()
      return equation_4(p_of(z), target, 2.0, 0.25).sum()

    gradient = jax.jit(jax.grad(lambda z: LOSSES[name](z, jnp.asarray(target)).sum()))(jnp.asarray(logits))
    for k in range(K):
      away = np.zeros((B, K))
      away[0, k] = 1e-6
      slope = (reference(logits + away) - reference(logits - away)) / 2e-6
      np.testing.assert_allclose(gradient[0, k], slope, atol=2e-6)

  def test_the_arithmetic_is_float32(self, name, logits, target):
    low = jnp.asarray(logits, jnp.bfloat16)
    found = LOSSES[name](low, jnp.asarray(target))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, LOSSES[name](low.astype(jnp.float32), jnp.asarray(target)))


COUNTS = [3995, 436, 4097, 7215, 4830, 3171, 4965]  # FER2013's training split


class TestClassWeights:
  def test_balanced_gives_every_class_the_same_part_of_rows_that_average_one(self):
    found = balanced(COUNTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found * COUNTS, sum(COUNTS) / K, rtol=1e-6)

  def test_effective_number_equals_the_sum_of_what_each_example_adds(self):
    # 1 + beta + beta^2 + ...: the n-th example adds beta^(n-1).
    counts, beta = [3, 10, 40], 0.9
    inverse = np.array([1 / sum(beta**n for n in range(count)) for count in counts])
    found = effective_number(counts, beta)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 3 * inverse / inverse.sum(), rtol=1e-6)

  def test_beta_leads_from_equal_to_inverse_weights(self):
    np.testing.assert_array_equal(effective_number(COUNTS, 0.0), np.ones(K))
    inverse = 1 / np.array(COUNTS)
    np.testing.assert_allclose(effective_number(COUNTS, 1 - 1e-9), inverse / inverse.mean(), rtol=1e-4)

  @pytest.mark.parametrize("weights", [balanced, effective_number])
  @pytest.mark.parametrize("counts", [[3, 0], [3, -1], [], [[1, 2]], [1, float("nan")]])
  def test_a_class_without_examples(self, weights, counts):
    with pytest.raises(ValueError, match="counts=.*: expected the number of examples of each class, above 0"):
      weights(counts)

  @pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
  def test_beta_out_of_range(self, beta):
    with pytest.raises(ValueError, match="beta=.*: expected"):
      effective_number([1, 2], beta)
