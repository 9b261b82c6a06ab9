"""Local binary patterns: against whole-number arithmetic, against scikit-image, and what does not change them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.augment import standardize
from fer_jax.layers.lbp import METHODS, largest_code, local_binary_pattern

CIRCLES = [(8, 1.0), (8, 2.0), (16, 2.0), (12, 1.5), (5, 2.7), (24, 3.0)]
IMAGE = np.random.default_rng(0).integers(0, 256, (19, 23), dtype=np.uint8)
PICTURES = np.random.default_rng(1).integers(0, 256, (3, 12, 11, 2), dtype=np.uint8)
PICTURES[0, 3:9, 2:8] = 77  # flat areas, and steps between two values: ties
PICTURES[1] = PICTURES[1] // 64 * 40


def signs(image, neighbours, radius, outside=0):
  """Compares by 10^10 times the weights, which are then whole numbers: nothing is rounded. Bits, [P, H, W]."""
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
  """The code of one pattern, by its definition."""
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


def rendered(image, neighbours, radius, method, outside=0):
  words = signs(image, neighbours, radius, outside).reshape(neighbours, -1).T
  known = functools.cache(lambda word: code(word, method))
  return np.array([known(tuple(map(int, word))) for word in words]).reshape(image.shape)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("neighbours", "radius"), CIRCLES)
def test_equals_whole_numbers(neighbours, radius, method):
  found = local_binary_pattern(IMAGE, neighbours, radius, method)
  assert (found.shape, found.dtype) == (IMAGE.shape, jnp.uint32)
  np.testing.assert_array_equal(found, rendered(IMAGE, neighbours, radius, method))
  assert found.max() <= largest_code(neighbours, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("neighbours", "radius"), CIRCLES)
def test_equals_scikit_image(neighbours, radius, method):
  feature = pytest.importorskip("skimage.feature", reason="scikit-image, of the extra `dev`, is not installed")
  expected = feature.local_binary_pattern(IMAGE, neighbours, radius, method)
  np.testing.assert_array_equal(local_binary_pattern(IMAGE, neighbours, radius, method), expected)


def test_every_uniform_pattern_has_a_code_of_its_own_and_the_others_share_one():
  # The neighbours of the pixel in the middle of 3x3, counter-clockwise from the right.
  around = [(1, 2), (0, 2), (0, 1), (0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]
  words = list(np.ndindex((2,) * 8))
  images = np.ones((256, 9, 9, 1), np.uint8)
  images[:, 4, 4] = 100
  for p, (row, column) in enumerate(around):
    images[:, 3 + row, 3 + column, 0] = 200 * np.array(words)[:, p]
  middle = {method: np.asarray(local_binary_pattern(images, 8, 1.0, method))[:, 4, 4, 0] for method in METHODS}
  # Of a corner's brightness, at (0.71, 0.71), half is its own, and a seventh at most can come from the two sides.
  for method in METHODS:
    assert middle[method].tolist() == [code(word, method) for word in words]
  # Ojala et al.: of 256 patterns 58 are uniform, and 36 are left if rotations are one.
  counts = {method: len(set(codes.tolist())) for method, codes in middle.items()}
  assert counts == {"default": 256, "ror": 36, "uniform": 10, "nri_uniform": 59}
  assert all(codes.max() == largest_code(8, method) for method, codes in middle.items())


@pytest.mark.parametrize("outside", [0.0, None])
def test_images_and_channels_have_codes_of_their_own(outside):
  found = local_binary_pattern(PICTURES, 12, 1.5, "nri_uniform", outside)
  assert (found.shape, found.dtype) == (PICTURES.shape, jnp.uint32)
  for (b, c), _ in np.ndenumerate(PICTURES[:, 0, 0]):
    image = PICTURES[b, ..., c]
    border = image.min() if outside is None else 0
    np.testing.assert_array_equal(found[b, ..., c], rendered(image, 12, 1.5, "nri_uniform", border))


@pytest.mark.parametrize(("neighbours", "radius"), [(8, 1.0), (16, 2.0)])
def test_a_standardised_image_has_the_codes_of_the_image(neighbours, radius):
  pattern = functools.partial(local_binary_pattern, neighbours=neighbours, radius=radius, method="default")
  own = pattern(PICTURES, outside=None)
  np.testing.assert_array_equal(pattern(standardize(PICTURES), outside=None), own)
  inner = np.s_[:, 2:-2, 2:-2]  # at the border, 0 is the mean of a standardised image, and not black
  assert np.any(pattern(standardize(PICTURES)) != pattern(PICTURES))
  np.testing.assert_array_equal(pattern(standardize(PICTURES))[inner], own[inner])


@pytest.mark.parametrize("value", [0.1, 77.7, -3.3e-3])
@pytest.mark.parametrize(("neighbours", "radius"), [(8, 1.0), (24, 2.7)])
def test_a_flat_area_is_all_ones(value, neighbours, radius):
  flat = jnp.full((9, 9), value, jnp.float32)
  assert np.all(local_binary_pattern(flat, neighbours, radius, "uniform", None) == neighbours)


def test_a_tie_is_a_one_however_its_sum_is_rounded():
  # At the lower right of the middle, one side adds what the other takes away.
  for brighter in range(1, 120):
    image = np.full((5, 5), 120, np.uint8)
    image[2, 3], image[3, 2] = 120 + brighter, 120 - brighter
    for own in (image, standardize(jnp.asarray(image)[None, ..., None])[0, ..., 0]):
      assert local_binary_pattern(own, 8, 1.0, "default")[2, 2] >> 7 & 1 == 1


def test_rotating_the_image_rotates_the_codes():
  image = PICTURES[..., 0][..., None]
  turned = np.rot90(image, axes=(1, 2))
  for method in ("uniform", "ror"):
    found = local_binary_pattern(turned, 8, 1.0, method)
    np.testing.assert_array_equal(found, np.rot90(local_binary_pattern(image, 8, 1.0, method), axes=(1, 2)))
  plain = local_binary_pattern(turned, 8, 1.0, "default")
  assert np.any(plain != np.rot90(local_binary_pattern(image, 8, 1.0, "default"), axes=(1, 2)))


def test_no_gradient_flows_and_it_maps_over_images():
  image = jnp.asarray(PICTURES[..., 0], jnp.float32)
  gradient = jax.jit(jax.grad(lambda x: jnp.sum(x[1] * local_binary_pattern(x[0], 8, 1.0).astype(jnp.float32))))(image)
  np.testing.assert_array_equal(gradient[0], np.zeros((12, 11)))
  np.testing.assert_array_equal(gradient[1], local_binary_pattern(image[0], 8, 1.0))
  mapped = jax.vmap(functools.partial(local_binary_pattern, neighbours=8, radius=1.0))(image)
  np.testing.assert_array_equal(mapped, local_binary_pattern(image[..., None], 8, 1.0)[..., 0])


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"neighbours": 1}, "neighbours=1: expected 2 to 24"),
    ({"neighbours": 25}, "neighbours=25"),
    ({"radius": 0.0}, "radius=0.0: expected a number of pixels above 0"),
    ({"radius": float("nan")}, "radius=nan"),
    ({"method": "var"}, "method='var': expected one of default, ror, uniform, nri_uniform"),
    ({"image": np.zeros((3, 3, 3))}, r"expected \[H, W\] or \[B, H, W, C\]"),
  ],
)
def test_a_pattern_that_is_none_is_named(options, said):
  with pytest.raises(ValueError, match=said):
    local_binary_pattern(**{"image": IMAGE, **options})
