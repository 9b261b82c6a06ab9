"""Tests recognition and its thread with a fake network."""

import queue
import time

import cv2
import numpy as np
import pytest

from fer_jax.apps.live_window.capture import CapturedImage
from fer_jax.apps.live_window.mailbox import Mailbox
from fer_jax.apps.live_window.recognition import (
  LoadRun,
  ModelReady,
  ReadImage,
  Recognition,
  RecognitionFailed,
  Recognizer,
)
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.trained_model import softmax
from fer_jax.runtime.errors import UserError
from tests.apps.live_window.fakes import NAMES, BrightnessModel, fake_predictor, uniform_image

LEFT, RIGHT = (2, 2, 20, 20), (30, 4, 16, 16)


def expected_probability(value):
  return softmax(np.array([[value / 32 - 4, 4 - value / 32, 0.0]]))[0]


def captured_at(time, value=255, session=0):
  return CapturedImage(session, uniform_image(value), time, 0.0)


def test_faces_of_an_image_are_one_batch():
  model = BrightnessModel()
  recognize = Recognizer(fake_predictor(LEFT, RIGHT, model=model), smoothing=0.5)
  image = uniform_image(0)
  image[:, 28:] = 255
  found = recognize(CapturedImage(4, image, 0.0, 7.0))
  assert model.batch_sizes == [2]
  assert found.image is image
  assert [box[:4] for box in found.boxes] == [LEFT, RIGHT]
  np.testing.assert_allclose(found.probability, [expected_probability(0), expected_probability(255)], rtol=1e-5)
  assert (found.session, found.class_names, found.tracks) == (4, NAMES, [0, 1])
  assert found.delay == found.finished - 7.0


def test_image_without_a_face_has_no_boxes():
  found = Recognizer(fake_predictor(), smoothing=0.5)(captured_at(0.0))
  assert (found.boxes, found.tracks, found.probability.shape) == ([], [], (0, 3))


def test_smoothing_has_the_half_life_and_restarts_with_a_new_source():
  recognize = Recognizer(fake_predictor(LEFT), smoothing=0.25)
  np.testing.assert_allclose(recognize(captured_at(1.0, 0)).probability[0], expected_probability(0), rtol=1e-5)
  half = (expected_probability(0) + expected_probability(255)) / 2
  np.testing.assert_allclose(recognize(captured_at(1.25, 255)).probability[0], half, rtol=1e-5)
  # Single images and the first image of another source are not smoothed.
  np.testing.assert_allclose(recognize(captured_at(None, 255)).probability[0], expected_probability(255), rtol=1e-5)
  other_source = recognize(captured_at(1.25, 255, session=1))
  np.testing.assert_allclose(other_source.probability[0], expected_probability(255), rtol=1e-5)


def test_videos_use_the_faster_detector():
  fast = fake_predictor(RIGHT).detector
  recognize = Recognizer(fake_predictor(LEFT), 0.5, fast)
  assert [recognize(captured_at(time)).boxes[0][:4] for time in (0.0, None)] == [RIGHT, LEFT]


def test_without_a_detector_videos_use_whole_images():
  recognize = Recognizer(Predictor(BrightnessModel(), None), 0.5, fake_predictor(RIGHT).detector)
  assert [recognize(captured_at(time)).boxes[0][:4] for time in (0.0, None)] == [(0, 0, 60, 40)] * 2


class RecognitionThread:
  """Running recognition; `response()` waits for its next response."""

  def __init__(self, load=None):
    self.requests, self.responses = Mailbox(), queue.Queue()
    self.recognition = Recognition(fake_predictor(LEFT), load, self.requests, self.responses.put, 0.5)
    self.recognition.start()
    assert self.response() == ModelReady("Ready: bright, 75.0 % on the test images of lamps.", NAMES)

  def response(self):
    return self.responses.get(timeout=10)


@pytest.fixture
def start():
  threads = []

  def start(load=None):
    threads.append(RecognitionThread(load))
    return threads[-1]

  yield start
  for each in threads:
    each.recognition.stop()
    assert each.recognition.join(10)


def test_image_file_equals_a_captured_image(start, tmp_path):
  thread = start()
  cv2.imwrite(str(tmp_path / "bright.png"), uniform_image(250))
  thread.requests.put(ReadImage(2, tmp_path / "bright.png"))
  found = thread.response()
  thread.requests.put(captured_at(None, 250, session=2))
  frame = thread.response()
  np.testing.assert_array_equal(found.probability, frame.probability)
  np.testing.assert_array_equal(found.image, frame.image)
  assert found.session == 2
  (tmp_path / "bad.png").write_bytes(b"not an image")
  thread.requests.put(ReadImage(3, tmp_path / "bad.png"))
  response = thread.response()
  assert isinstance(response, RecognitionFailed)
  assert response.text.startswith("bad.png cannot be read (")


def test_load_run_replaces_the_network_unless_it_fails(start, tmp_path):
  def load(workdir):
    if workdir.name == "bad":
      raise UserError("no run has finished there")
    return fake_predictor(RIGHT, model=BrightnessModel("other"))

  thread = start(load)
  thread.requests.put(LoadRun(tmp_path / "bad"))
  assert thread.response() == RecognitionFailed("no run has finished there")
  thread.requests.put(captured_at(0.0))
  assert thread.response().boxes[0][:4] == LEFT
  thread.requests.put(LoadRun(tmp_path / "good"))
  assert thread.response().text.startswith("Ready: other,")
  thread.requests.put(captured_at(0.1))
  assert thread.response().boxes[0][:4] == RIGHT


def test_images_of_a_closed_source_are_skipped(start):
  thread = start()
  sessions = []
  for session in (1, 0, 2):
    thread.requests.put(captured_at(0.0, session=session))
    if session:
      sessions.append(thread.response().session)
    else:
      time.sleep(0.1)  # otherwise the next request would replace it
  assert sessions == [1, 2]


def test_thread_reports_an_error_and_continues(start, caplog):
  thread = start()
  thread.requests.put(CapturedImage(0, "not an array", 0.0, 0.0))
  assert thread.response().text.startswith("The recognition failed: ")
  assert "recognition failed" in caplog.text
  thread.requests.put(captured_at(0.0))
  assert len(thread.response().boxes) == 1
