"""Mixup and CutMix: mixed images and targets, distributions of the shares, and frequencies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.mixing import Mixing, partners, uncovered

H, W, K = 8, 4, 3  # 32 pixels, so that areas are exact in float32
NUM_DRAWS = 400
ONE, OTHER = np.full((H, W, 2), 5.0, np.float32), np.full((H, W, 2), -3.0, np.float32)
TARGET, OTHER_TARGET = np.array([1.0, 0, 0], np.float32), np.array([0, 0.25, 0.75], np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _mixed(mixing, one, other, seed):
  keys = jax.random.split(jax.random.key(seed), NUM_DRAWS)
  return jax.vmap(mixing, (None, None, None, None, 0))(one, TARGET, other, OTHER_TARGET, keys)


def mixed(mixing, seed=0):
  """Returns NUM_DRAWS mixed images and targets, and the share of the first image at every pixel, [NUM_DRAWS, H, W]."""
  image, target = (np.asarray(found) for found in _mixed(mixing, ONE, OTHER, seed))
  return image, target, (image[..., 0] - OTHER[0, 0, 0]) / (ONE[0, 0, 0] - OTHER[0, 0, 0])


def is_rectangle(inside):
  """Returns whether a mask [H, W] is one filled rectangle, or empty."""
  rows, columns = inside.any(1), inside.any(0)
  solid = all(np.ptp(np.flatnonzero(line)) + 1 == line.sum() for line in (rows, columns) if line.any())
  return solid and np.array_equal(inside, rows[:, None] & columns[None, :])


MIXUP, CUTMIX, BOTH = Mixing(mixup=1.0), Mixing(cutmix=1.0), Mixing(mixup=1.0, cutmix=1.0)
RARE_MIXUP = Mixing(mixup=8.0, probability=0.25)


class TestMixup:
  def test_share_is_the_same_for_all_pixels_and_the_target(self):
    image, target, share = mixed(MIXUP)
    assert image.dtype == target.dtype == np.float32
    np.testing.assert_allclose(share, np.broadcast_to(share[:, :1, :1], share.shape), atol=1e-6)
    np.testing.assert_allclose(target, target[:, :1] * TARGET + (1 - target[:, :1]) * OTHER_TARGET, atol=1e-6)
    np.testing.assert_allclose(target[:, 0], share[:, 0, 0], atol=1e-6)

  @pytest.mark.parametrize("mixing", [MIXUP, RARE_MIXUP])
  def test_shares_follow_the_beta_distribution(self, mixing):
    share = mixed(mixing)[1][:, 0]
    share = share[share < 1]  # those that are mixed
    variance = 1 / (4 * (2 * mixing.mixup + 1))
    assert abs(share.mean() - 0.5) < 4 * np.sqrt(variance / len(share))
    assert 0.7 < share.var() / variance < 1.4

  def test_mixes_pixels_at_the_same_position(self):
    one, other = np.random.default_rng(0).normal(size=(2, H, W, 2)).astype(np.float32)
    image, target = _mixed(MIXUP, one, other, 0)
    share = np.asarray(target)[:, :1, None, None]
    np.testing.assert_allclose(image, share * one + (1 - share) * other, atol=1e-6)


class TestCutmix:
  def test_pastes_one_rectangle_whose_area_is_the_share_of_the_target(self):
    image, target, share = mixed(CUTMIX)
    assert np.all((image == ONE) | (image == OTHER))
    assert all(is_rectangle(one == 0) for one in share)
    left = share.mean((1, 2))
    np.testing.assert_array_equal(target[:, 0], left)
    np.testing.assert_allclose(target[:, 1:], (1 - left)[:, None] * OTHER_TARGET[1:], atol=1e-7)

  def test_every_pixel_is_sometimes_covered_and_sometimes_kept(self):
    covered = (mixed(CUTMIX)[2] == 0).mean(0)
    assert covered.min() > 0.1 and covered.max() < 0.7

  def test_pastes_pixels_at_the_same_position(self):
    one, other = np.random.default_rng(0).normal(size=(2, H, W, 2)).astype(np.float32)
    share = mixed(CUTMIX)[2][..., None]
    np.testing.assert_array_equal(_mixed(CUTMIX, one, other, 0)[0], np.where(share == 1, one, other))

  @pytest.mark.parametrize(
    ("share", "center", "rows", "columns"),
    [
      (0.75, (0.5, 0.5), (2, 6), (1, 3)),  # half of each side length, centred
      (0.6, (0.5, 0.5), (2, 7), (1, 3)),  # sqrt(0.4) of each side length, rounded down: 5 and 2
      (0.75, (0.0, 0.5), (0, 2), (1, 3)),  # clipped at the top
      (0.75, (0.99, 0.99), (5, 8), (2, 4)),  # clipped at the bottom and right
      (0.0, (0.5, 0.5), (0, 8), (0, 4)),  # the whole image
      (1.0, (0.5, 0.5), (0, 0), (0, 0)),  # no pixel
    ],
  )
  def test_rectangle_has_the_requested_area_and_centre_and_is_clipped(self, share, center, rows, columns):
    expected = np.ones((H, W))
    expected[slice(*rows), slice(*columns)] = 0
    np.testing.assert_array_equal(uncovered(jnp.float32(share), jnp.array(center), H, W), expected)


class TestMixing:
  def test_mixup_and_cutmix_are_equally_likely(self):
    _, target, share = mixed(BOTH)
    is_blend = np.any((share > 0) & (share < 1), axis=(1, 2))
    assert 0.42 < is_blend.mean() < 0.58
    assert np.all([is_rectangle(one == 0) for one in share[~is_blend]])
    np.testing.assert_allclose(target[:, 0], share.mean((1, 2)), atol=1e-6)

  @pytest.mark.parametrize("mixing", [MIXUP, CUTMIX, BOTH, RARE_MIXUP])
  def test_target_remains_a_distribution(self, mixing):
    target = mixed(mixing)[1]
    np.testing.assert_allclose(target.sum(1), 1, atol=1e-6)
    assert target.min() >= 0

  def test_frequency_matches_the_probability_and_other_images_are_unchanged(self):
    image, target, share = mixed(RARE_MIXUP)
    is_same = np.all(share == 1, axis=(1, 2))
    assert 0.67 < is_same.mean() < 0.83
    assert np.all(image[is_same] == ONE) and np.all(target[is_same] == TARGET)

  @pytest.mark.parametrize("mixing", [Mixing(), Mixing(mixup=1.0, cutmix=1.0, probability=0.0)])
  def test_inactive_mixing_returns_its_inputs(self, mixing):
    assert not mixing.active
    image, target = mixing(ONE, TARGET, OTHER, OTHER_TARGET, jax.random.key(0))
    assert image is ONE and target is TARGET

  @pytest.mark.parametrize("mixing", [MIXUP, CUTMIX, BOTH])
  def test_mixing_with_positive_parameters_is_active(self, mixing):
    assert mixing.active

  def test_key_determines_the_result(self):
    first, again, other = (mixed(BOTH, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(again, first)
    assert np.any(other != first)

  @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
  def test_keeps_dtypes_and_shapes(self, dtype):
    one, other = jnp.asarray(ONE, dtype), jnp.asarray(OTHER, dtype)
    image, target = jax.eval_shape(BOTH, one, TARGET, other, OTHER_TARGET, jax.random.key(0))
    assert (image.dtype, image.shape) == (dtype, ONE.shape)
    assert (target.dtype, target.shape) == (jnp.float32, (K,))

  @pytest.mark.parametrize(
    "wrong", [{"mixup": -0.1}, {"mixup": float("inf")}, {"cutmix": float("nan")}, {"probability": 1.1}]
  )
  def test_rejects_settings_out_of_range(self, wrong):
    with pytest.raises(ValueError, match=rf"mixing\.{next(iter(wrong))}=.*: expected"):
      Mixing(**wrong)


class TestPartners:
  def test_is_a_permutation_determined_by_the_key(self):
    draw = jax.jit(partners, static_argnums=0)
    found = [np.asarray(draw(50, jax.random.key(seed))) for seed in (0, 0, 1)]
    assert found[0].dtype == np.int32
    assert sorted(found[0]) == sorted(found[2]) == list(range(50))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.any(found[0] != found[2])
