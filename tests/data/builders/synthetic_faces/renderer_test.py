"""The renderer: what an image depends on, and the effect of each action unit."""

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
# Rows and columns in a frontal image of 96x96 pixels of `plain_identity`.
BROWS = (slice(18, 42), slice(22, 74))
EYES = (slice(38, 52), slice(22, 74))
MOUTH = (slice(62, 90), slice(30, 66))


def _rng(seed: int) -> np.random.Generator:
  return np.random.default_rng(seed)


def plain_identity(seed: int) -> Identity:
  """Returns an identity without hair or glasses over the features, with proportions that depend on the seed."""
  sampled = sample_identity(_rng(seed))
  return dataclasses.replace(sampled, beard="none", glasses=0.0, hair_style="bald", skin=190.0, hair=40.0, lines=0.0)


def mean_dark_row(image: np.ndarray, region: tuple[slice, slice], level: int = 110) -> float:
  """Returns the mean row of the dark pixels of a region, counted from its top."""
  rows, _ = np.nonzero(image[region] < level)
  return float(rows.mean())


def sampled_image(seed: int, expression: str, size: int) -> np.ndarray:
  rng = _rng(seed)
  identity = sample_identity(rng)
  return render(identity, sample_action_units(rng, expression), sample_shot(rng), size)


@pytest.mark.parametrize("size", [16, 48, 100, 256])
def test_image_is_square_with_contrast(size: int) -> None:
  image = sampled_image(0, "happy", size)
  assert image.shape == (size, size)
  assert image.dtype == np.uint8
  assert np.ptp(image) > 50


def test_seed_determines_the_image() -> None:
  first = sampled_image(3, "fear", 48)
  np.testing.assert_array_equal(sampled_image(3, "fear", 48), first)
  assert np.abs(sampled_image(4, "fear", 48).astype(int) - first).mean() > 3


def test_image_is_independent_of_earlier_ones() -> None:
  first = sampled_image(3, "fear", 48)
  for seed in range(3):
    sampled_image(seed, "surprise", 96)
  np.testing.assert_array_equal(sampled_image(3, "fear", 48), first)


@pytest.mark.parametrize("expression", [name for name in EXPRESSIONS if name != "neutral"])
def test_every_expression_differs_from_neutral_and_from_the_others(expression: str) -> None:
  for seed in range(3):
    rng = _rng(seed)
    identity, shot = sample_identity(rng), sample_shot(rng)
    shot = dataclasses.replace(shot, occluder=None, blur=0.0, gain=1.0)
    images = {name: render(identity, dict.fromkeys(units, 0.8), shot, 48) for name, units in EXPRESSIONS.items()}
    for name, other in images.items():
      if name != expression:
        changed = np.abs(images[expression].astype(int) - other) > 12
        assert changed.sum() > 25, name


@pytest.mark.parametrize("unit", list(ACTION_UNITS))
def test_change_increases_with_the_intensity_of_an_action_unit(unit: int) -> None:
  for seed in range(3):
    identity = plain_identity(seed)
    rest = render(identity, {}, PLAIN, SIZE).astype(int)
    change = [np.abs(render(identity, {unit: intensity}, PLAIN, SIZE) - rest).sum() for intensity in (0.0, 0.5, 1.0)]
    assert change[0] == 0
    assert 0 < change[1] < change[2]


@pytest.mark.parametrize("seed", range(4))
def test_jaw_drop_darkens_the_mouth(seed: int) -> None:
  identity = plain_identity(seed)
  means = [render(identity, {26: drop}, PLAIN, SIZE)[MOUTH].mean() for drop in (0.0, 0.5, 1.0)]
  assert means[0] > means[1] > means[2]


@pytest.mark.parametrize("seed", range(4))
def test_brow_raisers_lift_and_brow_lowerer_lowers_the_brows(seed: int) -> None:
  identity = plain_identity(seed)
  rows = [mean_dark_row(render(identity, units, PLAIN, SIZE), BROWS, 80) for units in ({1: 1.0, 2: 1.0}, {}, {4: 1.0})]
  assert rows[0] < rows[1] < rows[2]


@pytest.mark.parametrize("seed", range(4))
def test_inner_and_outer_brow_raisers_lift_the_inner_and_outer_ends(seed: int) -> None:
  identity = plain_identity(seed)
  inner, outer = (BROWS[0], slice(37, 59)), (BROWS[0], slice(22, 33))
  rest, inner_raised, outer_raised = (render(identity, units, PLAIN, SIZE) for units in ({}, {1: 1.0}, {2: 1.0}))
  assert mean_dark_row(inner_raised, inner, 80) < mean_dark_row(rest, inner, 80) - 1
  assert mean_dark_row(outer_raised, outer, 80) < mean_dark_row(rest, outer, 80) - 1


@pytest.mark.parametrize("seed", range(4))
def test_upper_lid_raiser_enlarges_and_lid_tightener_and_cheek_raiser_reduce_the_visible_sclera(
  seed: int,
) -> None:
  identity = plain_identity(seed)
  sclera_pixels = [
    int((render(identity, units, PLAIN, SIZE)[EYES] > 212).sum())
    for units in ({5: 1.0}, {}, {7: 1.0}, {6: 1.0, 7: 1.0})
  ]
  assert sclera_pixels == sorted(sclera_pixels, reverse=True)
  assert len(set(sclera_pixels)) == len(sclera_pixels)


@pytest.mark.parametrize("seed", range(4))
def test_lip_corner_puller_raises_and_lip_corner_depressor_lowers_the_lip_corners(seed: int) -> None:
  identity = plain_identity(seed)
  curvature = []
  for units in ({12: 1.0}, {}, {15: 1.0}):
    image = render(identity, units, PLAIN, SIZE)[MOUTH]
    rows, columns = np.nonzero(image < 75)
    # Curvature of a parabola through the dark line between the lips: negative for a smile, as rows count downwards.
    curvature.append(np.polyfit(columns - columns.mean(), rows, 2)[0])
  assert curvature[0] < curvature[1] < curvature[2]
  assert curvature[0] < 0 < curvature[2]


def test_lip_stretcher_widens_and_lip_tightener_narrows_the_mouth() -> None:
  identity = plain_identity(1)

  def width(units: dict[int, float]) -> int:
    return int(np.ptp(np.nonzero(render(identity, units, PLAIN, SIZE)[MOUTH] < 75)[1]))

  assert width({20: 1.0}) > width({}) > width({23: 1.0})


@pytest.mark.parametrize("side", [-1, 1])
def test_asymmetry_moves_only_one_half_of_the_face(side: int) -> None:
  identity, shot = plain_identity(0), Shot(asymmetry=float(side))
  changed = np.abs(render(identity, {4: 1.0}, shot, SIZE).astype(int) - render(identity, {}, shot, SIZE)) > 0
  halves = changed[:, : SIZE // 2 - 1].any(), changed[:, SIZE // 2 + 1 :].any()
  assert halves == (side == -1, side == 1)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_larger_image_shows_the_same_face(expression: str) -> None:
  for seed in range(3):
    small, large = (sampled_image(seed, expression, size) for size in (48, 96))
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
def test_every_parameter_of_the_shot_changes_the_image(change: dict) -> None:
  identity = plain_identity(0)
  plain, changed = (render(identity, {}, shot, 48).astype(int) for shot in (PLAIN, Shot(**change)))
  assert np.abs(plain - changed).max() > 10


@pytest.mark.parametrize("units", [{3: 0.5}, {12: 1.5}, {12: -0.1}])
def test_rejects_unknown_action_units_and_intensities_out_of_range(units: dict[int, float]) -> None:
  with pytest.raises(ValueError, match="action unit"):
    render(plain_identity(0), units, PLAIN, 48)
