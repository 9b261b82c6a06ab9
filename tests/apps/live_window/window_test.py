"""The live window without a screen: a click on each action, and what the window then shows."""

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

from fer_jax.apps.live_window.capture import Ended  # noqa: E402
from fer_jax.apps.live_window.recognition import Recognition, Trouble  # noqa: E402
from fer_jax.apps.live_window.style import BOX, DARK  # noqa: E402
from fer_jax.apps.live_window.window import LiveWindow, application  # noqa: E402
from fer_jax.data.builders.synthetic_faces.images import render_image  # noqa: E402
from fer_jax.faces.detection import Box  # noqa: E402
from fer_jax.runtime.errors import UserError  # noqa: E402
from tests.apps.live_window.stand_ins import NAMES, Brightness, Camera, lit, predictor_of, write_video  # noqa: E402

LEFT, RIGHT = (40, 60, 120, 120), (190, 80, 90, 90)
PATIENCE = 30.0


@pytest.fixture(scope="module")
def app():
  return application()


def until(condition):
  """Lets the window work until something holds."""
  end = time.monotonic() + PATIENCE
  while not condition():
    assert time.monotonic() < end, "the window never came to that"
    QApplication.processEvents()
    time.sleep(0.002)


@pytest.fixture(scope="module")
def scenes():
  """A face from the left to the right, and one that stays, before a plain wall."""
  faces = [render_image(0, subject, "happy", 0, 120, yaw=0.0)[..., None] for subject in (3, 5)]
  images = []
  for number in range(12):
    image = np.full((240, 320, 3), (96, 124, 150), np.uint8)
    image[60:180, 20 + 4 * number : 140 + 4 * number] = faces[0]
    image[80:170, 190:280] = cv2.resize(faces[1], (90, 90))[..., None]
    images.append(image)
  return images


@pytest.fixture(scope="module")
def video(scenes, tmp_path_factory):
  return write_video(tmp_path_factory.mktemp("video") / "talk.avi", scenes)


@pytest.fixture
def artefacts(tmp_path):
  folder = Path(os.environ.get("FER_JAX_TEST_ARTEFACTS", tmp_path))
  folder.mkdir(parents=True, exist_ok=True)
  return folder


@pytest.fixture
def open_window(app, tmp_path):
  """Opens a window that is closed after the test; it finds no camera if it is not told of one."""
  windows = []

  def open_window(*, find_cameras=list, load=None, classifier=None, ready=True, **options):
    predictor = predictor_of(LEFT, RIGHT, classifier=classifier)
    window = LiveWindow(predictor, load, tmp_path / "photos", 0.2, find_cameras=find_cameras, **options)
    windows.append(window)
    window.resize(1000, 640)
    window.show()
    until(lambda: not ready or said(window).startswith("Ready: bright"))
    return window

  yield open_window
  for window in windows:
    window.close()
    window.deleteLater()
  QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def said(window):
  return window.sentence.text()


def click(button):
  assert button.isEnabled()
  qt_test.QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def choose(monkeypatch, path):
  monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
  monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(path))


class TestTheFourActions:
  def test_open_camera_plays_a_video_and_the_last_picture_stays(self, open_window, video, artefacts):
    window = open_window(source=video)
    assert window.chooser.currentText() == "talk.avi"
    assert not window.photo_button.isEnabled() and not window.close_button.isEnabled()
    click(window.open_button)
    assert not window.open_button.isEnabled()
    until(lambda: said(window) == "talk.avi has ended; the last image stays.")
    until(lambda: window.view.found is not None)
    assert window.view.found.image.shape == (240, 320, 3)
    # The larger of the two faces, and its word.
    probability = window.view.found.probability[0]
    np.testing.assert_array_equal(window.panel.bars.probability, probability)
    assert window.panel.word.text() == NAMES[int(probability.argmax())]
    assert window.panel.bars.accessibleName().startswith(f"happy {100 * probability[0]:.0f} %")
    assert window.open_button.isEnabled() and window.close_button.isEnabled()
    shot = window.grab()
    assert shot.save(str(artefacts / "live_light.png"))
    edge = window.view.mapTo(window, window.view.place_of(0).center().toPoint())
    edge.setX(window.view.mapTo(window, window.view.place_of(0).topLeft().toPoint()).x())
    assert shot.toImage().pixelColor(edge * shot.devicePixelRatio()) == BOX

  def test_choose_image(self, open_window, scenes, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "two.png"), scenes[5][..., ::-1])
    window = open_window()
    choose(monkeypatch, tmp_path / "two.png")
    click(window.image_button)
    until(lambda: said(window) == "2 faces in the image.")
    np.testing.assert_array_equal(window.view.found.image, scenes[5])
    assert window.panel.rate.text() == "\N{EN DASH}"
    (tmp_path / "two.png").write_bytes(b"")
    click(window.image_button)
    until(lambda: said(window).startswith("two.png cannot be read ("))
    assert window.sentence.property("trouble")

  def test_a_bad_image_does_not_keep_a_camera_from_being_opened_again(self, open_window, scenes, tmp_path, monkeypatch):
    camera = Camera(scenes, alive=True)
    window = open_window(source=0, open_source=camera)
    click(window.open_button)
    until(lambda: window.view.found is not None)
    choose(monkeypatch, tmp_path / "nowhere.png")
    click(window.image_button)
    until(lambda: said(window).startswith("nowhere.png cannot be read ("))
    assert window.chooser.isEnabled()
    click(window.open_button)
    until(lambda: camera.opened == [0, 0])

  def test_take_photo_saves_what_is_shown_and_says_where(self, open_window, scenes, tmp_path, artefacts):
    camera = Camera(scenes, alive=True)
    window = open_window(source=0, open_source=camera)
    click(window.open_button)
    until(lambda: window.photo_button.isEnabled() and window.panel.rate.text() != "\N{EN DASH}")
    assert camera.opened == [0]
    found = window.view.found
    click(window.photo_button)
    plain, marked = sorted((tmp_path / "photos").iterdir())
    assert marked.name == f"{plain.stem}_faces.png"
    assert f"saved in {plain.parent} as {plain.name} and {marked.name}" in said(window)
    word = window.panel.word.text()
    assert said(window).startswith(word) and word in window.panel.photo.text()
    saved, drawn = cv2.imread(str(plain))[..., ::-1], cv2.imread(str(marked))[..., ::-1]
    np.testing.assert_array_equal(saved, found.image)
    changed = (saved != drawn).any(axis=2)
    assert tuple(drawn[120, 40]) == BOX.getRgb()[:3]  # the left edge of LEFT
    assert changed[:, 40].any() and not changed[100:160, 60:140].any()
    window.grab().save(str(artefacts / "live_photo.png"))

  def test_close_camera_ends_the_thread_and_empties_the_picture(self, open_window, scenes):
    camera = Camera(scenes, alive=True)
    window = open_window(source=0, open_source=camera)
    click(window.open_button)
    until(lambda: window.view.found is not None)
    click(window.close_button)
    until(lambda: camera.released == 1)
    QApplication.processEvents()
    assert window.view.found is None  # nor does a late answer bring it back
    assert window.panel.bars.probability is None
    assert said(window) == "Closed."
    assert window.open_button.isEnabled() and not window.close_button.isEnabled()


class TestSentences:
  def test_no_camera(self, open_window, artefacts):
    window = open_window()
    assert window.chooser.currentText() == "No camera"
    click(window.open_button)
    assert said(window).startswith("No camera was found: connect one")
    window.grab().save(str(artefacts / "live_no_camera.png"))

  def test_a_camera_that_does_not_open(self, open_window):
    window = open_window(source=0, open_source=Camera([]))
    click(window.open_button)
    until(lambda: said(window).startswith("Camera 0 cannot be opened: check that it is connected"))
    assert window.open_button.isEnabled()

  def test_a_camera_that_is_lost_leaves_its_last_picture(self, open_window, scenes):
    window = open_window(source=0, open_source=Camera(scenes[:3]))
    click(window.open_button)
    until(lambda: said(window) == "Camera 0 was lost; the last image stays.")
    until(lambda: window.view.found is not None and (window.view.found.image == scenes[2]).all())
    assert window.sentence.property("trouble")

  def test_a_sentence_of_trouble_outlives_the_compiling_and_the_last_picture(self, open_window, scenes, monkeypatch):
    compiled = threading.Event()

    class Slow(Brightness):
      def logits(self, faces):
        assert compiled.wait(PATIENCE)
        return super().logits(faces)

    window = open_window(source=0, open_source=Camera(scenes[:1]), classifier=Slow(), ready=False)
    click(window.open_button)
    until(lambda: said(window) == "Camera 0 was lost; the last image stays.")
    compiled.set()
    until(lambda: window.view.found is not None)
    assert said(window) == "Camera 0 was lost; the last image stays."
    assert window.sentence.property("trouble")

  def test_a_bad_run_chosen_in_the_window(self, open_window, monkeypatch, tmp_path):
    def load(workdir):
      if workdir.name == "bad":
        raise UserError("no run has finished there")
      return predictor_of(LEFT, classifier=Brightness("another"))

    window = open_window(load=load)
    choose(monkeypatch, tmp_path / "bad")
    window.open_run()
    until(lambda: said(window) == "no run has finished there")
    choose(monkeypatch, tmp_path / "good")
    window.open_run()
    until(lambda: said(window).startswith("Ready: another"))

  def test_photos_that_cannot_be_saved(self, open_window, scenes, tmp_path):
    (tmp_path / "photos").write_bytes(b"a file where the folder would be")
    window = open_window(source=0, open_source=Camera(scenes, alive=True))
    click(window.open_button)
    until(window.photo_button.isEnabled)
    click(window.photo_button)
    assert said(window).startswith("The photo was not saved: ")

  def test_a_photo_of_which_one_file_cannot_be_written_leaves_none(self, open_window, scenes, tmp_path, monkeypatch):
    def write(plain, path):
      Path(path).write_bytes(b"half of it")
      return "_faces" not in path

    window = open_window(source=0, open_source=Camera(scenes, alive=True))
    click(window.open_button)
    until(window.photo_button.isEnabled)
    monkeypatch.setattr(QImage, "save", write)
    click(window.photo_button)
    assert said(window).startswith("The photo was not saved: ")
    assert list((tmp_path / "photos").iterdir()) == []


def test_a_click_on_a_face_shows_its_bars(open_window, tmp_path, monkeypatch):
  image = lit(0, 240, 320)
  image[:, 180:] = 250
  cv2.imwrite(str(tmp_path / "halves.png"), image)
  window = open_window()
  choose(monkeypatch, tmp_path / "halves.png")
  click(window.image_button)
  until(lambda: window.view.found is not None)
  assert window.panel.word.text() == "sad"
  for face, word in ((1, "happy"), (0, "sad")):
    place = window.view.place_of(face).center().toPoint()
    qt_test.QTest.mouseClick(window.view, Qt.MouseButton.LeftButton, pos=place)
    assert window.panel.word.text() == word
  qt_test.QTest.mouseClick(window.view, Qt.MouseButton.LeftButton, pos=QPoint(2, 2))
  assert window.panel.word.text() == "sad"


def offered(window):
  return [window.chooser.itemText(i) for i in range(window.chooser.count())]


def test_a_chosen_face_is_chosen_again_when_it_was_missed(open_window, scenes):
  hidden = []
  detector = lambda image: [Box(*map(float, box), 1.0) for box in (LEFT, RIGHT)[: 1 if hidden else 2]]  # noqa: E731
  window = open_window(source=0, open_source=Camera(scenes[:1], alive=True), detector=detector)
  click(window.open_button)
  until(lambda: window.view.found is not None)
  window.choose_face(window.view.found.tracks[1])
  assert window.panel.of.text() == "the face you chose"
  hidden.append(True)
  until(lambda: len(window.view.found.boxes) == 1)
  assert window.panel.of.text() == "one face"
  hidden.clear()
  until(lambda: len(window.view.found.boxes) == 2)
  assert window.panel.of.text() == "the face you chose"


def test_another_run_takes_the_last_picture_anew(open_window, tmp_path, monkeypatch):
  class Gloomy(Brightness):
    class_names = ("low", "high", "middle")

  cv2.imwrite(str(tmp_path / "bright.png"), lit(250, 240, 320))
  window = open_window(load=lambda workdir: predictor_of(RIGHT, classifier=Gloomy("another")))
  choose(monkeypatch, tmp_path / "bright.png")
  click(window.image_button)
  until(lambda: window.panel.word.text() == "happy")
  window.open_run()
  until(lambda: said(window).startswith("Ready: another"))
  until(lambda: window.panel.word.text() == "low")
  assert [box[:4] for box in window.view.found.boxes] == [RIGHT]


def test_an_error_in_the_window_loses_no_later_message(open_window, monkeypatch):
  window = open_window(find_cameras=lambda: [0])
  until(lambda: offered(window) == ["Camera 0"])
  monkeypatch.setattr(sys, "excepthook", lambda *_: None)  # where PySide takes what goes wrong in a slot
  monkeypatch.setattr(window, "_end", lambda ended: 1 / 0)
  window._answers.put(Ended(0, "", False))
  window._answers.put(Trouble("later"))
  until(lambda: said(window) == "later")


def test_the_chooser_offers_the_cameras_that_open_and_a_video(open_window, video, monkeypatch):
  window = open_window(find_cameras=lambda: [0, 2])
  until(lambda: window.chooser.count() == 2)
  assert offered(window) == ["Camera 0", "Camera 2"]
  assert window.chooser.currentText() == "Camera 0"
  for _ in range(2):
    choose(monkeypatch, Path(str(video)))
    window.open_video()
    assert offered(window) == ["Camera 0", "Camera 2", "talk.avi"]
  until(lambda: window.view.found is not None)
  assert window.chooser.currentText() == "talk.avi"


def test_looking_for_cameras_replaces_those_of_before_and_says_how_many(open_window, scenes):
  found, searched = [0, 2], threading.Event()
  searched.set()

  def find_cameras():
    assert searched.wait(PATIENCE)
    return list(found)

  camera = Camera(scenes, alive=True)
  window = open_window(find_cameras=find_cameras, open_source=camera)
  until(lambda: offered(window) == ["Camera 0", "Camera 2"])
  found[:] = [2]
  window.look_for_cameras()
  until(lambda: said(window) == "1 camera was found.")
  assert offered(window) == ["Camera 2"]
  found[:] = []
  window.look_for_cameras()
  until(lambda: said(window).startswith("No camera was found"))
  assert offered(window) == ["No camera"]
  # What is opened while cameras are looked for waits for that.
  found[:] = [1]
  window.look_for_cameras()
  until(lambda: offered(window) == ["Camera 1"])
  searched.clear()
  window.look_for_cameras()
  click(window.open_button)
  time.sleep(0.1)
  assert camera.opened == []
  searched.set()
  until(lambda: camera.opened == [1])


def test_closing_the_window_hides_it_and_tells_whether_a_thread_is_left(open_window, monkeypatch):
  hidden = []
  window = open_window()
  monkeypatch.setattr(Recognition, "join", lambda self, timeout: hidden.append(window.isHidden()))
  window.close()
  assert hidden == [True]
  assert not window.ended


def test_closing_the_window_ends_both_threads(open_window, scenes, monkeypatch):
  ended = []
  join = Recognition.join
  monkeypatch.setattr(Recognition, "join", lambda self, timeout: ended.append(join(self, timeout)) or ended[-1])
  camera = Camera(scenes, alive=True)
  window = open_window(source=0, open_source=camera)
  click(window.open_button)
  until(lambda: window.view.found is not None)
  window.close()
  assert ended == [True]
  assert window.ended
  assert camera.released == 1


def test_it_follows_the_system_into_the_dark(app, open_window, video, artefacts):
  window = open_window(source=video)
  light = app.palette()
  dark = QPalette(light)
  dark.setColor(QPalette.ColorRole.Window, QColor("#202020"))
  dark.setColor(QPalette.ColorRole.WindowText, QColor("#eeeeee"))
  try:
    app.setPalette(dark)
    click(window.open_button)
    until(lambda: window.view.found is not None and DARK.window in window.styleSheet())
    shot = window.grab()
    assert shot.toImage().pixelColor(3, window.height() // 2) == QColor(DARK.window)
    shot.save(str(artefacts / "live_dark.png"))
    window.resize(640, 480)
    QApplication.processEvents()
    window.grab().save(str(artefacts / "live_small.png"))
  finally:
    app.setPalette(light)
  until(lambda: DARK.window not in window.styleSheet())


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is immortal from Python 3.12 on")
def test_repainting_gives_no_reference_away(open_window, scenes):
  """PySide6 6.12.0 gave away 46 for each captured, and Python ended with the last of them."""
  window = open_window(source=0, open_source=Camera(scenes, alive=True))
  click(window.open_button)
  until(lambda: window.view.found is not None)
  before, seen = sys.getrefcount(None), set()
  until(lambda: seen.add(window.view.found.captured_at) or len(seen) > 30)
  assert sys.getrefcount(None) > before - 500
