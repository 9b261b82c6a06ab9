"""YuNet: sizes and colours of its input, invalid boxes, and errors of its model file."""

import concurrent.futures
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest

from fer_jax.data.builders.synthetic_faces.images import render_image
from fer_jax.data.images import read_image
from fer_jax.faces.detection import Box
from fer_jax.faces.yunet import YuNetDetector
from fer_jax.runtime.errors import UserError

MODEL = Path(__file__).resolve().parents[3] / "shared" / "data" / "yunet" / "face_detection_yunet_2026may.onnx"
needs_model = pytest.mark.skipif(not MODEL.is_file(), reason=f"needs YuNet's model, {MODEL.name}")


class FakeYuNet:
  """Fake of cv2.FaceDetectorYN that finds the given faces and records its inputs."""

  rows: tuple[tuple[float, ...], ...] = ()

  def __init__(self, *arguments):
    self.arguments, self.inputs = arguments, []

  def setInputSize(self, size):  # noqa: N802 - OpenCV's name
    self.size = size

  def detect(self, image):
    assert image.shape == (self.size[1], self.size[0], 3)
    self.inputs.append(image)
    # x, y, width, height, five landmarks, score
    faces = [[*row[:4], *([0.0] * 10), row[4]] for row in self.rows]
    return len(faces), np.array(faces, np.float32) if faces else None


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """Function that returns a detector whose network finds the given (x, y, width, height, score)."""

  def make(*rows):
    (tmp_path / "yunet.onnx").write_bytes(b"x")
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", FakeYuNet)
    monkeypatch.setattr(FakeYuNet, "rows", rows)
    return YuNetDetector(tmp_path / "yunet.onnx", threshold=0.5)

  return make


def test_boxes_are_sorted_and_in_pixels_of_the_image(fake):
  detector = fake((1, 2, 10, 12, 0.9), (50, 3, 30, 40, 0.75))
  image = np.broadcast_to(np.array([1, 2, 3], np.uint8), (200, 300, 3)).copy()
  assert [box._replace(score=round(box.score, 3)) for box in detector(image)] == [
    Box(50, 3, 30, 40, 0.75),
    Box(1, 2, 10, 12, 0.9),
  ]
  assert detector._network().inputs[0][0, 0].tolist() == [3, 2, 1], "OpenCV expects BGR"
  (box, _) = detector(np.zeros((800, 1280), np.uint8))
  assert box[:4] == (100, 6, 60, 80)
  (box, _) = detector(np.zeros((80, 120), np.uint8))
  assert box[:4] == (25, 1.5, 15, 20)


@pytest.mark.parametrize(
  ("shape", "expected"),
  [
    ((1, 1), (160, 160)),
    ((48, 48), (160, 160)),
    ((40, 100), (160, 400)),
    ((10, 400), (64, 640)),
    ((3000, 4000), (480, 640)),
    ((3000, 1), (640, 64)),
    ((200, 300), (200, 300)),
  ],
)
def test_input_has_a_size_that_yunet_was_trained_on(fake, shape, expected):
  detector = fake()
  assert detector(np.zeros(shape, np.uint8)) == []
  assert detector._network().inputs[0].shape[:2] == expected


def test_invalid_boxes_are_dropped(fake):
  good = (10, 10, 50, 60, 0.9)
  invalid = [
    (np.inf, 10, 50, 60, 0.9),
    (10, 10, np.nan, 60, 0.9),
    (10, 10, -50, 60, 0.9),
    (10, 10, 0, 60, 0.9),
    (-1e9, 10, 50, 60, 0.9),
    (10, 500, 50, 60, 0.9),
    (-1e6, -1e6, 2e6, 2e6, 0.9),
    (10, 10, 50, 60, np.nan),
  ]
  (box,) = fake(good, *invalid)(np.zeros((200, 300), np.uint8))
  assert box[:4] == good[:4]


@pytest.fixture(scope="module")
def detector():
  return YuNetDetector(MODEL)


@needs_model
class TestModel:
  def test_finds_a_photographed_face_in_colour_and_grey_at_all_sizes(self, detector):
    photograph = read_image(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg"))
    (expected,) = detector(photograph)
    for factor in (0.1, 0.5, 4.0):
      (box,) = detector(cv2.resize(photograph, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))
      np.testing.assert_allclose(np.array(box[:4]) / factor, expected[:4], atol=15)
    (box,) = detector(cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY))
    np.testing.assert_allclose(box[:4], expected[:4], atol=15)

  def test_threads_give_the_same_boxes_as_a_single_thread(self, detector):
    images = [render_image(0, subject, "happy", 0, 200, yaw=0.3) for subject in range(8)]
    expected = [detector(image) for image in images]
    assert all(expected)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      for _ in range(3):
        # OpenCV's own threads add in any order, which some versions show in the last bits.
        np.testing.assert_allclose(list(pool.map(detector, images)), expected, rtol=1e-5)

  @pytest.mark.slow
  def test_small_and_many_images_give_the_same_finite_boxes_in_ten_runs(self, detector):
    face = render_image(0, 1, "happy", 0, 128, yaw=0.0)
    random = np.random.default_rng(0)
    images = [cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA) for side in range(1, 65)]
    images += [random.integers(0, 256, (side, 65 - side, 3), np.uint8) for side in range(1, 65)]
    images += [render_image(0, n % 50, "sad", n // 50, 100 + n % 37, yaw=n % 7 / 10) for n in range(1000)]
    first = [detector(image) for image in images]
    found = [box for boxes in first for box in boxes]
    assert len(found) > 950
    assert np.isfinite(found).all()
    for _ in range(9):
      again = [detector(image) for image in images]
      assert list(map(len, again)) == list(map(len, first))
      np.testing.assert_allclose([box for boxes in again for box in boxes], found, rtol=1e-5, atol=1e-4)


def test_missing_or_invalid_model_gives_a_one_line_error(tmp_path):
  with pytest.raises(UserError, match=r"YuNet model .*absent.onnx does not exist; expected .*opencv_zoo"):
    YuNetDetector(tmp_path / "absent.onnx")
  (tmp_path / "broken.onnx").write_bytes(b"not a model")
  with pytest.raises(UserError, match="broken.onnx is not a model that OpenCV can read") as caught:
    YuNetDetector(tmp_path / "broken.onnx")
  assert "\n" not in str(caught.value)
