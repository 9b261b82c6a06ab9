"""Tracking of faces over frames, and smoothing of their probabilities."""

import cv2
import numpy as np
import pytest

from fer_jax.faces.detection import Box
from fer_jax.faces.tracking import Tracker, thumbnail


def box(x: float, y: float = 0, side: float = 100) -> Box:
  return Box(x, y, side, side, 1.0)


def test_moving_faces_keep_their_numbers_when_others_appear():
  tracker = Tracker()
  assert tracker.update(0.0, [box(0), box(300)]) == [0, 1]
  assert tracker.update(0.1, [box(320), box(20)]) == [1, 0]
  assert tracker.update(0.2, [box(600), box(40), box(340)]) == [2, 0, 1]
  assert tracker.update(0.3, []) == []
  assert tracker.update(0.4, [box(40)]) == [0]


def test_boxes_with_little_overlap_are_different_faces():
  # Squares of side 100 shifted by s have an intersection over union of (100 - s) / (100 + s), 0.3 at s = 53.8.
  assert [number_after(shift) for shift in (0, 53, 55, 99, 100, 5000)] == [0, 0, 1, 1, 1, 1]
  tracker = Tracker(least_overlap=0.9)
  assert [tracker.update(0.0, [box(0)]), tracker.update(0.1, [box(10)])] == [[0], [1]]


def number_after(shift: float) -> int:
  tracker = Tracker()
  tracker.update(0.0, [box(0)])
  return tracker.update(0.1, [box(shift)])[0]


def test_pairs_are_matched_by_decreasing_overlap():
  tracker = Tracker()
  tracker.update(0.0, [box(0), box(40)])
  # In the order of tracks, the first track would take the first box.
  assert tracker.update(0.1, [box(30), box(5)]) == [1, 0]
  tracker = Tracker()
  tracker.update(0.0, [box(0), box(50)])
  # A face that does not move keeps its track, although another assignment would match both boxes.
  assert tracker.update(0.1, [box(0, 10), box(0)]) == [2, 0]


def test_tracks_end_after_the_patience():
  tracker = Tracker(patience=0.5)
  assert tracker.update(0.0, [box(0)]) == [0]
  assert tracker.update(0.5, [box(0)]) == [0]
  assert tracker.update(0.75, []) == []
  assert tracker.update(1.01, [box(0)]) == [1]
  probability = np.array([1.0, 0.0])
  tracker.smooth(1, 1.01, probability)
  assert tracker.smooth(1, 1.2, probability[::-1])[0] > 0.5
  assert tracker.update(9.0, [box(0)]) == [2]
  np.testing.assert_array_equal(tracker.smooth(2, 9.0, probability[::-1]), [0, 1])
  np.testing.assert_array_equal(tracker.smooth(1, 9.0, probability[::-1]), [0, 1])


def test_boxes_without_area_get_new_tracks():
  tracker = Tracker()
  assert tracker.update(0.0, [box(0, side=0)]) == [0]
  assert tracker.update(0.1, [box(0, side=0), box(0)]) == [1, 2]


def test_past_has_half_its_weight_after_the_half_life():
  tracker = Tracker(half_life=2.0)
  np.testing.assert_allclose(tracker.smooth(0, 1.0, np.array([1.0, 0.0])), [1, 0])
  np.testing.assert_allclose(tracker.smooth(0, 3.0, np.array([0.0, 1.0])), [0.5, 0.5])
  np.testing.assert_allclose(tracker.smooth(0, 7.0, np.array([0.0, 1.0])), [0.125, 0.875])
  np.testing.assert_allclose(tracker.smooth(1, 7.0, np.array([0.0, 1.0])), [0, 1])


def random_probability(seed: int) -> np.ndarray:
  return np.random.default_rng(seed).dirichlet(np.ones(7)).astype(np.float32)


def test_smoothing_preserves_constants_and_sums_of_one():
  tracker, constant = Tracker(), random_probability(0)
  for step in range(50):
    np.testing.assert_allclose(tracker.smooth(0, step / 30, constant), constant, rtol=1e-6)
  for step in range(50):
    smoothed = tracker.smooth(1, np.float64(step / 30), random_probability(step))
    assert smoothed.dtype == np.float32
    assert abs(smoothed.sum() - 1) < 1e-5


def test_smoothing_does_not_depend_on_the_frame_rate():
  fine, coarse = Tracker(half_life=0.3), Tracker(half_life=0.3)
  for tracker in (fine, coarse):
    tracker.smooth(0, 0.0, random_probability(0))
  for step in range(1, 11):
    several = fine.smooth(0, step / 10, random_probability(1))
  np.testing.assert_allclose(several, coarse.smooth(0, 1.0, random_probability(1)), rtol=1e-5)


def test_half_life_of_zero_disables_smoothing():
  tracker = Tracker(half_life=0)
  for step in range(3):
    np.testing.assert_array_equal(tracker.smooth(0, step / 30, random_probability(step)), random_probability(step))
  np.testing.assert_array_equal(tracker.smooth(0, 0.0, random_probability(9)), random_probability(9))


def test_accepts_times_that_decrease():
  tracker = Tracker(half_life=0.5)
  first = tracker.smooth(0, 1.0, random_probability(0))
  np.testing.assert_allclose(tracker.smooth(0, 0.9, random_probability(1)), first)
  np.testing.assert_allclose(
    tracker.smooth(0, 1.4, random_probability(1)), (first + random_probability(1)) / 2, rtol=1e-5
  )
  assert tracker.update(10.0, [box(0)]) == [0]
  assert tracker.update(9.9, [box(0)]) == [0]
  assert tracker.update(0.0, [box(0)]) == [1], "the video starts again"


def test_shares_no_arrays_with_the_caller():
  tracker, probability = Tracker(), np.array([1.0, 0.0])
  tracker.smooth(0, 0.0, probability)[:] = 9
  probability[:] = 7
  np.testing.assert_allclose(tracker.smooth(0, 0.5, np.array([0.0, 1.0])), [0.5, 0.5])
  tracker.smooth(0, 0.5, np.array([0.0, 1.0]))[:] = 9
  np.testing.assert_allclose(tracker.smooth(0, 0.5, np.array([0.0, 1.0])), [0.5, 0.5])


@pytest.mark.parametrize("arguments", [{"half_life": -1}, {"patience": -1}, {"least_overlap": 0}, {"least_overlap": 2}])
def test_rejects_arguments_out_of_range(arguments):
  with pytest.raises(ValueError, match="expected half_life"):
    Tracker(**arguments)


class TestCuts:
  BOX = Box(10.0, 10.0, 20.0, 20.0, 1.0)

  def numbers(self, *images):
    tracker = Tracker()
    return [tracker.update(number / 25, [self.BOX], thumbnail(image))[0] for number, image in enumerate(images)]

  @pytest.fixture
  def shots(self):
    random = np.random.default_rng(0)
    return [cv2.resize(random.integers(0, 255, (6, 8), np.uint8), (320, 240)) for _ in range(2)]

  def test_all_tracks_end(self, shots):
    one, other = shots
    assert self.numbers(one, one, other, other, one) == [0, 0, 1, 1, 2]
    assert self.numbers(*(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) for image in (one, other))) == [0, 1]

  def test_other_brightness_contrast_or_position_is_no_cut(self, shots):
    one, _ = shots
    noisy = cv2.add(one, np.random.default_rng(1).integers(0, 60, one.shape, np.uint8))
    assert self.numbers(one, one // 2, one, 255 - (255 - one) // 2, np.roll(one, 15, axis=1), noisy) == [0] * 6

  def test_a_cut_through_black_is_a_cut(self, shots):
    one, other = shots
    black = np.zeros_like(one)
    assert self.numbers(one, black, one, black, other) == [0, 0, 0, 0, 1]
