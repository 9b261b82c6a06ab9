import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.augment import Augmentation, shifted, standardize

H, W = 6, 5


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
  @pytest.mark.parametrize("largest", [1, 3])
  def test_equals_padding_and_slicing_for_every_offset(self, image, largest):
    padded = np.pad(image, ((largest, largest), (largest, largest), (0, 0)), mode="edge")
    move = jax.jit(shifted, static_argnums=2)
    for down in range(-largest, largest + 1):
      for right in range(-largest, largest + 1):
        top, left = largest - down, largest - right
        found = move(image, jnp.array([down, right]), largest)
        np.testing.assert_array_equal(found, padded[top : top + H, left : left + W])

  def test_moves_down_and_right(self):
    dot = np.zeros((H, W, 1))
    dot[2, 2] = 1
    moved = np.asarray(shifted(dot, jnp.array([1, -2]), 2))[..., 0]
    assert np.argwhere(moved).tolist() == [[3, 0]]

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

  @pytest.mark.parametrize("wrong", [{"flip": -0.1}, {"flip": 1.1}, {"flip": float("nan")}, {"shift": -1}])
  def test_out_of_range(self, wrong):
    with pytest.raises(ValueError, match=rf"augmentation\.{next(iter(wrong))}="):
      Augmentation(**wrong)


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
