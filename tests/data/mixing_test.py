"""Mixup and cutmix: on known images, their labels against their areas, and how often each happens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.mixing import Mixing, partners, uncovered

H, W, K = 8, 4, 3  # 32 pixels: shares of them are exact in float32
MANY = 400
ONE, OTHER = np.full((H, W, 2), 5.0, np.float32), np.full((H, W, 2), -3.0, np.float32)
TARGET, OTHER_TARGET = np.array([1.0, 0, 0], np.float32), np.array([0, 0.25, 0.75], np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _many(mixing, one, other, seed):
  keys = jax.random.split(jax.random.key(seed), MANY)
  return jax.vmap(mixing, (None, None, None, None, 0))(one, TARGET, other, OTHER_TARGET, keys)


def many(mixing, seed=0):
  """Returns MANY outcomes, and of each the share of the image itself at every pixel, [MANY, H, W]."""
  image, target = (np.asarray(found) for found in _many(mixing, ONE, OTHER, seed))
  return image, target, (image[..., 0] - OTHER[0, 0, 0]) / (ONE[0, 0, 0] - OTHER[0, 0, 0])


def is_one_rectangle(inside):
  """Whether a mask [H, W] is the product of two intervals."""
  rows, columns = inside.any(1), inside.any(0)
  solid = all(np.ptp(np.flatnonzero(line)) + 1 == line.sum() for line in (rows, columns) if line.any())
  return solid and np.array_equal(inside, rows[:, None] & columns[None, :])


MIXUP, CUTMIX, BOTH = Mixing(mixup=1.0), Mixing(cutmix=1.0), Mixing(mixup=1.0, cutmix=1.0)
AT_TIMES = Mixing(mixup=8.0, probability=0.25)


class TestMixup:
  def test_is_the_same_share_of_every_pixel_and_of_the_label(self):
    image, target, share = many(MIXUP)
    assert image.dtype == target.dtype == np.float32
    np.testing.assert_allclose(share, np.broadcast_to(share[:, :1, :1], share.shape), atol=1e-6)
    np.testing.assert_allclose(target, target[:, :1] * TARGET + (1 - target[:, :1]) * OTHER_TARGET, atol=1e-6)
    np.testing.assert_allclose(target[:, 0], share[:, 0, 0], atol=1e-6)

  @pytest.mark.parametrize("mixing", [MIXUP, AT_TIMES])
  def test_shares_are_of_the_beta_distribution(self, mixing):
    share = many(mixing)[1][:, 0]
    share = share[share < 1]  # those mixed at all
    variance = 1 / (4 * (2 * mixing.mixup + 1))
    assert abs(share.mean() - 0.5) < 4 * np.sqrt(variance / len(share))
    assert 0.7 < share.var() / variance < 1.4

  def test_keeps_what_is_where(self):
    one, other = np.random.default_rng(0).normal(size=(2, H, W, 2)).astype(np.float32)
    image, target = _many(MIXUP, one, other, 0)
    share = np.asarray(target)[:, :1, None, None]
    np.testing.assert_allclose(image, share * one + (1 - share) * other, atol=1e-6)


class TestCutmix:
  def test_pastes_one_rectangle_and_the_label_is_its_area_exactly(self):
    image, target, share = many(CUTMIX)
    assert np.all((image == ONE) | (image == OTHER))
    assert all(is_one_rectangle(one == 0) for one in share)
    left = share.mean((1, 2))
    np.testing.assert_array_equal(target[:, 0], left)
    np.testing.assert_allclose(target[:, 1:], (1 - left)[:, None] * OTHER_TARGET[1:], atol=1e-7)

  def test_every_pixel_is_covered_at_times_and_left_at_times(self):
    covered = (many(CUTMIX)[2] == 0).mean(0)
    assert covered.min() > 0.1 and covered.max() < 0.7

  def test_keeps_what_is_where(self):
    one, other = np.random.default_rng(0).normal(size=(2, H, W, 2)).astype(np.float32)
    share = many(CUTMIX)[2][..., None]
    np.testing.assert_array_equal(_many(CUTMIX, one, other, 0)[0], np.where(share == 1, one, other))

  @pytest.mark.parametrize(
    ("share", "center", "rows", "columns"),
    [
      (0.75, (0.5, 0.5), (2, 6), (1, 3)),  # half of each side, in the middle
      (0.6, (0.5, 0.5), (2, 7), (1, 3)),  # sqrt(0.4) of each side, in whole pixels: 5 and 2
      (0.75, (0.0, 0.5), (0, 2), (1, 3)),  # what juts out above is cut off
      (0.75, (0.99, 0.99), (5, 8), (2, 4)),  # and what juts out below
      (0.0, (0.5, 0.5), (0, 8), (0, 4)),  # all of it
      (1.0, (0.5, 0.5), (0, 0), (0, 0)),  # nothing
    ],
  )
  def test_the_rectangle(self, share, center, rows, columns):
    expected = np.ones((H, W))
    expected[slice(*rows), slice(*columns)] = 0
    np.testing.assert_array_equal(uncovered(jnp.float32(share), jnp.array(center), H, W), expected)


class TestMixing:
  def test_both_are_drawn_half_and_half(self):
    _, target, share = many(BOTH)
    is_blend = np.any((share > 0) & (share < 1), axis=(1, 2))
    assert 0.42 < is_blend.mean() < 0.58
    assert np.all([is_one_rectangle(one == 0) for one in share[~is_blend]])
    np.testing.assert_allclose(target[:, 0], share.mean((1, 2)), atol=1e-6)

  @pytest.mark.parametrize("mixing", [MIXUP, CUTMIX, BOTH, AT_TIMES])
  def test_the_label_stays_a_distribution(self, mixing):
    target = many(mixing)[1]
    np.testing.assert_allclose(target.sum(1), 1, atol=1e-6)
    assert target.min() >= 0

  def test_as_often_as_asked_and_otherwise_to_the_bit(self):
    image, target, share = many(AT_TIMES)
    is_same = np.all(share == 1, axis=(1, 2))
    assert 0.67 < is_same.mean() < 0.83
    assert np.all(image[is_same] == ONE) and np.all(target[is_same] == TARGET)

  @pytest.mark.parametrize("mixing", [Mixing(), Mixing(mixup=1.0, cutmix=1.0, probability=0.0)])
  def test_off(self, mixing):
    assert not mixing.active
    image, target = mixing(ONE, TARGET, OTHER, OTHER_TARGET, jax.random.key(0))
    assert image is ONE and target is TARGET

  @pytest.mark.parametrize("mixing", [MIXUP, CUTMIX, BOTH])
  def test_on(self, mixing):
    assert mixing.active

  def test_is_a_function_of_the_key(self):
    first, again, other = (many(BOTH, seed)[0] for seed in (0, 0, 1))
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
  def test_out_of_range(self, wrong):
    with pytest.raises(ValueError, match=rf"mixing\.{next(iter(wrong))}=.*: expected"):
      Mixing(**wrong)


class TestPartners:
  def test_is_a_permutation_of_the_key(self):
    draw = jax.jit(partners, static_argnums=0)
    found = [np.asarray(draw(50, jax.random.key(seed))) for seed in (0, 0, 1)]
    assert found[0].dtype == np.int32
    assert sorted(found[0]) == sorted(found[2]) == list(range(50))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.any(found[0] != found[2])
