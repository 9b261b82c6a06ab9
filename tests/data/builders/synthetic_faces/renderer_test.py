"""The renderer: what a picture depends on, and that each action unit moves what it should."""

import dataclasses

import cv2
import numpy as np
import pytest

from fer_jax.data.builders.synthetic_faces.expressions import ACTION_UNITS, EXPRESSIONS, sample_action_units
from fer_jax.data.builders.synthetic_faces.identity import (
  Identity,
  Occluder,
  Shot,
  sample_identity,
  sample_shot,
)
from fer_jax.data.builders.synthetic_faces.renderer import render

PLAIN = Shot()
SIZE = 96
# Rows and columns of a frontal 96-pixel picture of `plain_person`.
BROWS = (slice(18, 42), slice(22, 74))
EYES = (slice(38, 52), slice(22, 74))
MOUTH = (slice(62, 90), slice(30, 66))


def _rng(seed: int) -> np.random.Generator:
  return np.random.default_rng(seed)


def plain_person(seed: int) -> Identity:
  """A person with nothing in front of the features, whose measures differ with the seed."""
  sampled = sample_identity(_rng(seed))
  return dataclasses.replace(sampled, beard="none", glasses=0.0, hair_style="bald", skin=190.0, hair=40.0, lines=0.0)


def darkness_height(picture: np.ndarray, region: tuple[slice, slice], level: int = 110) -> float:
  """Mean row, counted from the top of the region, of its dark pixels."""
  rows, _ = np.nonzero(picture[region] < level)
  return float(rows.mean())


def sampled_picture(seed: int, expression: str, size: int) -> np.ndarray:
  rng = _rng(seed)
  identity = sample_identity(rng)
  return render(identity, sample_action_units(rng, expression), sample_shot(rng), size)


@pytest.mark.parametrize("size", [16, 48, 100, 256])
def test_a_picture_is_a_square_of_grey_levels(size: int) -> None:
  picture = sampled_picture(0, "happy", size)
  assert picture.shape == (size, size)
  assert picture.dtype == np.uint8
  assert np.ptp(picture) > 50


def test_the_same_arguments_give_the_same_bytes_and_another_seed_other_ones() -> None:
  first = sampled_picture(3, "fear", 48)
  np.testing.assert_array_equal(sampled_picture(3, "fear", 48), first)
  assert np.abs(sampled_picture(4, "fear", 48).astype(int) - first).mean() > 3


def test_rendering_leaves_no_trace_of_earlier_pictures() -> None:
  first = sampled_picture(3, "fear", 48)
  for seed in range(3):
    sampled_picture(seed, "surprise", 96)
  np.testing.assert_array_equal(sampled_picture(3, "fear", 48), first)


@pytest.mark.parametrize("expression", [name for name in EXPRESSIONS if name != "neutral"])
def test_every_expression_differs_from_neutral_and_from_the_others(expression: str) -> None:
  for seed in range(3):
    rng = _rng(seed)
    identity, shot = sample_identity(rng), sample_shot(rng)
    shot = dataclasses.replace(shot, occluder=None, blur=0.0, gain=1.0)
    acted = {name: render(identity, dict.fromkeys(units, 0.8), shot, 48) for name, units in EXPRESSIONS.items()}
    for name, other in acted.items():
      if name != expression:
        changed = np.abs(acted[expression].astype(int) - other) > 12
        assert changed.sum() > 25, name


@pytest.mark.parametrize("unit", list(ACTION_UNITS))
def test_a_stronger_action_changes_the_face_more(unit: int) -> None:
  for seed in range(3):
    identity = plain_person(seed)
    rest = render(identity, {}, PLAIN, SIZE).astype(int)
    change = [np.abs(render(identity, {unit: intensity}, PLAIN, SIZE) - rest).sum() for intensity in (0.0, 0.5, 1.0)]
    assert change[0] == 0
    assert 0 < change[1] < change[2]


@pytest.mark.parametrize("seed", range(4))
def test_jaw_drop_darkens_the_mouth(seed: int) -> None:
  identity = plain_person(seed)
  means = [render(identity, {26: drop}, PLAIN, SIZE)[MOUTH].mean() for drop in (0.0, 0.5, 1.0)]
  assert means[0] > means[1] > means[2]


@pytest.mark.parametrize("seed", range(4))
def test_brows_rise_and_fall(seed: int) -> None:
  identity = plain_person(seed)
  heights = [
    darkness_height(render(identity, units, PLAIN, SIZE), BROWS, 80) for units in ({1: 1.0, 2: 1.0}, {}, {4: 1.0})
  ]
  assert heights[0] < heights[1] < heights[2]


@pytest.mark.parametrize("seed", range(4))
def test_inner_brow_raiser_lifts_the_inner_ends_and_outer_brow_raiser_the_outer_ones(seed: int) -> None:
  identity = plain_person(seed)
  inner, outer = (BROWS[0], slice(37, 59)), (BROWS[0], slice(22, 33))
  rest, raised_1, raised_2 = (render(identity, units, PLAIN, SIZE) for units in ({}, {1: 1.0}, {2: 1.0}))
  assert darkness_height(raised_1, inner, 80) < darkness_height(rest, inner, 80) - 1
  assert darkness_height(raised_2, outer, 80) < darkness_height(rest, outer, 80) - 1


@pytest.mark.parametrize("seed", range(4))
def test_upper_lid_raiser_bares_the_white_of_the_eye_and_lid_tightener_and_cheek_raiser_hide_it(
  seed: int,
) -> None:
  identity = plain_person(seed)
  whites = [
    int((render(identity, units, PLAIN, SIZE)[EYES] > 212).sum())
    for units in ({5: 1.0}, {}, {7: 1.0}, {6: 1.0, 7: 1.0})
  ]
  assert whites == sorted(whites, reverse=True)
  assert len(set(whites)) == len(whites)


@pytest.mark.parametrize("seed", range(4))
def test_lip_corners_go_up_for_a_smile_and_down_for_grief(seed: int) -> None:
  identity = plain_person(seed)
  curvature = []
  for units in ({12: 1.0}, {}, {15: 1.0}):
    picture = render(identity, units, PLAIN, SIZE)[MOUTH]
    rows, columns = np.nonzero(picture < 75)
    # The sign of a parabola through the dark line between the lips: rows count downwards.
    curvature.append(np.polyfit(columns - columns.mean(), rows, 2)[0])
  assert curvature[0] < curvature[1] < curvature[2]
  assert curvature[0] < 0 < curvature[2]


def test_lips_stretch_and_tighten() -> None:
  identity = plain_person(1)

  def width(units: dict[int, float]) -> int:
    return int(np.ptp(np.nonzero(render(identity, units, PLAIN, SIZE)[MOUTH] < 75)[1]))

  assert width({20: 1.0}) > width({}) > width({23: 1.0})


@pytest.mark.parametrize("side", [-1, 1])
def test_asymmetry_moves_one_half_of_the_face_alone(side: int) -> None:
  identity, shot = plain_person(0), Shot(asymmetry=float(side))
  changed = np.abs(render(identity, {4: 1.0}, shot, SIZE).astype(int) - render(identity, {}, shot, SIZE)) > 0
  halves = changed[:, : SIZE // 2 - 1].any(), changed[:, SIZE // 2 + 1 :].any()
  assert halves == (side == -1, side == 1)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_larger_picture_shows_the_same_face(expression: str) -> None:
  for seed in range(3):
    small, large = (sampled_picture(seed, expression, size) for size in (48, 96))
    shrunk = cv2.resize(large, (48, 48), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
  "change",
  [
    {"yaw": 0.3},
    {"pitch": 0.15},
    {"roll": 0.2},
    {"shift": (0.1, 0.0)},
    {"zoom": 1.1},
    {"gaze": (0.3, 0.0)},
    {"light": (0.3, 0.0)},
    {"gain": 0.7},
    {"background": (20.0, 60.0)},
    {"blur": 0.01},
    {"noise": 5.0},
    {"occluder": Occluder(0.0, 0.5, 0.2, 0.2, 0.3, 0.0)},
  ],
  ids=lambda change: next(iter(change)),
)
def test_every_circumstance_of_the_shot_shows(change: dict) -> None:
  identity = plain_person(0)
  plain, changed = (render(identity, {}, shot, 48).astype(int) for shot in (PLAIN, Shot(**change)))
  assert np.abs(plain - changed).max() > 10


@pytest.mark.parametrize("units", [{3: 0.5}, {12: 1.5}, {12: -0.1}])
def test_an_action_that_no_face_can_make_is_refused(units: dict[int, float]) -> None:
  with pytest.raises(ValueError, match="action unit"):
    render(plain_person(0), units, PLAIN, 48)


def test_every_action_unit_belongs_to_an_expression() -> None:
  assert {unit for units in EXPRESSIONS.values() for unit in units} == set(ACTION_UNITS)


def test_sampled_actions_are_the_expressions_own_and_at_most_a_weak_stray() -> None:
  for name, wanted in EXPRESSIONS.items():
    strays = 0
    for seed in range(50):
      units = sample_action_units(_rng(seed), name)
      assert all(0.5 <= units.pop(unit) <= 1 for unit in wanted)
      assert all(0 < value <= 0.25 for value in units.values())
      strays += len(units)
    assert 5 < strays < 45
