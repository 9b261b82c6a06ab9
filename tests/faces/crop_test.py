"""Cropping and resizing of images, compared with slices and OpenCV."""

import cv2
import numpy as np
import pytest

from fer_jax.faces.crop import crop_face, crop_square, resize
from fer_jax.faces.detection import Box


@pytest.fixture
def image():
  return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_square_inside_the_image_is_a_slice(image):
  np.testing.assert_array_equal(crop_square(image, 30, 20, 10, 10), image[15:25, 25:35])
  np.testing.assert_array_equal(crop_square(image[..., 0], 30, 20, 10, 10), image[15:25, 25:35, 0])


def test_square_beyond_the_edge_repeats_the_last_pixels(image):
  padded = np.pad(image, ((50, 50), (50, 50), (0, 0)), mode="edge")
  for x, y in ((0, 0), (59, 0), (3, 39), (60, 40), (30, 20)):
    for side in (8, 30, 80):
      left, top = 50 + x - side // 2, 50 + y - side // 2
      expected = padded[top : top + side, left : left + side]
      np.testing.assert_array_equal(crop_square(image, x, y, side, side), expected)


def test_face_crop_adds_a_margin_to_the_longer_side(image):
  box = Box(x=20, y=10, width=10, height=20, score=1)
  np.testing.assert_array_equal(crop_face(image, box, 20, margin=0), image[10:30, 15:35])
  np.testing.assert_array_equal(crop_face(image, box, 24, margin=0.2), image[8:32, 13:37])
  assert crop_face(image, box, 48).shape == (48, 48, 3)
  assert crop_face(image[..., 0], box, 48).shape == (48, 48)


def test_resize_averages_areas_or_interpolates_bilinearly(image):
  np.testing.assert_array_equal(resize(image, 20, 30), cv2.resize(image, (30, 20), interpolation=cv2.INTER_AREA))
  np.testing.assert_array_equal(resize(image, 80, 90), cv2.resize(image, (90, 80), interpolation=cv2.INTER_LINEAR))
  np.testing.assert_array_equal(crop_square(image, 30, 20, 20, 10), resize(image[10:30, 20:40], 10, 10))
  assert resize(image, 40, 60) is image


def test_smallest_square_is_one_pixel(image):
  np.testing.assert_array_equal(crop_square(image, 30, 20, 0.2, 1), image[20:21, 30:31])
