import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.augment import Augmentation, shifted, standardize

H, W = 6, 5
NEW = {
  **{"rotation": (10.0, 30.0), "scale": (0.8, 1.2), "crop": (0.5, 1.0), "gamma": (0.5, 2.0), "contrast": 0.5},
  **{"brightness": 0.5, "noise": 0.001, "erase": 0.5},
}


@pytest.fixture
def image():
  return np.arange(H * W * 2, dtype=np.uint8).reshape(H, W, 2)


MANY = 400


@functools.partial(jax.jit, static_argnums=0)
def _many(augmentation, image, seed):
  return jax.vmap(augmentation, (None, 0))(image, jax.random.split(jax.random.key(seed), MANY))


def many(augmentation, image, seed=0):
  """Returns MANY outcomes."""
  return np.asarray(_many(augmentation, image, seed))


class TestFlip:
  def test_always(self, image):
    flipped = jax.jit(Augmentation(flip=1.0))(image, jax.random.key(0))
    np.testing.assert_array_equal(flipped, np.flip(image, axis=1))

  def test_twice_is_the_image(self, image):
    flip = jax.jit(Augmentation(flip=1.0))
    np.testing.assert_array_equal(flip(flip(image, jax.random.key(0)), jax.random.key(1)), image)

  def test_never(self, image):
    np.testing.assert_array_equal(Augmentation(flip=0.0)(image, jax.random.key(0)), image)

  def test_as_often_as_asked(self, image):
    found = many(Augmentation(flip=0.25), image)
    is_flipped = (found == np.flip(image, axis=1)).all(axis=(1, 2, 3))
    is_same = (found == image).all(axis=(1, 2, 3))
    assert np.all(is_flipped ^ is_same)
    assert 0.15 < is_flipped.mean() < 0.35


class TestShift:
  def test_every_offset_occurs_and_none_beyond(self):
    dot = np.zeros((H, W, 1))
    dot[2, 2] = 1
    found = many(Augmentation(flip=0.0, shift=1), dot)[..., 0]
    places = {tuple(np.argwhere(one)[0] - 2) for one in found}
    assert places == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


class TestAugmentation:
  def test_is_a_function_of_the_key_and_reaches_everything(self, image):
    augmentation = Augmentation(flip=0.5, shift=2)
    first = many(augmentation, image)
    np.testing.assert_array_equal(many(augmentation, image), first)
    assert np.any(many(augmentation, image, seed=1) != first)
    assert len(np.unique(first.reshape(MANY, -1), axis=0)) == 50  # 2 mirror images x 25 places

  def test_a_row_does_not_depend_on_the_others(self, image):
    augmentation = Augmentation(flip=0.5, shift=2)
    batch = many(augmentation, image)
    alone = jax.jit(augmentation)
    for row, key in enumerate(jax.random.split(jax.random.key(0), MANY)[:5]):
      np.testing.assert_array_equal(alone(image, key), batch[row])

  @pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.bfloat16])
  def test_keeps_dtype_and_shape(self, image, dtype):
    found = jax.eval_shape(Augmentation(flip=0.5, shift=2), jnp.asarray(image, dtype), jax.random.key(0))
    assert (found.dtype, found.shape) == (dtype, image.shape)

  def test_flip_and_shift_alone_are_the_program_that_they_were(self, image):
    def before(image, key):
      flip_key, shift_key = jax.random.split(key)
      image = jnp.where(jax.random.bernoulli(flip_key, 0.5), image[:, ::-1], image)
      return shifted(image, jax.random.randint(shift_key, (2,), -2, 3), 2)

    programs = [jax.make_jaxpr(f)(image, jax.random.key(0)) for f in (Augmentation(flip=0.5, shift=2), before)]
    assert str(programs[0]) == str(programs[1])

  def test_the_others_leave_flip_and_shift_their_draws(self, image):
    alone = many(Augmentation(flip=0.5, shift=2), image)
    with_others = many(Augmentation(flip=0.5, shift=2, brightness=1e-6, noise=1e-12), image)
    np.testing.assert_allclose(with_others, alone, atol=0.01)

  def test_all_together_stay_in_range_and_follow_the_key(self, image):
    augmentation = Augmentation(flip=0.5, shift=2, **NEW)
    bright = image * 4
    first = many(augmentation, bright)
    assert first.dtype == np.float32
    assert (first.min(), first.max()) == (0, 255)
    np.testing.assert_array_equal(many(augmentation, bright), first)
    assert len(np.unique(first.reshape(MANY, -1), axis=0)) == MANY

  @pytest.mark.parametrize("operation", NEW)
  @pytest.mark.parametrize("dtype", [jnp.uint8, jnp.bfloat16])
  def test_with_any_of_the_others_the_result_is_float32(self, image, operation, dtype):
    augmentation = Augmentation(**{operation: NEW[operation]})
    found = jax.eval_shape(augmentation, jnp.asarray(image, dtype), jax.random.key(0))
    assert (found.dtype, found.shape) == (jnp.float32, image.shape)

  def test_none_is_done_at_probability_0(self, image):
    without = {name: value for name, value in NEW.items() if name != "erase"}
    found = many(Augmentation(flip=0.0, probability=0.0, **without), image)
    np.testing.assert_allclose(found, np.broadcast_to(image, found.shape), atol=1e-3)

  @pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
      ("flip", (-0.1, 1.1, float("nan")), "a probability, 0 to 1"),
      ("shift", (-1,), "pixels, 0 or more"),
      ("rotation", ((0.0,), (-9.0, 9.0), (9.0, 8.0), (0.0, 181)), "two angles of 0 to 180 degrees, the smaller first"),
      ("scale", ((0.0, 1.0),), "two magnifications of 0.1 to 10, the smaller first"),
      ("crop", ((0.5, 1.5),), "two shares of the area, 0.01 to 1, the smaller first"),
      ("gamma", ((0.0, 1.0),), "two exponents of 0.1 to 10, the smaller first"),
      ("contrast", (1.5,), "a relative change, 0 to 1"),
      ("brightness", (-0.1,), "a relative change, 0 to 1"),
      ("noise", (2.0,), "a variance of 0 to 1, for intensities scaled to 0 to 1"),
      ("erase", (2.0,), "a probability, 0 to 1"),
      ("erase_area", ((0.1, float("nan")),), "two shares of the area, 0 to 1, the smaller first"),
      ("erase_aspect", ((0.0, 1.0),), "two ratios of height to width, 0.01 to 100, the smaller first"),
      ("erase_fill", ("black",), "one of random, mean"),
      ("probability", (1.5,), "a probability, 0 to 1"),
    ],
  )
  def test_out_of_range(self, name, wrong, expected):
    for value in wrong:
      with pytest.raises(ValueError, match=f"^{re.escape(f'augmentation.{name}={value!r}: expected {expected}')}$"):
        Augmentation(**{name: value})


def ramp(height, width):
  """Returns an image whose channels are the row and the column: once warped, it shows where each pixel came from."""
  return np.stack(np.mgrid[:height, :width], axis=-1).astype(np.float32)


def centre_steps(found):
  """Returns what one row down means in the image, as (rows, columns), at the centre of many warped ramps."""
  row, column = found.shape[1] // 2, found.shape[2] // 2
  return found[:, row + 1, column] - found[:, row, column]


class TestDrawnWarp:
  both = Augmentation(flip=0.0, rotation=(30.0, 90.0), scale=(0.5, 2.0))

  def test_angles_lie_in_the_range_to_either_side(self):
    steps = centre_steps(many(self.both, ramp(9, 9)))
    angles = np.degrees(np.arctan2(-steps[:, 1], steps[:, 0]))
    assert 29.9 < np.abs(angles).min() < 32
    assert 88 < np.abs(angles).max() < 90.1
    assert 0.4 < (angles > 0).mean() < 0.6
    assert 55 < np.abs(angles).mean() < 65

  def test_scale_lies_in_the_range_and_either_side_of_1_is_as_likely(self):
    scale = 1 / np.linalg.norm(centre_steps(many(self.both, ramp(9, 9))), axis=1)
    assert 0.49 < scale.min() < 0.52
    assert 1.93 < scale.max() < 2.01
    assert 0.4 < (scale > 1).mean() < 0.6

  def test_done_as_often_as_asked_each_for_itself(self):
    augmentation = Augmentation(flip=0.0, rotation=(30.0, 90.0), scale=(1.5, 2.0), probability=0.4)
    steps = centre_steps(many(augmentation, ramp(9, 9)))
    is_rotated = np.abs(steps[:, 1]) > 1e-3
    is_scaled = np.linalg.norm(steps, axis=1) < 0.99
    assert 0.3 < is_rotated.mean() < 0.5
    assert 0.3 < is_scaled.mean() < 0.5
    assert 0.09 < (is_rotated & is_scaled).mean() < 0.23

  def test_windows_have_their_share_and_lie_anywhere(self):
    found = many(Augmentation(flip=0.0, crop=(0.5, 0.9)), ramp(9, 9))
    side = centre_steps(found)[:, 0]
    assert 0.49 < side.min() ** 2 < 0.52
    assert 0.88 < side.max() ** 2 < 0.91
    # The middle of the window, as a share of how far it can go from the middle of the image.
    places = (found[:, 4, 4] - 4) / ((1 - side) * 4.5)[:, None]
    assert np.all((places.min(axis=0) > -1.001) & (places.min(axis=0) < -0.95))
    assert np.all((places.max(axis=0) < 1.001) & (places.max(axis=0) > 0.95))
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.15


class TestDrawnTone:
  @pytest.mark.parametrize(
    ("settings", "other", "low", "middle", "high"),
    [
      ({"gamma": (0.5, 2.0)}, 0, 64.25, 128, 180.67),  # 128 / 255 to the power of 2, 1 and 1 / 2
      ({"brightness": 0.3}, 0, 89.6, 128, 166.4),
      ({"contrast": 0.3}, 72, 119.6, 128, 136.4),  # the mean is 100
    ],
  )
  def test_drawn_within_the_range(self, settings, other, low, middle, high):
    image = np.array([128, other], np.uint8).reshape(2, 1, 1)
    found = many(Augmentation(flip=0.0, **settings), image)[:, 0, 0, 0]
    reach = high - low
    assert low - 0.01 < found.min() < low + 0.05 * reach
    assert high - 0.05 * reach < found.max() < high + 0.01
    assert 0.4 < (found > middle).mean() < 0.6

  def test_noise_is_done_as_often_as_asked(self):
    found = many(Augmentation(flip=0.0, noise=0.001, probability=0.3), np.full((4, 4, 1), 128, np.uint8))
    changed = found != 128
    assert set(changed.mean(axis=(1, 2, 3))) == {0.0, 1.0}
    done = changed[:, 0, 0, 0]
    assert 0.2 < done.mean() < 0.4
    assert len(np.unique(found[done].reshape(done.sum(), -1), axis=0)) == done.sum()  # no two images have the same


class TestDrawnErasure:
  half = Augmentation(flip=0.5, erase=0.5, erase_area=(0.1, 0.3))
  image = np.where(np.arange(20) < 10, 60, 50).astype(np.uint8) * np.ones((20, 1), np.uint8)

  def test_as_often_as_asked_whatever_the_flip_and_the_share_lies_in_the_range(self):
    found = many(self.half, self.image[..., None])
    share = (~np.isin(found, (50, 60))).mean(axis=(1, 2, 3))
    done = share > 0
    assert 0.4 < done.mean() < 0.6
    assert 0.08 < share[done].min() < 0.12
    assert 0.28 < share.max() < 0.32
    flipped = (found[:, :, :10] == 50).sum(axis=(1, 2, 3)) > (found[:, :, 10:] == 50).sum(axis=(1, 2, 3))
    assert 0.15 < (done & flipped).mean() < 0.35

  def test_aspects_lie_in_the_range_whatever_the_area(self):
    changed = ~np.isin(many(self.half, self.image[..., None])[..., 0], (50, 60))
    changed = changed[changed.any(axis=(1, 2))]
    rows, columns = (changed.any(axis=axis).sum(axis=1) for axis in (2, 1))
    logarithm = np.log(rows / columns)
    assert -1.5 < logarithm.min() < -1.0
    assert 1.0 < logarithm.max() < 1.5
    assert abs(logarithm.mean()) < 0.2
    assert abs(np.corrcoef(logarithm, changed.mean(axis=(1, 2)))[0, 1]) < 0.25

  def test_random_fill_is_uniform(self):
    found = many(self.half, self.image[..., None])
    filled = found[~np.isin(found, (50, 60))]
    np.testing.assert_allclose(np.histogram(filled, 5, (0, 255))[0] / filled.size, 0.2, atol=0.02)

  def test_mean_fill_is_each_channels(self):
    image = np.random.default_rng(0).integers(0, 256, (10, 10, 3), np.uint8)
    augmentation = Augmentation(flip=0.0, erase=1.0, erase_area=(0.2, 0.2), erase_fill="mean")
    for found in many(augmentation, image)[:20]:
      changed = (found != image).all(axis=-1)
      assert 0.15 < changed.mean() < 0.25
      mean = np.broadcast_to(image.mean(axis=(0, 1)), found[changed].shape)
      np.testing.assert_allclose(found[changed], mean, atol=0.01)


class TestStandardize:
  def test_mean_and_standard_deviation(self):
    image = np.random.default_rng(0).integers(0, 256, (3, H, W, 2), np.uint8)
    found = standardize(jnp.asarray(image))
    assert found.dtype == jnp.float32
    exact = image.astype(float)
    mean, deviation = (f(exact, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    np.testing.assert_allclose(found, (exact - mean) / deviation, atol=1e-5)

  @pytest.mark.parametrize("level", [0, 128, 255])
  def test_a_constant_image_becomes_zeros(self, level):
    np.testing.assert_allclose(standardize(jnp.full((2, H, W, 1), level, jnp.uint8)), 0, atol=1e-4)

  def test_noise_below_a_grey_level_is_not_blown_up(self):
    image = np.full((1, H, W, 1), 100, np.uint8)
    image[0, 0, 0] = 101
    assert np.abs(standardize(jnp.asarray(image))).max() <= 1

  def test_images_do_not_mix(self):
    image = np.random.default_rng(0).integers(0, 256, (2, H, W, 1), np.uint8)
    np.testing.assert_allclose(standardize(jnp.asarray(image))[:1], standardize(jnp.asarray(image[:1])), atol=1e-6)
