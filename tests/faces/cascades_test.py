"""Haar cascades on drawn faces, on a photograph and on images without faces."""

import concurrent.futures
import itertools
import pathlib

import cv2
import matplotlib
import numpy as np
import pytest

from fer_jax.data.builders.synthetic_faces.images import render_image
from fer_jax.faces import cascades
from fer_jax.faces.cascades import HaarDetector, photograph_detector, video_detector
from fer_jax.faces.detection import Box

SIDE = 160
# x, y, width, height and score of the expected boxes.
HOPPER = [152.5, 105.0, 223.75, 223.75, 57.059]
PROFILE = [94.0, 60.0, 121.0, 121.0, 56.271]


def drawn(subject: int, expression: str, yaw: float) -> np.ndarray:
  """Returns a face of SIDE pixels in the centre of a larger grey image."""
  face = render_image(0, subject, expression, 0, SIDE, yaw=yaw)
  return cv2.copyMakeBorder(face, 40, 40, 60, 60, cv2.BORDER_REPLICATE)


def overlap(box: Box) -> float:
  """Returns the share of a box that lies on the drawn face."""
  across = min(box.x + box.width, 60 + SIDE) - max(box.x, 60)
  down = min(box.y + box.height, 40 + SIDE) - max(box.y, 40)
  return max(across, 0) * max(down, 0) / (box.width * box.height)


# Of 70 images per yaw (ten people, seven expressions), 69, 67 and 64 faces are found.
@pytest.mark.parametrize("yaw", [0.0, 0.4, -0.7])
def test_finds_drawn_faces_in_front_and_side_views(yaw):
  detector = HaarDetector()
  found = [detector(drawn(subject, expression, yaw)) for subject in range(6) for expression in ("happy", "neutral")]
  assert sum(bool(boxes) for boxes in found) >= 10
  assert np.mean([overlap(boxes[0]) for boxes in found if boxes]) > 0.8


@pytest.fixture(scope="module")
def photograph():
  """Returns a portrait of Grace Hopper, uint8 RGB, 600x512, with the face around (256, 200)."""
  path = pathlib.Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
  return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_finds_a_photographed_face_in_colour_and_grey(photograph):
  for image in (photograph, cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)):
    box = HaarDetector()(image)[0]
    assert box.x < 256 < box.x + box.width and box.y < 170 and box.y + box.height > 230
    assert 100 < box.width < 300
    assert np.isfinite(box.score)


def test_boxes_are_in_pixels_of_the_input_at_any_detection_size(photograph):
  whole = HaarDetector(longest_side=600)(photograph)[0]
  small = HaarDetector(longest_side=300)(photograph)[0]
  np.testing.assert_allclose(small[:4], whole[:4], atol=40)


def test_finds_mirrored_profiles_at_mirrored_positions():
  detector, found = HaarDetector(), 0
  for subject in range(10):
    image = cv2.copyMakeBorder(drawn(subject, "surprise", 0.7), 0, 0, 0, 150, cv2.BORDER_REPLICATE)
    boxes, mirrored = detector(image), detector(np.ascontiguousarray(image[:, ::-1]))
    if boxes and mirrored:
      found += 1
      centre, other = (box.x + box.width / 2 for box in (boxes[0], mirrored[0]))
      assert abs(centre - (image.shape[1] - other)) < 40
  assert found >= 7


def test_largest_face_comes_first():
  large, small = render_image(0, 1, "neutral", 0, 200, yaw=0), render_image(0, 2, "neutral", 0, 110, yaw=0)
  image = np.full((200, 420), 128, np.uint8)
  image[:110, 20:130] = small
  image[:, 200:400] = large
  boxes = HaarDetector()(image)
  assert len(boxes) >= 2
  areas = [box.width * box.height for box in boxes]
  assert areas == sorted(areas, reverse=True)
  assert boxes[0].x > 180


@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (9, 10_000), (2, 1000, 3)])
def test_finds_no_face_in_thin_images(shape):
  assert HaarDetector()(np.zeros(shape, np.uint8)) == []


class FakeCascade:
  """Returns the given frontal detections."""

  def __init__(self, rows):
    self._rows = rows

  def detectMultiScale3(self, grey, **arguments):  # noqa: N802 - OpenCV's name
    return [row[:4] for row in self._rows], None, [row[4] for row in self._rows]


def test_order_of_equally_large_faces_does_not_depend_on_threads(monkeypatch):
  rows = [(200, 0, 50, 50, 3.0), (0, 0, 50, 50, 9.0), (100, 0, 50, 50, 3.0), (300, 0, 60, 60, 1.0)]
  for order in itertools.permutations(rows):
    monkeypatch.setattr(cascades, "_cascade", lambda name, order=order: FakeCascade(order))
    found = HaarDetector()(np.zeros((60, 400), np.uint8))
    assert [box.x for box in found] == [300, 0, 100, 200]


def test_keeps_the_first_of_overlapping_faces(monkeypatch):
  rows = [(0, 0, 90, 90, 5.0), (20, 50, 30, 30, 9.0), (60, 0, 90, 90, 4.0), (71, 60, 50, 50, 1.0)]
  monkeypatch.setattr(cascades, "_cascade", lambda name: FakeCascade(rows))
  # Boxes inside a larger face (a mouth, a chin) are dropped; a neighbour that is covered by one third is kept.
  assert [box[:2] for box in HaarDetector()(np.zeros((150, 200), np.uint8))] == [(0, 0), (60, 0)]


def test_finds_nothing_in_constant_images():
  assert HaarDetector()(np.full((120, 90), 128, np.uint8)) == []
  assert HaarDetector()(np.zeros((120, 90, 3), np.uint8)) == []
  assert HaarDetector()(np.zeros((1, 1), np.uint8)) == []


def test_threads_give_the_same_boxes_as_a_single_thread():
  images = [drawn(subject, "happy", yaw) for subject in range(6) for yaw in (0.0, 0.7)]
  detector = HaarDetector()
  expected = [detector(image) for image in images]
  assert sum(map(bool, expected)) > 8
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for _ in range(3):
      assert list(pool.map(detector, images)) == expected


def test_default_detector_gives_the_boxes_used_for_training_data(photograph):
  """Compares with boxes recorded before the settings existed, because networks were trained on these crops."""
  for image in (photograph, drawn(1, "happy", 0.7)):
    same = HaarDetector(smallest_face=0.2, longest_side=480, scale_factor=1.1, profiles=True)
    assert HaarDetector()(image) == same(image)
  # The oldest OpenCV that is allowed differs by one pixel.
  np.testing.assert_allclose(HaarDetector(smallest_face=0.3)(photograph)[0], HOPPER, atol=1.001)
  np.testing.assert_allclose(HaarDetector()(drawn(1, "happy", 0.7))[0], PROFILE, atol=1.001)


def test_fast_detector_finds_only_frontal_faces():
  fast = HaarDetector(longest_side=320, scale_factor=1.2, profiles=False)
  assert sum(bool(fast(drawn(subject, "neutral", 0.0))) for subject in range(6)) >= 5
  profiles = [drawn(subject, "surprise", 0.7) for subject in range(6)]
  without = [HaarDetector(profiles=False)(image) for image in profiles]
  assert any(boxes and not frontal for boxes, frontal in zip(map(HaarDetector(), profiles), without, strict=True))


def test_scale_factor_changes_the_detection_sizes(photograph):
  coarse, fine = HaarDetector(scale_factor=1.3)(photograph)[0], HaarDetector()(photograph)[0]
  assert coarse.width != fine.width
  np.testing.assert_allclose(coarse[:4], fine[:4], atol=40)


def test_photograph_detector_finds_faces_of_a_tenth_and_profiles_of_a_fifth(photograph):
  (face,) = photograph_detector()(photograph)
  assert (face.x, face.y) == pytest.approx((HOPPER[0], HOPPER[1]), abs=40)
  small = cv2.copyMakeBorder(cv2.resize(photograph, (128, 150)), 150, 150, 150, 150, cv2.BORDER_CONSTANT)
  (face,) = photograph_detector()(small)
  assert face.x == pytest.approx(150 + HOPPER[0] / 4, abs=12)
  assert photograph_detector(smallest_face=0.5)(small) == []
  profiles = [drawn(subject, "surprise", 0.7) for subject in range(10)]
  assert sum(bool(photograph_detector()(image)) for image in profiles) >= 8


def test_video_detector_finds_only_frontal_faces():
  assert sum(bool(video_detector()(drawn(subject, "neutral", 0.0))) for subject in range(6)) >= 5
