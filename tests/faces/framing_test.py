"""Cropping of photographs to the detected face or to a fixed square, and the notes about it."""

import numpy as np

from fer_jax.faces.crop import crop_face, crop_square
from fer_jax.faces.detection import Box
from fer_jax.faces.framing import Framing

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
SQUARES = {"A-": (0.5, 0.5, 0.5), "B-": (0.25, 0.75, 0.25)}


def test_crops_to_the_first_box():
  boxes = [Box(10, 5, 20, 20, 1), Box(0, 0, 5, 5, 9)]
  framing = Framing(16, SQUARES, lambda image: boxes)
  np.testing.assert_array_equal(framing(IMAGE, "A-1", "a.png"), crop_face(IMAGE, boxes[0], 16))
  assert framing.notes() == ("a face was found in each of 1 images",)


def test_without_detector_crops_to_the_fixed_square_of_the_subject():
  framing = Framing(10, SQUARES, None)
  np.testing.assert_array_equal(framing(IMAGE, "A-1", "a.png"), crop_square(IMAGE, 30, 20, 20, 10))
  np.testing.assert_array_equal(framing(IMAGE, "B-1", "b.png"), crop_square(IMAGE, 15, 30, 10, 10))
  assert framing.notes() == ()


def test_without_face_crops_to_the_fixed_square_and_adds_a_note():
  framing = Framing(10, {"": (0.5, 0.5, 0.5)}, lambda image: [Box(0, 0, 9, 9, 1)] if image.any() else [])
  for number in range(8):
    image = np.zeros_like(IMAGE) if number else IMAGE
    framing(image, "x", f"{number}.png")
  assert framing.notes() == (
    "no face was found in 7 of 8 images: fixed square used instead (1.png, 2.png, 3.png, 4.png, 5.png and 2 more)",
  )
