import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.augment import brightened, contrasted, erased, gamma_corrected, noised


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

  def test_neutral_is_the_image(self):
    image = self.image.astype(np.float32)
    neutral = [gamma_corrected(image, 1.0), contrasted(image, 0.0), brightened(image, 0.0)]
    for found in [*neutral, noised(image, 0.0, jax.random.key(0))]:
      np.testing.assert_allclose(found, image, atol=1e-3)

  def test_noise_has_the_variance_asked_for(self):
    grey = np.full((100, 100, 3), 128, np.uint8)
    noise = (np.asarray(noised(grey, 0.001, jax.random.key(0))) - 128) / 255
    assert abs(noise.mean()) < 0.001
    assert 0.00095 < noise.var() < 0.00105
    assert abs(np.corrcoef(noise.reshape(-1, 3).T)[0, 1]) < 0.05


@jax.jit
def _erasures(image, area, aspect, place):
  return jax.vmap(erased, (None, 0, 0, 0, None))(image, area, aspect, place, jnp.ones_like(image))


class TestErase:
  def test_rectangles_have_their_area_aspect_and_place(self):
    rng = np.random.default_rng(0)
    height, width = 40, 30
    area, aspect = rng.uniform(0.02, 0.4, 200), rng.uniform(0.3, 3.3, 200)
    place = rng.uniform(0, 1, (200, 2))
    found = np.asarray(_erasures(np.zeros((height, width, 1), np.uint8), area, aspect, place))[..., 0]
    for one, share, ratio, (top, left) in zip(found, area, aspect, place, strict=True):
      inside = np.argwhere(one)
      (first_row, first_column), (last_row, last_column) = inside.min(axis=0), inside.max(axis=0)
      rows, columns = last_row - first_row + 1, last_column - first_column + 1
      assert one.sum() == rows * columns  # a rectangle
      assert abs(one.sum() - share * height * width) <= max(rows, columns) / 2 + 0.01
      tallest, widest = min(np.sqrt(share * height * width * ratio), height), np.sqrt(share * height * width / ratio)
      assert abs(rows - (tallest if widest <= width else share * height)) <= 0.51
      assert abs(first_row - top * (height - rows)) <= 1
      assert abs(first_column - left * (width - columns)) <= 1

  def test_nothing_everything_and_the_corners(self):
    area = np.array([0.0, 1.0, 0.25, 0.25])
    place = np.array([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0], [1.0, 1.0]])
    found = np.asarray(_erasures(np.zeros((6, 6, 1), np.uint8), area, np.ones(4), place))[..., 0]
    assert found.sum(axis=(1, 2)).tolist() == [0, 36, 9, 9]
    assert found[2, :3, :3].all()
    assert found[3, 3:, 3:].all()
