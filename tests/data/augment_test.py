import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.augment import (
  Augmentation,
  brightened,
  contrasted,
  erased,
  gamma_corrected,
  noised,
  shifted,
  standardize,
)

H, W = 6, 5
NUM_DRAWS = 400
# Every operation whose result is float32, with settings for it.
FLOAT_OPERATIONS = {
  "rotation": (10.0, 30.0),
  "scale": (0.8, 1.2),
  "crop": (0.5, 1.0),
  "gamma": (0.5, 2.0),
  "contrast": 0.5,
  "brightness": 0.5,
  "noise": 0.001,
  "erase": 0.5,
}


@pytest.fixture
def image():
  return np.arange(H * W * 2, dtype=np.uint8).reshape(H, W, 2)


@functools.partial(jax.jit, static_argnums=0)
def _augmented(augmentation, image, seed):
  return jax.vmap(augmentation, (None, 0))(image, jax.random.split(jax.random.key(seed), NUM_DRAWS))


def augmented(augmentation, image, seed=0):
  """Returns NUM_DRAWS augmented copies of an image, each with its own key."""
  return np.asarray(_augmented(augmentation, image, seed))


class TestFlip:
  def test_probability_1_always_flips(self, image):
    flipped = jax.jit(Augmentation(flip=1.0))(image, jax.random.key(0))
    np.testing.assert_array_equal(flipped, np.flip(image, axis=1))

  def test_flip_is_its_own_inverse(self, image):
    flip = jax.jit(Augmentation(flip=1.0))
    np.testing.assert_array_equal(flip(flip(image, jax.random.key(0)), jax.random.key(1)), image)

  def test_probability_0_never_flips(self, image):
    np.testing.assert_array_equal(Augmentation(flip=0.0)(image, jax.random.key(0)), image)

  def test_frequency_matches_the_probability(self, image):
    found = augmented(Augmentation(flip=0.25), image)
    is_flipped = (found == np.flip(image, axis=1)).all(axis=(1, 2, 3))
    is_same = (found == image).all(axis=(1, 2, 3))
    assert np.all(is_flipped ^ is_same)
    assert 0.15 < is_flipped.mean() < 0.35


class TestRandomShift:
  def test_offsets_cover_exactly_the_range(self):
    dot = np.zeros((H, W, 1))
    dot[2, 2] = 1
    found = augmented(Augmentation(flip=0.0, shift=1), dot)[..., 0]
    offsets = {tuple(np.argwhere(one)[0] - 2) for one in found}
    assert offsets == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


class TestAugmentation:
  def test_key_determines_the_result_and_every_outcome_occurs(self, image):
    augmentation = Augmentation(flip=0.5, shift=2)
    first = augmented(augmentation, image)
    np.testing.assert_array_equal(augmented(augmentation, image), first)
    assert np.any(augmented(augmentation, image, seed=1) != first)
    assert len(np.unique(first.reshape(NUM_DRAWS, -1), axis=0)) == 50  # 2 orientations x 25 offsets

  def test_rows_of_a_batch_are_independent(self, image):
    augmentation = Augmentation(flip=0.5, shift=2)
    batch = augmented(augmentation, image)
    alone = jax.jit(augmentation)
    for row, key in enumerate(jax.random.split(jax.random.key(0), NUM_DRAWS)[:5]):
      np.testing.assert_array_equal(alone(image, key), batch[row])

  @pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.bfloat16])
  def test_keeps_dtype_and_shape(self, image, dtype):
    found = jax.eval_shape(Augmentation(flip=0.5, shift=2), jnp.asarray(image, dtype), jax.random.key(0))
    assert (found.dtype, found.shape) == (dtype, image.shape)

  def test_flip_and_shift_alone_trace_to_the_reference_program(self, image):
    def reference(image, key):
      flip_key, shift_key = jax.random.split(key)
      image = jnp.where(jax.random.bernoulli(flip_key, 0.5), image[:, ::-1], image)
      return shifted(image, jax.random.randint(shift_key, (2,), -2, 3), 2)

    programs = [jax.make_jaxpr(f)(image, jax.random.key(0)) for f in (Augmentation(flip=0.5, shift=2), reference)]
    assert str(programs[0]) == str(programs[1])

  def test_other_operations_do_not_change_the_draws_of_flip_and_shift(self, image):
    alone = augmented(Augmentation(flip=0.5, shift=2), image)
    with_others = augmented(Augmentation(flip=0.5, shift=2, brightness=1e-6, noise=1e-12), image)
    np.testing.assert_allclose(with_others, alone, atol=0.01)

  def test_all_operations_together_stay_in_range_and_depend_on_the_key(self, image):
    augmentation = Augmentation(flip=0.5, shift=2, **FLOAT_OPERATIONS)
    bright = image * 4
    first = augmented(augmentation, bright)
    assert first.dtype == np.float32
    assert (first.min(), first.max()) == (0, 255)
    np.testing.assert_array_equal(augmented(augmentation, bright), first)
    assert len(np.unique(first.reshape(NUM_DRAWS, -1), axis=0)) == NUM_DRAWS

  @pytest.mark.parametrize("operation", FLOAT_OPERATIONS)
  @pytest.mark.parametrize("dtype", [jnp.uint8, jnp.bfloat16])
  def test_other_operations_return_float32(self, image, operation, dtype):
    augmentation = Augmentation(**{operation: FLOAT_OPERATIONS[operation]})
    found = jax.eval_shape(augmentation, jnp.asarray(image, dtype), jax.random.key(0))
    assert (found.dtype, found.shape) == (jnp.float32, image.shape)

  def test_probability_0_applies_no_operation(self, image):
    without = {name: value for name, value in FLOAT_OPERATIONS.items() if name != "erase"}
    found = augmented(Augmentation(flip=0.0, probability=0.0, **without), image)
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
  def test_rejects_settings_out_of_range(self, name, wrong, expected):
    for value in wrong:
      with pytest.raises(ValueError, match=f"^{re.escape(f'augmentation.{name}={value!r}: expected {expected}')}$"):
        Augmentation(**{name: value})


class TestRandomTone:
  @pytest.mark.parametrize(
    ("settings", "other", "low", "middle", "high"),
    [
      ({"gamma": (0.5, 2.0)}, 0, 64.25, 128, 180.67),  # 128 / 255 to the power of 2, 1 and 1 / 2
      ({"brightness": 0.3}, 0, 89.6, 128, 166.4),
      ({"contrast": 0.3}, 72, 119.6, 128, 136.4),  # the mean is 100
    ],
  )
  def test_draws_cover_the_range(self, settings, other, low, middle, high):
    image = np.array([128, other], np.uint8).reshape(2, 1, 1)
    found = augmented(Augmentation(flip=0.0, **settings), image)[:, 0, 0, 0]
    spread = high - low
    assert low - 0.01 < found.min() < low + 0.05 * spread
    assert high - 0.05 * spread < found.max() < high + 0.01
    assert 0.4 < (found > middle).mean() < 0.6

  def test_noise_frequency_matches_the_probability(self):
    found = augmented(Augmentation(flip=0.0, noise=0.001, probability=0.3), np.full((4, 4, 1), 128, np.uint8))
    changed = found != 128
    assert set(changed.mean(axis=(1, 2, 3))) == {0.0, 1.0}
    done = changed[:, 0, 0, 0]
    assert 0.2 < done.mean() < 0.4
    # No two images have the same noise.
    assert len(np.unique(found[done].reshape(done.sum(), -1), axis=0)) == done.sum()


class TestRandomErasing:
  half = Augmentation(flip=0.5, erase=0.5, erase_area=(0.1, 0.3))
  image = np.where(np.arange(20) < 10, 60, 50).astype(np.uint8) * np.ones((20, 1), np.uint8)

  def test_frequency_is_independent_of_the_flip_and_areas_cover_the_range(self):
    found = augmented(self.half, self.image[..., None])
    share = (~np.isin(found, (50, 60))).mean(axis=(1, 2, 3))
    done = share > 0
    assert 0.4 < done.mean() < 0.6
    assert 0.08 < share[done].min() < 0.12
    assert 0.28 < share.max() < 0.32
    flipped = (found[:, :, :10] == 50).sum(axis=(1, 2, 3)) > (found[:, :, 10:] == 50).sum(axis=(1, 2, 3))
    assert 0.15 < (done & flipped).mean() < 0.35

  def test_aspect_ratios_cover_the_range_independently_of_the_area(self):
    changed = ~np.isin(augmented(self.half, self.image[..., None])[..., 0], (50, 60))
    changed = changed[changed.any(axis=(1, 2))]
    rows, columns = (changed.any(axis=axis).sum(axis=1) for axis in (2, 1))
    logarithm = np.log(rows / columns)
    assert -1.5 < logarithm.min() < -1.0
    assert 1.0 < logarithm.max() < 1.5
    assert abs(logarithm.mean()) < 0.2
    assert abs(np.corrcoef(logarithm, changed.mean(axis=(1, 2)))[0, 1]) < 0.25

  def test_random_fill_is_uniform(self):
    found = augmented(self.half, self.image[..., None])
    filled = found[~np.isin(found, (50, 60))]
    np.testing.assert_allclose(np.histogram(filled, 5, (0, 255))[0] / filled.size, 0.2, atol=0.02)

  def test_mean_fill_is_the_mean_of_each_channel(self):
    image = np.random.default_rng(0).integers(0, 256, (10, 10, 3), np.uint8)
    augmentation = Augmentation(flip=0.0, erase=1.0, erase_area=(0.2, 0.2), erase_fill="mean")
    for found in augmented(augmentation, image)[:20]:
      changed = (found != image).all(axis=-1)
      assert 0.15 < changed.mean() < 0.25
      mean = np.broadcast_to(image.mean(axis=(0, 1)), found[changed].shape)
      np.testing.assert_allclose(found[changed], mean, atol=0.01)


class TestStandardize:
  def test_subtracts_the_mean_and_divides_by_the_standard_deviation(self):
    image = np.random.default_rng(0).integers(0, 256, (3, H, W, 2), np.uint8)
    found = standardize(jnp.asarray(image))
    assert found.dtype == jnp.float32
    exact = image.astype(float)
    mean, deviation = (f(exact, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    np.testing.assert_allclose(found, (exact - mean) / deviation, atol=1e-5)

  @pytest.mark.parametrize("level", [0, 128, 255])
  def test_constant_image_becomes_zeros(self, level):
    np.testing.assert_allclose(standardize(jnp.full((2, H, W, 1), level, jnp.uint8)), 0, atol=1e-4)

  def test_noise_below_one_grey_level_is_not_amplified(self):
    image = np.full((1, H, W, 1), 100, np.uint8)
    image[0, 0, 0] = 101
    assert np.abs(standardize(jnp.asarray(image))).max() <= 1

  def test_images_are_standardized_independently(self):
    image = np.random.default_rng(0).integers(0, 256, (2, H, W, 1), np.uint8)
    np.testing.assert_allclose(standardize(jnp.asarray(image))[:1], standardize(jnp.asarray(image[:1])), atol=1e-6)


class TestTone:
  image = np.array([0, 51, 102, 255], np.uint8).reshape(2, 2, 1)

  @pytest.mark.parametrize(
    ("function", "amount", "expected"),
    [
      (gamma_corrected, 2.0, [0, 10.2, 40.8, 255]),
      (gamma_corrected, 0.5, [0, 114.0395, 161.2762, 255]),
      (contrasted, 0.5, [-51, 25.5, 102, 331.5]),
      (contrasted, -1.0, [102, 102, 102, 102]),
      (brightened, 0.5, [0, 76.5, 153, 382.5]),
      (brightened, -1.0, [0, 0, 0, 0]),
    ],
  )
  def test_known_intensities(self, function, amount, expected):
    found = function(self.image, amount)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(np.ravel(found), expected, atol=1e-3)

  def test_neutral_amounts_keep_the_image(self):
    image = self.image.astype(np.float32)
    neutral = [gamma_corrected(image, 1.0), contrasted(image, 0.0), brightened(image, 0.0)]
    for found in [*neutral, noised(image, 0.0, jax.random.key(0))]:
      np.testing.assert_allclose(found, image, atol=1e-3)

  def test_noise_has_the_requested_variance(self):
    grey = np.full((100, 100, 3), 128, np.uint8)
    noise = (np.asarray(noised(grey, 0.001, jax.random.key(0))) - 128) / 255
    assert abs(noise.mean()) < 0.001
    assert 0.00095 < noise.var() < 0.00105
    assert abs(np.corrcoef(noise.reshape(-1, 3).T)[0, 1]) < 0.05


@jax.jit
def _erased_images(image, area, aspect, position):
  return jax.vmap(erased, (None, 0, 0, 0, None))(image, area, aspect, position, jnp.ones_like(image))


class TestErased:
  def test_rectangles_have_the_requested_area_aspect_ratio_and_position(self):
    rng = np.random.default_rng(0)
    height, width = 40, 30
    area, aspect = rng.uniform(0.02, 0.4, 200), rng.uniform(0.3, 3.3, 200)
    position = rng.uniform(0, 1, (200, 2))
    found = np.asarray(_erased_images(np.zeros((height, width, 1), np.uint8), area, aspect, position))[..., 0]
    for one, share, ratio, (top, left) in zip(found, area, aspect, position, strict=True):
      inside = np.argwhere(one)
      (first_row, first_column), (last_row, last_column) = inside.min(axis=0), inside.max(axis=0)
      rows, columns = last_row - first_row + 1, last_column - first_column + 1
      assert one.sum() == rows * columns  # a filled rectangle
      assert abs(one.sum() - share * height * width) <= max(rows, columns) / 2 + 0.01
      tallest, widest = min(np.sqrt(share * height * width * ratio), height), np.sqrt(share * height * width / ratio)
      assert abs(rows - (tallest if widest <= width else share * height)) <= 0.51
      assert abs(first_row - top * (height - rows)) <= 1
      assert abs(first_column - left * (width - columns)) <= 1

  def test_erases_no_pixels_all_pixels_or_a_corner(self):
    area = np.array([0.0, 1.0, 0.25, 0.25])
    position = np.array([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0], [1.0, 1.0]])
    found = np.asarray(_erased_images(np.zeros((6, 6, 1), np.uint8), area, np.ones(4), position))[..., 0]
    assert found.sum(axis=(1, 2)).tolist() == [0, 36, 9, 9]
    assert found[2, :3, :3].all()
    assert found[3, 3:, 3:].all()
