import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fer_jax.data.augment import cropped, rotated, shifted, warped, zoomed


class TestShift:
  @pytest.mark.parametrize("largest", [1, 3])
  def test_equals_padding_and_slicing_for_every_offset(self, largest):
    image = np.arange(60, dtype=np.uint8).reshape(6, 5, 2)
    padded = np.pad(image, ((largest, largest), (largest, largest), (0, 0)), mode="edge")
    move = jax.jit(shifted, static_argnums=2)
    for down in range(-largest, largest + 1):
      for right in range(-largest, largest + 1):
        top, left = largest - down, largest - right
        found = move(image, jnp.array([down, right]), largest)
        np.testing.assert_array_equal(found, padded[top : top + 6, left : left + 5])

  def test_moves_down_and_right(self):
    dot = np.zeros((6, 5, 1))
    dot[2, 2] = 1
    moved = np.asarray(shifted(dot, jnp.array([1, -2]), 2))[..., 0]
    assert np.argwhere(moved).tolist() == [[3, 0]]


def ramp(height, width):
  """Returns an image whose channels are the row and the column: once warped, it shows where each pixel came from."""
  return np.stack(np.mgrid[:height, :width], axis=-1).astype(np.float32)


@jax.jit
def _warps(image, degrees, zoom, share, place):
  return jax.vmap(warped, (None, 0, 0, 0, 0))(image, degrees, zoom, share, place)


class TestWarp:
  @pytest.mark.parametrize("size", [6, 7])
  def test_quarter_turns_equal_rot90(self, size):
    image = np.random.default_rng(size).integers(0, 256, (size, size, 2), np.uint8)
    turned = jax.jit(jax.vmap(rotated, (None, 0)))(image, jnp.arange(-1.0, 4.0) * 90)
    for turns, found in enumerate(turned, start=-1):
      np.testing.assert_allclose(found, np.rot90(image, turns).astype(np.float32), atol=0.01)

  def test_equals_scipy(self):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 7, 2), np.uint8)
    degrees, zoom, share, place = (
      rng.uniform(low, high, shape).astype(np.float32)
      for low, high, shape in [(-180, 180, 20), (0.5, 2, 20), (0.3, 1, 20), (-1, 1, (20, 2))]
    )
    found = _warps(image, degrees, zoom, share, place)
    size = np.array(image.shape[:2])
    middle = (size - 1) / 2
    for row in range(len(found)):
      angle, side = np.deg2rad(degrees[row]), np.sqrt(share[row])
      turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom[row]
      matrix = turn * side
      offset = middle + turn @ (place[row] * (1 - side) * size / 2) - matrix @ middle
      for channel in range(2):
        expected = ndimage.affine_transform(
          image[..., channel].astype(float), matrix, offset, order=1, mode="nearest", prefilter=False
        )
        np.testing.assert_allclose(found[row, ..., channel], expected, atol=0.01)

  def test_neutral_is_the_image_to_the_bit(self):
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 1), np.uint8)
    one, anywhere = np.ones(3, np.float32), np.array([[-1, 1], [0, 0], [0.3, -0.7]], np.float32)
    for found in _warps(image, 0 * one, one, one, anywhere):
      np.testing.assert_array_equal(found, image)

  def test_zoom_magnifies_the_middle_and_below_1_repeats_the_border(self):
    halved, doubled = jax.jit(jax.vmap(zoomed, (None, 0)))(ramp(9, 9), jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(halved[:, 0, 0], [0, 0, 0, 2, 4, 6, 8, 8, 8], atol=1e-5)
    np.testing.assert_allclose(doubled[:, 0, 0], np.linspace(2, 6, 9), atol=1e-5)
    np.testing.assert_allclose(doubled[0, :, 1], np.linspace(2, 6, 9), atol=1e-5)

  def test_a_quarter_of_the_area_is_a_window_of_half_the_sides(self):
    places = jnp.array([(-1, -1), (1, 1), (0, 0), (-1, 1)], float)
    found = jax.jit(jax.vmap(cropped, (None, None, 0)))(ramp(8, 6), 0.25, places)
    for one, top, left in zip(found, (0, 4, 2, 0), (0, 3, 1.5, 3), strict=True):
      # Pixel i covers i to i + 1: the middle of the first half-sized one is a quarter in.
      np.testing.assert_allclose(one[:, 0, 0], np.clip(top + np.arange(8) / 2 - 0.25, 0, 7), atol=1e-5)
      np.testing.assert_allclose(one[0, :, 1], np.clip(left + np.arange(6) / 2 - 0.25, 0, 5), atol=1e-5)
