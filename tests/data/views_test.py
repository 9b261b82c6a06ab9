"""Views of an image: the image, its mirror image, and crops of both with the border repeated."""

import jax
import numpy as np
import pytest

from fer_jax.data.views import PROTOCOLS, TEN_CROP, apply_view

MARGIN = 2
IMAGE = np.arange(6 * 8 * 2, dtype=np.uint8).reshape(6, 8, 2)
SEEN = np.asarray(jax.vmap(lambda number: apply_view(IMAGE, number, MARGIN))(np.arange(len(TEN_CROP))))


def crop(image, top, left):
  """Returns a crop in the size of the image, of the image padded by MARGIN pixels with its border repeated."""
  padded = np.pad(image, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")
  return padded[top : top + len(image), left : left + image.shape[1]]


def test_first_two_views_are_the_image_and_its_mirror_image():
  np.testing.assert_array_equal(SEEN[0], IMAGE)
  np.testing.assert_array_equal(SEEN[1], IMAGE[:, ::-1])


def test_other_views_are_the_corner_crops_of_the_image_and_of_its_mirror_image():
  expected = [
    crop(image, top, left) for top in (0, 2 * MARGIN) for left in (0, 2 * MARGIN) for image in (IMAGE, IMAGE[:, ::-1])
  ]
  found = {view.tobytes() for view in SEEN[2:]}
  assert found == {view.tobytes() for view in expected}
  assert len(found) == 8


def test_margin_0_gives_only_the_image_and_its_mirror_image():
  seen = np.asarray(jax.vmap(lambda number: apply_view(IMAGE, number, 0))(np.arange(10)))
  for number in range(10):
    np.testing.assert_array_equal(seen[number], SEEN[number % 2])


@pytest.mark.parametrize(("protocol", "views"), [("single", 1), ("flip", 2), ("ten_crop", 10)])
def test_protocol_is_a_prefix_of_the_views(protocol, views):
  assert PROTOCOLS[protocol] == views
  assert {view.mirrored for view in TEN_CROP[:views]} == ({False} if views == 1 else {False, True})
  assert len(set(TEN_CROP[:views])) == views
