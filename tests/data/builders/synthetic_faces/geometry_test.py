"""Curves of the face, for action units whose effect is too small to measure in an image."""

import numpy as np
import pytest

from fer_jax.data.builders.synthetic_faces.geometry import SIDES, Activation, brow, mouth
from fer_jax.data.builders.synthetic_faces.identity import Identity, sample_identity


def sampled_identity(seed: int) -> Identity:
  return sample_identity(np.random.default_rng(seed))


@pytest.mark.parametrize("side", SIDES)
def test_brow_lowerer_moves_the_inner_ends_of_the_brows_down_and_together(side: int) -> None:
  for seed in range(5):
    rest, lowered = (
      min(brow(sampled_identity(seed), Activation(units, 0.0, side), side), key=lambda point: abs(point[0]))
      for units in ({}, {4: 1.0})
    )
    assert abs(lowered[0]) < abs(rest[0])
    assert lowered[1] > rest[1]


def test_lower_lip_depressor_parts_the_lips() -> None:
  rest, parted = (
    mouth(sampled_identity(0), *(Activation(units, 0.0, side) for side in SIDES)) for units in ({}, {16: 1.0})
  )
  assert rest.gap == 0 < parted.gap


def test_symmetric_activation_keeps_the_face_symmetric() -> None:
  left, right = (brow(sampled_identity(0), Activation({1: 0.5}, 0.0, side), side) for side in SIDES)
  np.testing.assert_array_equal(left * (-1, 1), right)
