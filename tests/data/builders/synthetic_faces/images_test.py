"""Images depend on each argument of render_image, and on nothing else."""

import itertools

import numpy as np
import pytest

from fer_jax.data.builders.synthetic_faces.images import person, render_image


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  return np.abs(first.astype(int) - second)


def test_image_is_determined_by_seed_subject_expression_and_repetition() -> None:
  keys = [*itertools.product((0, 1), (0, 1), ("happy", "sad"), (0, 1))]
  images = [render_image(*key, 32) for key in keys]
  for first, second in itertools.combinations(images, 2):
    assert difference(first, second).mean() > 3
  for key, image in zip(keys, images, strict=True):
    np.testing.assert_array_equal(render_image(*key, 32), image)


def test_identities_are_deterministic_and_distinct() -> None:
  assert person(0, 1) == person(0, 1)
  assert len({person(seed, subject) for seed in (0, 1) for subject in range(20)}) == 40


@pytest.mark.parametrize("expression", ["angry", "disgust", "fear", "happy", "sad", "surprise"])
def test_difference_from_neutral_increases_with_strength(expression: str) -> None:
  rest, half, full = (render_image(0, 2, expression, 0, 64, strength=strength) for strength in (0.0, 0.5, 1.0))
  assert 0 < difference(rest, half).sum() < difference(rest, full).sum()


def test_yaw_changes_only_the_head() -> None:
  turned, straight = (render_image(0, 0, "neutral", 0, 64, yaw=yaw) for yaw in (0.4, 0.0))
  assert difference(turned, straight).max() > 30
  # The background in the corner, with its noise, is unchanged.
  np.testing.assert_array_equal(turned[:6, :6], straight[:6, :6])


def test_contempt_moves_one_half_of_the_face() -> None:
  sides = set()
  for subject in range(12):
    rest, full = (render_image(0, subject, "contempt", 0, 96, strength=strength, yaw=0.0) for strength in (0, 1))
    left, right = (half.sum() for half in np.array_split(difference(rest, full), 2, axis=1))
    assert max(left, right) > 2 * min(left, right)
    sides.add(left > right)
  assert sides == {True, False}
