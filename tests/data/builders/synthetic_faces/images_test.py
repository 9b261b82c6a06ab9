"""The dataset as a function: each argument matters, and nothing else."""

import itertools

import numpy as np
import pytest

from fer_jax.data.builders.synthetic_faces.images import person, render_image


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  return np.abs(first.astype(int) - second)


def test_seed_subject_expression_and_repetition_each_give_another_picture() -> None:
  places = [*itertools.product((0, 1), (0, 1), ("happy", "sad"), (0, 1))]
  pictures = [render_image(*place, 32) for place in places]
  for first, second in itertools.combinations(pictures, 2):
    assert difference(first, second).mean() > 3
  for place, drawn in zip(places, pictures, strict=True):
    np.testing.assert_array_equal(render_image(*place, 32), drawn)


def test_a_person_is_the_same_in_every_picture_and_unlike_the_others() -> None:
  assert person(0, 1) == person(0, 1)
  assert len({person(seed, subject) for seed in (0, 1) for subject in range(20)}) == 40


@pytest.mark.parametrize("expression", ["angry", "disgust", "fear", "happy", "sad", "surprise"])
def test_strength_is_how_far_the_movement_has_come(expression: str) -> None:
  rest, half, full = (render_image(0, 2, expression, 0, 64, strength=strength) for strength in (0.0, 0.5, 1.0))
  assert 0 < difference(rest, half).sum() < difference(rest, full).sum()


def test_yaw_turns_the_head_alone() -> None:
  turned, straight = (render_image(0, 0, "neutral", 0, 64, yaw=yaw) for yaw in (0.4, 0.0))
  assert difference(turned, straight).max() > 30
  # The background, in the corner, and its noise stay as they were.
  np.testing.assert_array_equal(turned[:6, :6], straight[:6, :6])


def test_contempt_moves_one_half_of_the_face() -> None:
  sides = set()
  for subject in range(12):
    rest, full = (render_image(0, subject, "contempt", 0, 96, strength=strength, yaw=0.0) for strength in (0, 1))
    left, right = (half.sum() for half in np.array_split(difference(rest, full), 2, axis=1))
    assert max(left, right) > 2 * min(left, right)
    sides.add(left > right)
  assert sides == {True, False}
