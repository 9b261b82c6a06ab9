"""Tests the actions of the live window off-screen."""

import os
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
qt_test = pytest.importorskip("PySide6.QtTest", reason="needs PySide6 and its libraries", exc_type=ImportError)

from PySide6.QtCore import QEvent, QPoint, Qt  # noqa: E402
from PySide6.QtGui import QColor, QImage, QPalette  # noqa: E402
from PySide6.QtWidgets import QApplication, QFileDialog  # noqa: E402

from fer_jax.apps.live_window.capture import SourceEnded  # noqa: E402
from fer_jax.apps.live_window.layout import application  # noqa: E402
from fer_jax.apps.live_window.recognition import Recognition, RecognitionFailed  # noqa: E402
from fer_jax.apps.live_window.style import BOX, DARK  # noqa: E402
from fer_jax.apps.live_window.window import LiveWindow  # noqa: E402
from fer_jax.faces.detection import Box  # noqa: E402
from fer_jax.runtime.errors import UserError  # noqa: E402
from tests.apps.live_window.fakes import NAMES, BrightnessModel, FakeCamera, fake_predictor, uniform_image  # noqa: E402

LEFT, RIGHT = (40, 60, 120, 120), (190, 80, 90, 90)
TIMEOUT = 30.0


@pytest.fixture(scope="module")
def app():
  return application()


def wait_until(condition):
  """Processes events until a condition holds."""
  end = time.monotonic() + TIMEOUT
  while not condition():
    assert time.monotonic() < end, "timed out"
    QApplication.processEvents()
    time.sleep(0.002)


@pytest.fixture
def open_window(app, tmp_path):
  """Function that opens a window, by default without cameras; it is closed after the test."""
  windows = []

  def open_window(*, find_cameras=list, load=None, model=None, ready=True, **options):
    predictor = fake_predictor(LEFT, RIGHT, model=model)
    window = LiveWindow(predictor, load, tmp_path / "photos", 0.2, find_cameras=find_cameras, **options)
    windows.append(window)
    window.resize(1000, 640)
    window.show()
    wait_until(lambda: not ready or status_of(window).startswith("Ready: bright"))
    return window

  yield open_window
  for window in windows:
    window.close()
    window.deleteLater()
  QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def status_of(window):
  return window.status.text()


def click(button):
  assert button.isEnabled()
  qt_test.QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def set_dialog_result(monkeypatch, path):
  monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
  monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(path))


class TestButtons:
  def test_open_camera_plays_a_video_and_keeps_the_last_image(self, open_window, video, artefacts):
    window = open_window(source=video)
    assert window.chooser.currentText() == "talk.avi"
    assert not window.photo_button.isEnabled() and not window.close_button.isEnabled()
    click(window.open_button)
    assert not window.open_button.isEnabled()
    wait_until(lambda: status_of(window) == "talk.avi has ended; the last image stays.")
    wait_until(lambda: window.view.found is not None)
    assert window.view.found.image.shape == (240, 320, 3)
    # The panel shows the larger face.
    probability = window.view.found.probability[0]
    np.testing.assert_array_equal(window.panel.bars.probability, probability)
    assert window.panel.label.text() == NAMES[int(probability.argmax())]
    assert window.panel.bars.accessibleName().startswith(f"happy {100 * probability[0]:.0f} %")
    assert window.open_button.isEnabled() and window.close_button.isEnabled()
    shot = window.grab()
    assert shot.save(str(artefacts / "live_light.png"))
    edge = window.view.mapTo(window, window.view.box_in_widget(0).center().toPoint())
    edge.setX(window.view.mapTo(window, window.view.box_in_widget(0).topLeft().toPoint()).x())
    assert shot.toImage().pixelColor(edge * shot.devicePixelRatio()) == BOX

  def test_choose_image_shows_its_faces(self, open_window, scenes, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "two.png"), scenes[5][..., ::-1])
    window = open_window()
    set_dialog_result(monkeypatch, tmp_path / "two.png")
    click(window.image_button)
    wait_until(lambda: status_of(window) == "2 faces in the image.")
    np.testing.assert_array_equal(window.view.found.image, scenes[5])
    assert window.panel.rate.text() == "\N{EN DASH}"
    (tmp_path / "two.png").write_bytes(b"")
    click(window.image_button)
    wait_until(lambda: status_of(window).startswith("two.png cannot be read ("))
    assert window.status.property("error")

  def test_camera_can_be_reopened_after_an_unreadable_image(self, open_window, scenes, tmp_path, monkeypatch):
    camera = FakeCamera(scenes, endless=True)
    window = open_window(source=0, open_source=camera)
    click(window.open_button)
    wait_until(lambda: window.view.found is not None)
    set_dialog_result(monkeypatch, tmp_path / "nowhere.png")
    click(window.image_button)
    wait_until(lambda: status_of(window).startswith("nowhere.png cannot be read ("))
    assert window.chooser.isEnabled()
    click(window.open_button)
    wait_until(lambda: camera.opened == [0, 0])

  def test_take_photo_saves_the_displayed_image(self, open_window, scenes, tmp_path, artefacts):
    camera = FakeCamera(scenes, endless=True)
    window = open_window(source=0, open_source=camera)
    click(window.open_button)
    wait_until(lambda: window.photo_button.isEnabled() and window.panel.rate.text() != "\N{EN DASH}")
    assert camera.opened == [0]
    found = window.view.found
    click(window.photo_button)
    original, copy = sorted((tmp_path / "photos").iterdir())
    assert copy.name == f"{original.stem}_faces.png"
    assert f"saved in {original.parent} as {original.name} and {copy.name}" in status_of(window)
    label = window.panel.label.text()
    assert status_of(window).startswith(label) and label in window.panel.photo.text()
    saved, drawn = cv2.imread(str(original))[..., ::-1], cv2.imread(str(copy))[..., ::-1]
    np.testing.assert_array_equal(saved, found.image)
    changed = (saved != drawn).any(axis=2)
    assert tuple(drawn[120, 40]) == BOX.getRgb()[:3]  # the left edge of LEFT
    assert changed[:, 40].any() and not changed[100:160, 60:140].any()
    window.grab().save(str(artefacts / "live_photo.png"))

  def test_close_camera_ends_the_thread_and_clears_the_image(self, open_window, scenes):
    camera = FakeCamera(scenes, endless=True)
    window = open_window(source=0, open_source=camera)
    click(window.open_button)
    wait_until(lambda: window.view.found is not None)
    click(window.close_button)
    wait_until(lambda: camera.released == 1)
    QApplication.processEvents()
    assert window.view.found is None  # late responses are discarded
    assert window.panel.bars.probability is None
    assert status_of(window) == "Closed."
    assert window.open_button.isEnabled() and not window.close_button.isEnabled()


class TestStatus:
  def test_no_camera_is_reported(self, open_window, artefacts):
    window = open_window()
    assert window.chooser.currentText() == "No camera"
    click(window.open_button)
    assert status_of(window).startswith("No camera was found: connect one")
    window.grab().save(str(artefacts / "live_no_camera.png"))

  def test_camera_that_does_not_open_is_reported(self, open_window):
    window = open_window(source=0, open_source=FakeCamera([]))
    click(window.open_button)
    wait_until(lambda: status_of(window).startswith("Camera 0 cannot be opened: check that it is connected"))
    assert window.open_button.isEnabled()

  def test_lost_camera_is_reported_and_keeps_the_last_image(self, open_window, scenes):
    window = open_window(source=0, open_source=FakeCamera(scenes[:3]))
    click(window.open_button)
    wait_until(lambda: status_of(window) == "Camera 0 was lost; the last image stays.")
    wait_until(lambda: window.view.found is not None and (window.view.found.image == scenes[2]).all())
    assert window.status.property("error")

  def test_error_stays_after_compilation_and_the_last_image(self, open_window, scenes, monkeypatch):
    compiled = threading.Event()

    class Slow(BrightnessModel):
      def logits(self, faces):
        assert compiled.wait(TIMEOUT)
        return super().logits(faces)

    window = open_window(source=0, open_source=FakeCamera(scenes[:1]), model=Slow(), ready=False)
    click(window.open_button)
    wait_until(lambda: status_of(window) == "Camera 0 was lost; the last image stays.")
    compiled.set()
    wait_until(lambda: window.view.found is not None)
    assert status_of(window) == "Camera 0 was lost; the last image stays."
    assert window.status.property("error")

  def test_invalid_run_is_reported_and_another_can_be_opened(self, open_window, monkeypatch, tmp_path):
    def load(workdir):
      if workdir.name == "bad":
        raise UserError("no run has finished there")
      return fake_predictor(LEFT, model=BrightnessModel("another"))

    window = open_window(load=load)
    set_dialog_result(monkeypatch, tmp_path / "bad")
    window.open_run()
    wait_until(lambda: status_of(window) == "no run has finished there")
    set_dialog_result(monkeypatch, tmp_path / "good")
    window.open_run()
    wait_until(lambda: status_of(window).startswith("Ready: another"))

  def test_unsaved_photo_is_reported(self, open_window, scenes, tmp_path):
    (tmp_path / "photos").write_bytes(b"a file where the folder would be")
    window = open_window(source=0, open_source=FakeCamera(scenes, endless=True))
    click(window.open_button)
    wait_until(window.photo_button.isEnabled)
    click(window.photo_button)
    assert status_of(window).startswith("The photo was not saved: ")

  def test_partly_saved_photo_is_removed(self, open_window, scenes, tmp_path, monkeypatch):
    def write(image, path):
      Path(path).write_bytes(b"incomplete")
      return "_faces" not in path

    window = open_window(source=0, open_source=FakeCamera(scenes, endless=True))
    click(window.open_button)
    wait_until(window.photo_button.isEnabled)
    monkeypatch.setattr(QImage, "save", write)
    click(window.photo_button)
    assert status_of(window).startswith("The photo was not saved: ")
    assert list((tmp_path / "photos").iterdir()) == []


def test_click_selects_a_face(open_window, tmp_path, monkeypatch):
  image = uniform_image(0, 240, 320)
  image[:, 180:] = 250
  cv2.imwrite(str(tmp_path / "halves.png"), image)
  window = open_window()
  set_dialog_result(monkeypatch, tmp_path / "halves.png")
  click(window.image_button)
  wait_until(lambda: window.view.found is not None)
  assert window.panel.label.text() == "sad"
  for face, label in ((1, "happy"), (0, "sad")):
    position = window.view.box_in_widget(face).center().toPoint()
    qt_test.QTest.mouseClick(window.view, Qt.MouseButton.LeftButton, pos=position)
    assert window.panel.label.text() == label
  qt_test.QTest.mouseClick(window.view, Qt.MouseButton.LeftButton, pos=QPoint(2, 2))
  assert window.panel.label.text() == "sad"


def source_names(window):
  return [window.chooser.itemText(i) for i in range(window.chooser.count())]


def test_selected_face_stays_selected_while_it_is_not_detected(open_window, scenes):
  hidden = []
  detector = lambda image: [Box(*map(float, box), 1.0) for box in (LEFT, RIGHT)[: 1 if hidden else 2]]  # noqa: E731
  window = open_window(source=0, open_source=FakeCamera(scenes[:1], endless=True), detector=detector)
  click(window.open_button)
  wait_until(lambda: window.view.found is not None)
  window.choose_face(window.view.found.tracks[1])
  assert window.panel.caption.text() == "the face you chose"
  hidden.append(True)
  wait_until(lambda: len(window.view.found.boxes) == 1)
  assert window.panel.caption.text() == "one face"
  hidden.clear()
  wait_until(lambda: len(window.view.found.boxes) == 2)
  assert window.panel.caption.text() == "the face you chose"


def test_another_run_recognises_the_displayed_image_again(open_window, tmp_path, monkeypatch):
  class OtherModel(BrightnessModel):
    class_names = ("low", "high", "middle")

  cv2.imwrite(str(tmp_path / "bright.png"), uniform_image(250, 240, 320))
  window = open_window(load=lambda workdir: fake_predictor(RIGHT, model=OtherModel("another")))
  set_dialog_result(monkeypatch, tmp_path / "bright.png")
  click(window.image_button)
  wait_until(lambda: window.panel.label.text() == "happy")
  window.open_run()
  wait_until(lambda: status_of(window).startswith("Ready: another"))
  wait_until(lambda: window.panel.label.text() == "low")
  assert [box[:4] for box in window.view.found.boxes] == [RIGHT]


def test_exception_in_the_window_loses_no_later_response(open_window, monkeypatch):
  window = open_window(find_cameras=lambda: [0])
  wait_until(lambda: source_names(window) == ["Camera 0"])
  monkeypatch.setattr(sys, "excepthook", lambda *_: None)  # PySide passes exceptions of slots to it
  monkeypatch.setattr(window, "_on_source_ended", lambda ended: 1 / 0)
  window._responses.put(SourceEnded(0, "", False))
  window._responses.put(RecognitionFailed("later"))
  wait_until(lambda: status_of(window) == "later")


def test_chooser_lists_cameras_and_videos(open_window, video, monkeypatch):
  window = open_window(find_cameras=lambda: [0, 2])
  wait_until(lambda: window.chooser.count() == 2)
  assert source_names(window) == ["Camera 0", "Camera 2"]
  assert window.chooser.currentText() == "Camera 0"
  for _ in range(2):
    set_dialog_result(monkeypatch, Path(str(video)))
    window.open_video()
    assert source_names(window) == ["Camera 0", "Camera 2", "talk.avi"]
  wait_until(lambda: window.view.found is not None)
  assert window.chooser.currentText() == "talk.avi"


def test_search_replaces_the_cameras_and_shows_their_number(open_window, scenes):
  found, searched = [0, 2], threading.Event()
  searched.set()

  def find_cameras():
    assert searched.wait(TIMEOUT)
    return list(found)

  camera = FakeCamera(scenes, endless=True)
  window = open_window(find_cameras=find_cameras, open_source=camera)
  wait_until(lambda: source_names(window) == ["Camera 0", "Camera 2"])
  found[:] = [2]
  window.search_cameras()
  wait_until(lambda: status_of(window) == "1 camera was found.")
  assert source_names(window) == ["Camera 2"]
  found[:] = []
  window.search_cameras()
  wait_until(lambda: status_of(window).startswith("No camera was found"))
  assert source_names(window) == ["No camera"]
  # A camera is not opened before the search has ended.
  found[:] = [1]
  window.search_cameras()
  wait_until(lambda: source_names(window) == ["Camera 1"])
  searched.clear()
  window.search_cameras()
  click(window.open_button)
  time.sleep(0.1)
  assert camera.opened == []
  searched.set()
  wait_until(lambda: camera.opened == [1])


def test_closing_hides_the_window_and_reports_running_threads(open_window, monkeypatch):
  hidden = []
  window = open_window()
  monkeypatch.setattr(Recognition, "join", lambda self, timeout: hidden.append(window.isHidden()))
  window.close()
  assert hidden == [True]
  assert not window.ended


def test_closing_ends_both_threads(open_window, scenes, monkeypatch):
  ended = []
  join = Recognition.join
  monkeypatch.setattr(Recognition, "join", lambda self, timeout: ended.append(join(self, timeout)) or ended[-1])
  camera = FakeCamera(scenes, endless=True)
  window = open_window(source=0, open_source=camera)
  click(window.open_button)
  wait_until(lambda: window.view.found is not None)
  window.close()
  assert ended == [True]
  assert window.ended
  assert camera.released == 1


def test_theme_follows_the_system(app, open_window, video, artefacts):
  window = open_window(source=video)
  light = app.palette()
  dark = QPalette(light)
  dark.setColor(QPalette.ColorRole.Window, QColor("#202020"))
  dark.setColor(QPalette.ColorRole.WindowText, QColor("#eeeeee"))
  try:
    app.setPalette(dark)
    click(window.open_button)
    wait_until(lambda: window.view.found is not None and DARK.window in window.styleSheet())
    shot = window.grab()
    assert shot.toImage().pixelColor(3, window.height() // 2) == QColor(DARK.window)
    shot.save(str(artefacts / "live_dark.png"))
    window.resize(640, 480)
    QApplication.processEvents()
    window.grab().save(str(artefacts / "live_small.png"))
  finally:
    app.setPalette(light)
  wait_until(lambda: DARK.window not in window.styleSheet())


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is immortal from Python 3.12 on")
def test_repainting_leaks_no_reference(open_window, scenes):
  """PySide6 6.12.0 releases 46 references to None per image; Python ends when none is left."""
  window = open_window(source=0, open_source=FakeCamera(scenes, endless=True))
  click(window.open_button)
  wait_until(lambda: window.view.found is not None)
  before, seen = sys.getrefcount(None), set()
  wait_until(lambda: seen.add(window.view.found.captured_at) or len(seen) > 30)
  assert sys.getrefcount(None) > before - 500
