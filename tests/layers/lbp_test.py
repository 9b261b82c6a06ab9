"""Local binary patterns: comparison with integer arithmetic and with scikit-image, and invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.augment import standardize
from fer_jax.layers.lbp import METHODS, largest_code, local_binary_pattern

CIRCLES = [(8, 1.0), (8, 2.0), (16, 2.0), (12, 1.5), (5, 2.7), (24, 3.0)]
IMAGE = np.random.default_rng(0).integers(0, 256, (19, 23), dtype=np.uint8)
IMAGES = np.random.default_rng(1).integers(0, 256, (3, 12, 11, 2), dtype=np.uint8)
IMAGES[0, 3:9, 2:8] = 77  # constant areas, and edges between two values: ties
IMAGES[1] = IMAGES[1] // 64 * 40


def signs(image, neighbours, radius, outside=0):
  """Returns the bits [P, H, W], compared exactly: weights times 10^10 are integers."""
  height, width = image.shape
  reach = int(np.ceil(radius)) + 1
  padded = np.pad(image.astype(np.int64), reach, constant_values=outside)
  bits = np.zeros((neighbours, height, width), np.int64)
  for p in range(neighbours):
    angle = 2 * np.pi * p / neighbours
    across, up = (round(100_000 * round(radius * f(angle), 5)) for f in (np.cos, np.sin))
    (row, below), (column, right) = divmod(-up, 100_000), divmod(across, 100_000)
    total = np.zeros_like(bits[0])
    for i, weight_y in ((row, 100_000 - below), (row + 1, below)):
      for j, weight_x in ((column, 100_000 - right), (column + 1, right)):
        total += weight_y * weight_x * padded[reach + i :, reach + j :][:height, :width]
    bits[p] = total >= 10**10 * image.astype(np.int64)
  return bits


def code(word, method):
  """Returns the code of one pattern, by its definition."""
  count, ones = len(word), sum(word)
  rotations = [word[p:] + word[:p] for p in range(count)]
  numbers = [sum(bit << p for p, bit in enumerate(rotation)) for rotation in rotations]
  if method in ("default", "ror"):
    return numbers[0] if method == "default" else min(numbers)
  uniform = (1,) * ones + (0,) * (count - ones) in rotations
  if method == "uniform":
    return ones if uniform else count + 1
  if not uniform:
    return count * (count - 1) + 2
  if ones in (0, count):
    return 0 if ones == 0 else count * (count - 1) + 1
  return 1 + (ones - 1) * count + (count - rotations.index((1,) * ones + (0,) * (count - ones))) % count


def reference(image, neighbours, radius, method, outside=0):
  words = signs(image, neighbours, radius, outside).reshape(neighbours, -1).T
  cached_code = functools.cache(lambda word: code(word, method))
  return np.array([cached_code(tuple(map(int, word))) for word in words]).reshape(image.shape)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("neighbours", "radius"), CIRCLES)
def test_equals_integer_arithmetic(neighbours, radius, method):
  found = local_binary_pattern(IMAGE, neighbours, radius, method)
  assert (found.shape, found.dtype) == (IMAGE.shape, jnp.uint32)
  np.testing.assert_array_equal(found, reference(IMAGE, neighbours, radius, method))
  assert found.max() <= largest_code(neighbours, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("neighbours", "radius"), CIRCLES)
def test_equals_scikit_image(neighbours, radius, method):
  feature = pytest.importorskip("skimage.feature", reason="scikit-image, of the extra `dev`, is not installed")
  expected = feature.local_binary_pattern(IMAGE, neighbours, radius, method)
  np.testing.assert_array_equal(local_binary_pattern(IMAGE, neighbours, radius, method), expected)


def test_each_uniform_pattern_has_its_own_code_and_the_others_share_one():
  # Neighbours of the centre of 3x3 pixels, counter-clockwise from the right.
  around = [(1, 2), (0, 2), (0, 1), (0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]
  words = list(np.ndindex((2,) * 8))
  images = np.ones((256, 9, 9, 1), np.uint8)
  images[:, 4, 4] = 100
  for p, (row, column) in enumerate(around):
    images[:, 3 + row, 3 + column, 0] = 200 * np.array(words)[:, p]
  middle = {method: np.asarray(local_binary_pattern(images, 8, 1.0, method))[:, 4, 4, 0] for method in METHODS}
  # A corner is interpolated with weights 0.50 (corner), 0.21 (each side) and 0.09 (centre): with values of 1, 100
  # and 200, the corner alone determines its bit.
  for method in METHODS:
    assert middle[method].tolist() == [code(word, method) for word in words]
  # Ojala et al.: 58 of the 256 patterns are uniform, and 36 are distinct up to rotation.
  counts = {method: len(set(codes.tolist())) for method, codes in middle.items()}
  assert counts == {"default": 256, "ror": 36, "uniform": 10, "nri_uniform": 59}
  assert all(codes.max() == largest_code(8, method) for method, codes in middle.items())


@pytest.mark.parametrize("outside", [0.0, None])
def test_computes_each_image_and_channel_separately(outside):
  found = local_binary_pattern(IMAGES, 12, 1.5, "nri_uniform", outside)
  assert (found.shape, found.dtype) == (IMAGES.shape, jnp.uint32)
  for (b, c), _ in np.ndenumerate(IMAGES[:, 0, 0]):
    image = IMAGES[b, ..., c]
    border = image.min() if outside is None else 0
    np.testing.assert_array_equal(found[b, ..., c], reference(image, 12, 1.5, "nri_uniform", border))


@pytest.mark.parametrize(("neighbours", "radius"), [(8, 1.0), (16, 2.0)])
def test_codes_are_invariant_to_standardisation(neighbours, radius):
  pattern = functools.partial(local_binary_pattern, neighbours=neighbours, radius=radius, method="default")
  expected = pattern(IMAGES, outside=None)
  np.testing.assert_array_equal(pattern(standardize(IMAGES), outside=None), expected)
  inner = np.s_[:, 2:-2, 2:-2]  # the border differs: 0 is the mean of a standardised image, not black
  assert np.any(pattern(standardize(IMAGES)) != pattern(IMAGES))
  np.testing.assert_array_equal(pattern(standardize(IMAGES))[inner], expected[inner])


@pytest.mark.parametrize("value", [0.1, 77.7, -3.3e-3])
@pytest.mark.parametrize(("neighbours", "radius"), [(8, 1.0), (24, 2.7)])
def test_constant_areas_have_all_bits_set(value, neighbours, radius):
  flat = jnp.full((9, 9), value, jnp.float32)
  assert np.all(local_binary_pattern(flat, neighbours, radius, "uniform", None) == neighbours)


def test_ties_set_the_bit_despite_rounding():
  # At the lower right of the centre, the two sides cancel: the interpolated value equals the centre.
  for brighter in range(1, 120):
    image = np.full((5, 5), 120, np.uint8)
    image[2, 3], image[3, 2] = 120 + brighter, 120 - brighter
    for pixels in (image, standardize(jnp.asarray(image)[None, ..., None])[0, ..., 0]):
      assert local_binary_pattern(pixels, 8, 1.0, "default")[2, 2] >> 7 & 1 == 1


def test_rotation_of_the_image_rotates_the_codes():
  image = IMAGES[..., 0][..., None]
  rotated = np.rot90(image, axes=(1, 2))
  for method in ("uniform", "ror"):
    found = local_binary_pattern(rotated, 8, 1.0, method)
    np.testing.assert_array_equal(found, np.rot90(local_binary_pattern(image, 8, 1.0, method), axes=(1, 2)))
  plain = local_binary_pattern(rotated, 8, 1.0, "default")
  assert np.any(plain != np.rot90(local_binary_pattern(image, 8, 1.0, "default"), axes=(1, 2)))


def test_has_no_gradient_and_supports_vmap():
  image = jnp.asarray(IMAGES[..., 0], jnp.float32)
  gradient = jax.jit(jax.grad(lambda x: jnp.sum(x[1] * local_binary_pattern(x[0], 8, 1.0).astype(jnp.float32))))(image)
  np.testing.assert_array_equal(gradient[0], np.zeros((12, 11)))
  np.testing.assert_array_equal(gradient[1], local_binary_pattern(image[0], 8, 1.0))
  mapped = jax.vmap(functools.partial(local_binary_pattern, neighbours=8, radius=1.0))(image)
  np.testing.assert_array_equal(mapped, local_binary_pattern(image[..., None], 8, 1.0)[..., 0])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"neighbours": 1}, "neighbours=1: expected 2 to 24"),
    ({"neighbours": 25}, "neighbours=25"),
    ({"radius": 0.0}, "radius=0.0: expected a number of pixels above 0"),
    ({"radius": float("nan")}, "radius=nan"),
    ({"method": "var"}, "method='var': expected one of default, ror, uniform, nri_uniform"),
    ({"image": np.zeros((3, 3, 3))}, r"expected \[H, W\] or \[B, H, W, C\]"),
  ],
)
def test_rejects_invalid_arguments(options, message):
  with pytest.raises(ValueError, match=message):
    local_binary_pattern(**{"image": IMAGE, **options})
