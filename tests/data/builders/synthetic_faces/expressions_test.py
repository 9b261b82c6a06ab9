"""Expressions: their action units, and the units that are sampled for an image."""

import numpy as np

from fer_jax.data.builders.synthetic_faces.expressions import ACTION_UNITS, EXPRESSIONS, sample_action_units


def test_every_action_unit_belongs_to_an_expression() -> None:
  assert {unit for units in EXPRESSIONS.values() for unit in units} == set(ACTION_UNITS)


def test_sampled_action_units_are_those_of_the_expression_and_weak_strays() -> None:
  for name, own in EXPRESSIONS.items():
    strays = 0
    for seed in range(50):
      units = sample_action_units(np.random.default_rng(seed), name)
      assert all(0.5 <= units.pop(unit) <= 1 for unit in own)
      assert all(0 < value <= 0.25 for value in units.values())
      strays += len(units)
    assert 5 < strays < 45
