"""Centre loss and updates of the centres: comparison with loops over rows in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.losses.center import center_loss, center_sums, updated_centers

B, D, K = 9, 5, 7
FEATURES = np.random.default_rng(2).normal(1, 2, (B, D)).astype(np.float32)
CENTERS = np.random.default_rng(3).normal(0, 1, (K, D)).astype(np.float32)


def loss_of_rows(features, target, centers):
  """Returns the loss of each row, summed over the classes in proportion to the target."""
  return [
    sum(t * 0.5 * np.sum((x - c) ** 2) for t, c in zip(row, centers, strict=True))
    for x, row in zip(features, target, strict=True)
  ]


def next_centers(features, target, centers, rate):
  """Applies eq. 4 of Wen et al. class by class; each row is weighted by its target's share of the class."""
  found = []
  for k, center in enumerate(centers):
    difference = sum(row[k] * (center - x) for x, row in zip(features, target, strict=True))
    found.append(center - rate * difference / (1 + sum(row[k] for row in target)))
  return np.array(found)


def test_loss_matches_float64(target):
  expected = loss_of_rows(FEATURES.astype(np.float64), target.astype(np.float64), CENTERS.astype(np.float64))
  np.testing.assert_allclose(center_loss(FEATURES, target, CENTERS), expected, rtol=1e-5)


def test_gradient_is_the_difference_from_the_centre():
  label = np.random.default_rng(4).integers(0, K, B)
  gradient = jax.grad(lambda x: center_loss(x, jnp.eye(K)[label], CENTERS).sum())(FEATURES)
  np.testing.assert_allclose(gradient, FEATURES - CENTERS[label], rtol=1e-5)


def test_centres_match_float64_over_several_steps(target):
  centers, expected = jnp.asarray(CENTERS), CENTERS.astype(np.float64)
  for step in range(4):
    features = FEATURES * (1 + step)
    centers = updated_centers(centers, *center_sums(features, target, centers), 0.5)
    expected = next_centers(features.astype(np.float64), target.astype(np.float64), expected, 0.5)
  np.testing.assert_allclose(centers, expected, rtol=1e-5, atol=1e-6)


def test_centres_of_absent_classes_are_unchanged():
  target = np.eye(K, dtype=np.float32)[[1, 1, 4, 1, 4, 4, 1, 1, 1]]
  found = np.asarray(updated_centers(jnp.asarray(CENTERS), *center_sums(FEATURES, target, CENTERS), 0.5))
  unchanged = (found == CENTERS).all(axis=1)
  assert unchanged.tolist() == [k not in (1, 4) for k in range(K)]


def test_sums_over_parts_of_a_batch_add_up():
  target = np.eye(K, dtype=np.float32)[np.arange(B) % K]
  parts = [center_sums(FEATURES[rows], target[rows], CENTERS) for rows in (slice(0, 4), slice(4, B))]
  whole = center_sums(FEATURES, target, CENTERS)
  for together, *each in zip(whole, *parts, strict=True):
    np.testing.assert_allclose(together, sum(each), rtol=1e-5, atol=1e-5)


def test_bfloat16_features_are_computed_in_float32():
  target = np.eye(K, dtype=np.float32)[np.arange(B) % K]
  half = jnp.asarray(FEATURES, jnp.bfloat16)
  assert center_loss(half, target, CENTERS).dtype == jnp.float32
  assert {x.dtype for x in center_sums(half, target, CENTERS)} == {jnp.dtype(jnp.float32)}
