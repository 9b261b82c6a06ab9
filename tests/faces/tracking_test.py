"""Faces that move, come and go, and the smoothing of what is said of them."""

import numpy as np
import pytest

from fer_jax.faces.detection import Box
from fer_jax.faces.tracking import Tracker


def box(x: float, y: float = 0, side: float = 100) -> Box:
  return Box(x, y, side, side, 1.0)


def test_a_face_keeps_its_number_while_it_moves_and_others_come():
  tracker = Tracker()
  assert tracker.update(0.0, [box(0), box(300)]) == [0, 1]
  assert tracker.update(0.1, [box(320), box(20)]) == [1, 0]
  assert tracker.update(0.2, [box(600), box(40), box(340)]) == [2, 0, 1]
  assert tracker.update(0.3, []) == []
  assert tracker.update(0.4, [box(40)]) == [0]


def test_boxes_that_overlap_too_little_are_not_the_same_face():
  # Shifted by s, squares of 100 have (100 - s) / (100 + s) in common: 0.3 at 53.8.
  assert [number_after(shift) for shift in (0, 53, 55, 99, 100, 5000)] == [0, 0, 1, 1, 1, 1]
  tracker = Tracker(least_overlap=0.9)
  assert [tracker.update(0.0, [box(0)]), tracker.update(0.1, [box(10)])] == [[0], [1]]


def number_after(shift: float) -> int:
  tracker = Tracker()
  tracker.update(0.0, [box(0)])
  return tracker.update(0.1, [box(shift)])[0]


def test_the_pair_that_overlaps_most_comes_first():
  tracker = Tracker()
  tracker.update(0.0, [box(0), box(40)])
  # In their own order, the first track would take the first box.
  assert tracker.update(0.1, [box(30), box(5)]) == [1, 0]
  tracker = Tracker()
  tracker.update(0.0, [box(0), box(50)])
  # A face that stays where it is is not given to another, even where two pairs could be made so.
  assert tracker.update(0.1, [box(0, 10), box(0)]) == [2, 0]


def test_a_track_is_forgotten_when_it_is_not_seen():
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


def test_boxes_without_an_area_are_tracks_of_their_own():
  tracker = Tracker()
  assert tracker.update(0.0, [box(0, side=0)]) == [0]
  assert tracker.update(0.1, [box(0, side=0), box(0)]) == [1, 2]


def test_half_of_the_past_is_left_after_the_half_life():
  tracker = Tracker(half_life=2.0)
  np.testing.assert_allclose(tracker.smooth(0, 1.0, np.array([1.0, 0.0])), [1, 0])
  np.testing.assert_allclose(tracker.smooth(0, 3.0, np.array([0.0, 1.0])), [0.5, 0.5])
  np.testing.assert_allclose(tracker.smooth(0, 7.0, np.array([0.0, 1.0])), [0.125, 0.875])
  np.testing.assert_allclose(tracker.smooth(1, 7.0, np.array([0.0, 1.0])), [0, 1])


def random_probability(seed: int) -> np.ndarray:
  return np.random.default_rng(seed).dirichlet(np.ones(7)).astype(np.float32)


def test_a_constant_stays_and_a_sum_of_one_stays():
  tracker, constant = Tracker(), random_probability(0)
  for step in range(50):
    np.testing.assert_allclose(tracker.smooth(0, step / 30, constant), constant, rtol=1e-6)
  for step in range(50):
    smoothed = tracker.smooth(1, np.float64(step / 30), random_probability(step))
    assert smoothed.dtype == np.float32
    assert abs(smoothed.sum() - 1) < 1e-5


def test_the_rate_of_frames_does_not_matter():
  fine, coarse = Tracker(half_life=0.3), Tracker(half_life=0.3)
  for tracker in (fine, coarse):
    tracker.smooth(0, 0.0, random_probability(0))
  for step in range(1, 11):
    several = fine.smooth(0, step / 10, random_probability(1))
  np.testing.assert_allclose(several, coarse.smooth(0, 1.0, random_probability(1)), rtol=1e-5)


def test_without_a_half_life_nothing_is_smoothed():
  tracker = Tracker(half_life=0)
  for step in range(3):
    np.testing.assert_array_equal(tracker.smooth(0, step / 30, random_probability(step)), random_probability(step))
  np.testing.assert_array_equal(tracker.smooth(0, 0.0, random_probability(9)), random_probability(9))


def test_time_that_goes_back_breaks_nothing():
  tracker = Tracker(half_life=0.5)
  first = tracker.smooth(0, 1.0, random_probability(0))
  np.testing.assert_allclose(tracker.smooth(0, 0.9, random_probability(1)), first)
  np.testing.assert_allclose(
    tracker.smooth(0, 1.4, random_probability(1)), (first + random_probability(1)) / 2, rtol=1e-5
  )
  assert tracker.update(10.0, [box(0)]) == [0]
  assert tracker.update(9.9, [box(0)]) == [0]
  assert tracker.update(0.0, [box(0)]) == [1], "the video begins anew"


def test_the_arrays_that_go_in_and_out_are_the_callers_own():
  tracker, probability = Tracker(), np.array([1.0, 0.0])
  tracker.smooth(0, 0.0, probability)[:] = 9
  probability[:] = 7
  np.testing.assert_allclose(tracker.smooth(0, 0.5, np.array([0.0, 1.0])), [0.5, 0.5])
  tracker.smooth(0, 0.5, np.array([0.0, 1.0]))[:] = 9
  np.testing.assert_allclose(tracker.smooth(0, 0.5, np.array([0.0, 1.0])), [0.5, 0.5])


@pytest.mark.parametrize("arguments", [{"half_life": -1}, {"patience": -1}, {"least_overlap": 0}, {"least_overlap": 2}])
def test_arguments_out_of_range_are_refused(arguments):
  with pytest.raises(ValueError, match="expected half_life"):
    Tracker(**arguments)
