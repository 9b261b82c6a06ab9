import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fer_jax.data.augment import Augmentation, cropped, rotated, shifted, warped, zoomed
from tests.data.augment_test import augmented


class TestShifted:
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

  def test_offset_is_rows_down_and_columns_right(self):
    dot = np.zeros((6, 5, 1))
    dot[2, 2] = 1
    moved = np.asarray(shifted(dot, jnp.array([1, -2]), 2))[..., 0]
    assert np.argwhere(moved).tolist() == [[3, 0]]


def ramp(height, width):
  """Returns an image whose channels are the row and column index, so that a warp shows each pixel's source."""
  return np.stack(np.mgrid[:height, :width], axis=-1).astype(np.float32)


@jax.jit
def _warped_images(image, degrees, zoom, share, position):
  return jax.vmap(warped, (None, 0, 0, 0, 0))(image, degrees, zoom, share, position)


class TestWarped:
  @pytest.mark.parametrize("size", [6, 7])
  def test_rotation_by_multiples_of_90_degrees_equals_rot90(self, size):
    image = np.random.default_rng(size).integers(0, 256, (size, size, 2), np.uint8)
    rotations = jax.jit(jax.vmap(rotated, (None, 0)))(image, jnp.arange(-1.0, 4.0) * 90)
    for turns, found in enumerate(rotations, start=-1):
      np.testing.assert_allclose(found, np.rot90(image, turns).astype(np.float32), atol=0.01)

  def test_equals_affine_transform_of_scipy(self):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 7, 2), np.uint8)
    degrees, zoom, share, position = (
      rng.uniform(low, high, shape).astype(np.float32)
      for low, high, shape in [(-180, 180, 20), (0.5, 2, 20), (0.3, 1, 20), (-1, 1, (20, 2))]
    )
    found = _warped_images(image, degrees, zoom, share, position)
    size = np.array(image.shape[:2])
    middle = (size - 1) / 2
    for row in range(len(found)):
      angle, side = np.deg2rad(degrees[row]), np.sqrt(share[row])
      turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom[row]
      matrix = turn * side
      offset = middle + turn @ (position[row] * (1 - side) * size / 2) - matrix @ middle
      for channel in range(2):
        expected = ndimage.affine_transform(
          image[..., channel].astype(float), matrix, offset, order=1, mode="nearest", prefilter=False
        )
        np.testing.assert_allclose(found[row, ..., channel], expected, atol=0.01)

  def test_neutral_parameters_return_the_image_exactly(self):
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 1), np.uint8)
    one, anywhere = np.ones(3, np.float32), np.array([[-1, 1], [0, 0], [0.3, -0.7]], np.float32)
    for found in _warped_images(image, 0 * one, one, one, anywhere):
      np.testing.assert_array_equal(found, image)

  def test_zoom_is_about_the_centre_and_repeats_the_border_below_1(self):
    halved, doubled = jax.jit(jax.vmap(zoomed, (None, 0)))(ramp(9, 9), jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(halved[:, 0, 0], [0, 0, 0, 2, 4, 6, 8, 8, 8], atol=1e-5)
    np.testing.assert_allclose(doubled[:, 0, 0], np.linspace(2, 6, 9), atol=1e-5)
    np.testing.assert_allclose(doubled[0, :, 1], np.linspace(2, 6, 9), atol=1e-5)

  def test_window_of_a_quarter_of_the_area_has_half_the_side_lengths(self):
    positions = jnp.array([(-1, -1), (1, 1), (0, 0), (-1, 1)], float)
    found = jax.jit(jax.vmap(cropped, (None, None, 0)))(ramp(8, 6), 0.25, positions)
    for one, top, left in zip(found, (0, 4, 2, 0), (0, 3, 1.5, 3), strict=True):
      # Pixel i covers the interval i to i + 1, so the centre of the first half-sized pixel is at 0.25.
      np.testing.assert_allclose(one[:, 0, 0], np.clip(top + np.arange(8) / 2 - 0.25, 0, 7), atol=1e-5)
      np.testing.assert_allclose(one[0, :, 1], np.clip(left + np.arange(6) / 2 - 0.25, 0, 5), atol=1e-5)


def source_steps(found):
  """Returns the step (rows, columns) in the source image of one row down, at the centre of warped ramps."""
  row, column = found.shape[1] // 2, found.shape[2] // 2
  return found[:, row + 1, column] - found[:, row, column]


class TestRandomWarp:
  both = Augmentation(flip=0.0, rotation=(30.0, 90.0), scale=(0.5, 2.0))

  def test_angles_cover_the_range_in_both_directions(self):
    steps = source_steps(augmented(self.both, ramp(9, 9)))
    angles = np.degrees(np.arctan2(-steps[:, 1], steps[:, 0]))
    assert 29.9 < np.abs(angles).min() < 32
    assert 88 < np.abs(angles).max() < 90.1
    assert 0.4 < (angles > 0).mean() < 0.6
    assert 55 < np.abs(angles).mean() < 65

  def test_scales_cover_the_range_symmetrically_about_1(self):
    scale = 1 / np.linalg.norm(source_steps(augmented(self.both, ramp(9, 9))), axis=1)
    assert 0.49 < scale.min() < 0.52
    assert 1.93 < scale.max() < 2.01
    assert 0.4 < (scale > 1).mean() < 0.6

  def test_rotation_and_scale_are_applied_independently_of_each_other(self):
    augmentation = Augmentation(flip=0.0, rotation=(30.0, 90.0), scale=(1.5, 2.0), probability=0.4)
    steps = source_steps(augmented(augmentation, ramp(9, 9)))
    is_rotated = np.abs(steps[:, 1]) > 1e-3
    is_scaled = np.linalg.norm(steps, axis=1) < 0.99
    assert 0.3 < is_rotated.mean() < 0.5
    assert 0.3 < is_scaled.mean() < 0.5
    assert 0.09 < (is_rotated & is_scaled).mean() < 0.23

  def test_crop_windows_cover_the_range_of_areas_and_all_positions(self):
    found = augmented(Augmentation(flip=0.0, crop=(0.5, 0.9)), ramp(9, 9))
    side = source_steps(found)[:, 0]
    assert 0.49 < side.min() ** 2 < 0.52
    assert 0.88 < side.max() ** 2 < 0.91
    # Offset of the window's centre from the image's centre, relative to the largest possible offset.
    positions = (found[:, 4, 4] - 4) / ((1 - side) * 4.5)[:, None]
    assert np.all((positions.min(axis=0) > -1.001) & (positions.min(axis=0) < -0.95))
    assert np.all((positions.max(axis=0) < 1.001) & (positions.max(axis=0) > 0.95))
    assert abs(np.corrcoef(positions.T)[0, 1]) < 0.15
