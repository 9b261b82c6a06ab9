"""The recognition thread and what it makes of a captured, on a stand-in for the network."""

import queue
import time

import cv2
import numpy as np
import pytest

from fer_jax.apps.benchmarks.live import scene
from fer_jax.apps.live_window.capture import CapturedImage
from fer_jax.apps.live_window.mailbox import Mailbox
from fer_jax.apps.live_window.recognition import Ready, Recognition, Recognizer, Run, Still, Trouble, live_detector
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.trained_model import softmax
from fer_jax.runtime.errors import UserError
from tests.apps.live_window.stand_ins import NAMES, Brightness, lit, predictor_of

LEFT, RIGHT = (2, 2, 20, 20), (30, 4, 16, 16)


def light(value):
  return softmax(np.array([[value / 32 - 4, 4 - value / 32, 0.0]]))[0]


def at(time, value=255, session=0):
  return CapturedImage(session, lit(value), time, 0.0)


def test_every_face_is_classified_in_one_go():
  classifier = Brightness()
  recognize = Recognizer(predictor_of(LEFT, RIGHT, classifier=classifier), smoothing=0.5)
  image = lit(0)
  image[:, 28:] = 255
  found = recognize(CapturedImage(4, image, 0.0, 7.0))
  assert classifier.asked == [2]
  assert found.image is image
  assert [box[:4] for box in found.boxes] == [LEFT, RIGHT]
  np.testing.assert_allclose(found.probability, [light(0), light(255)], rtol=1e-5)
  assert (found.session, found.class_names, found.tracks) == (4, NAMES, [0, 1])
  assert found.delay == found.finished - 7.0


def test_a_picture_without_a_face_is_an_answer():
  found = Recognizer(predictor_of(), smoothing=0.5)(at(0.0))
  assert (found.boxes, found.tracks, found.probability.shape) == ([], [], (0, 3))


def test_a_face_is_smoothed_over_its_half_life_and_a_new_source_begins_anew():
  recognize = Recognizer(predictor_of(LEFT), smoothing=0.25)
  np.testing.assert_allclose(recognize(at(1.0, 0)).probability[0], light(0), rtol=1e-5)
  half = (light(0) + light(255)) / 2
  np.testing.assert_allclose(recognize(at(1.25, 255)).probability[0], half, rtol=1e-5)
  # A still captured, and the first one of another source, stand alone.
  np.testing.assert_allclose(recognize(at(None, 255)).probability[0], light(255), rtol=1e-5)
  np.testing.assert_allclose(recognize(at(1.25, 255, session=1)).probability[0], light(255), rtol=1e-5)


def test_pictures_that_move_have_a_detector_of_their_own():
  fast = predictor_of(RIGHT).detector
  recognize = Recognizer(predictor_of(LEFT), 0.5, fast)
  assert [recognize(at(time)).boxes[0][:4] for time in (0.0, None)] == [RIGHT, LEFT]


def test_pictures_that_are_taken_whole_are_so_when_they_move():
  recognize = Recognizer(Predictor(Brightness(), None), 0.5, predictor_of(RIGHT).detector)
  assert [recognize(at(time)).boxes[0][:4] for time in (0.0, None)] == [(0, 0, 60, 40)] * 2


class Thread:
  """A recognition that runs; `answer()` waits for its next answer."""

  def __init__(self, load=None):
    self.orders, self.answers = Mailbox(), queue.Queue()
    self.recognition = Recognition(predictor_of(LEFT), load, self.orders, self.answers.put, 0.5)
    self.recognition.start()
    assert self.answer() == Ready("Ready: bright, 75.0 % on the test images of lamps.", NAMES)

  def answer(self):
    return self.answers.get(timeout=10)


@pytest.fixture
def start():
  threads = []

  def start(load=None):
    threads.append(Thread(load))
    return threads[-1]

  yield start
  for each in threads:
    each.recognition.stop()
    assert each.recognition.join(10)


def test_an_image_file_goes_the_same_way_as_a_frame(start, tmp_path):
  thread = start()
  cv2.imwrite(str(tmp_path / "bright.png"), lit(250))
  thread.orders.put(Still(2, tmp_path / "bright.png"))
  found = thread.answer()
  thread.orders.put(at(None, 250, session=2))
  frame = thread.answer()
  np.testing.assert_array_equal(found.probability, frame.probability)
  np.testing.assert_array_equal(found.image, frame.image)
  assert found.session == 2
  (tmp_path / "bad.png").write_bytes(b"no captured")
  thread.orders.put(Still(3, tmp_path / "bad.png"))
  answer = thread.answer()
  assert isinstance(answer, Trouble)
  assert answer.sentence.startswith("bad.png cannot be read (")


def test_another_run_is_used_from_then_on_and_a_bad_one_changes_nothing(start, tmp_path):
  def load(workdir):
    if workdir.name == "bad":
      raise UserError("no run has finished there")
    return predictor_of(RIGHT, classifier=Brightness("other"))

  thread = start(load)
  thread.orders.put(Run(tmp_path / "bad"))
  assert thread.answer() == Trouble("no run has finished there")
  thread.orders.put(at(0.0))
  assert thread.answer().boxes[0][:4] == LEFT
  thread.orders.put(Run(tmp_path / "good"))
  assert thread.answer().sentence.startswith("Ready: other,")
  thread.orders.put(at(0.1))
  assert thread.answer().boxes[0][:4] == RIGHT


def test_a_picture_of_a_source_closed_since_is_not_answered(start):
  thread = start()
  sessions = []
  for session in (1, 0, 2):
    thread.orders.put(at(0.0, session=session))
    if session:
      sessions.append(thread.answer().session)
    else:
      time.sleep(0.1)  # or the next would take its place
  assert sessions == [1, 2]


def test_an_error_in_between_is_said_and_survived(start, caplog):
  thread = start()
  thread.orders.put(CapturedImage(0, "no array", 0.0, 0.0))
  assert thread.answer().sentence.startswith("The recognition failed: ")
  assert "recognition failed" in caplog.text
  thread.orders.put(at(0.0))
  assert len(thread.answer().boxes) == 1


def test_the_live_detector_finds_faces_of_a_fifth_of_the_height():
  found = live_detector()(scene(0))
  assert len(found) == 1
  small = cv2.resize(scene(0), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
  captured = lit(120, 480, 640)
  captured[100:340, 200:520] = small
  (face,) = live_detector()(captured)
  assert face.height < 0.25 * 480
