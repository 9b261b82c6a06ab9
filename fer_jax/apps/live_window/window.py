"""Main window: buttons and menu, the image with its recognised faces, and the threads that feed it."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from PySide6.QtCore import QEventLoop, Qt, Signal
from PySide6.QtGui import QCloseEvent, QKeySequence
from PySide6.QtWidgets import (
  QApplication,
  QFileDialog,
  QHBoxLayout,
  QLabel,
  QMainWindow,
  QPushButton,
  QVBoxLayout,
  QWidget,
)

from fer_jax.apps.live_window.capture import Capture, CapturedImage, Ended, Open, Source, cameras, name_of
from fer_jax.apps.live_window.mailbox import Mailbox
from fer_jax.apps.live_window.painting import annotated, caption, image_of
from fer_jax.apps.live_window.panel import Panel
from fer_jax.apps.live_window.recognition import Answer, Order, Ready, Recognition, Recognized, Run, Still, Trouble
from fer_jax.apps.live_window.style import colours_of, sheet
from fer_jax.apps.live_window.widgets import Chooser, ImageView
from fer_jax.faces.detection import Detector
from fer_jax.faces.video import Video
from fer_jax.inference.predictor import Predictor

_SENTENCE_PIXELS = 46  # height of two lines, so the layout does not move for long sentences
_PATIENCE = 5.0  # timeout in seconds for a thread to end
_INVITATION = "Open a camera or choose an image"
_IMAGES = "Images (*.png *.jpg *.jpeg *.webp *.bmp *.gif *.tif *.tiff);;All files (*)"
_VIDEOS = "Videos (*.mp4 *.avi *.mkv *.mov *.webm);;All files (*)"
_NO_CAMERA = "No camera was found: connect one and press F5, or open a video or an image."


@dataclass(frozen=True)
class Cameras:
  """Message with the indices of the available cameras."""

  indices: list[int]


class LiveWindow(QMainWindow):
  """Shows a camera, a video or an image with its recognised expressions. Starts its threads and ends them on closing.

  Args:
    predictor: Initial predictor, used until another run is opened.
    load: Function that returns the predictor of a run's folder, or raises UserError.
    photos: Folder for photos; created when the first photo is taken.
    smoothing: Half-life of the smoothing in seconds, see `Recognizer`.
    detector: Faster detector for cameras and videos, see `Recognizer`.
    source: Camera or video that the chooser offers first.
    open_source: Function that opens a camera or video, see `Capture`.
    find_cameras: Function that returns the camera indices, called in a separate thread; None for `cameras`.

  Attributes:
    ended: Whether all threads had ended when the window was closed.
  """

  arrived = Signal()
  """Emitted when the mailbox of answers has a message; connects the worker threads with the GUI thread."""

  def __init__(
    self,
    predictor: Predictor,
    load: Callable[[Path], Predictor],
    photos: Path,
    smoothing: float,
    detector: Detector | None = None,
    source: Source | None = None,
    open_source: Open = Video,
    find_cameras: Callable[[], list[int]] | None = None,
  ):
    super().__init__()
    self._photos, self._open_source, self._find_cameras = photos, open_source, find_cameras or cameras
    self._class_names = predictor.classifier.class_names
    self._capture: Capture | None = None
    self._last: Capture | None = None  # the previous capture, which may still be running
    self._search: threading.Thread | None = None  # may still be running too
    self._asked = False  # whether the user requested the search
    self._source: Source | None = None  # of the current session; None for an image
    self.ended = False
    self._session = 0
    self._chosen: int | None = None
    self._build()
    self.chooser.offer([] if source is None else [source], source)
    self.arrived.connect(self._take_answer, Qt.ConnectionType.QueuedConnection)
    self._answers: Mailbox[Answer | Ended | Cameras] = Mailbox(self.arrived.emit)
    self._orders: Mailbox[Order] = Mailbox()
    self._recognition = Recognition(predictor, load, self._orders, self._answers.put, smoothing, detector)
    self._recognition.start()
    self.say("The network is being compiled ...")
    self._look_for_cameras()

  def open_camera(self) -> None:
    """Opens the selected camera or video."""
    source: Source | None = self.chooser.currentData()
    if source is None:
      self.say(_NO_CAMERA, trouble=True)
      return
    self._begin()
    self._source = source
    self.say(f"Opening {name_of(source)} ...")
    self._capture = Capture(source, self._session, self._orders.put, self._answers.put, self._open_source)
    self._capture.start(self._last, self._search if isinstance(source, int) else None)
    self._last = self._capture
    self._enable()

  def choose_image(self) -> None:
    """Shows a file dialog and recognises the faces in the chosen image."""
    if path := self._ask_for("Choose an image", _IMAGES):
      self._begin()
      self.say(f"Reading {path.name} ...")
      self._orders.put(Still(self._session, path))

  def take_photo(self) -> None:
    """Saves the displayed image and an annotated copy, and shows the predictions as a sentence."""
    found = self.view.found
    if found is None:
      self.say("There is no image yet: open a camera or choose an image.", trouble=True)
      return
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]
    plain, marked = self._photos / f"{name}.png", self._photos / f"{name}_faces.png"
    image = annotated(found, self._chosen)
    try:
      self._photos.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      self.say(f"The photo was not saved: {self._photos} cannot be created ({error.strerror}).", trouble=True)
      return
    # Both files or none: after a failed save, whatever was written is removed.
    if not (image_of(found.image).save(str(plain)) and image.save(str(marked))):
      for path in (plain, marked):
        with contextlib.suppress(OSError):
          path.unlink()
      self.say(f"The photo was not saved: {self._photos} cannot be written to.", trouble=True)
      return
    what = ", ".join(caption(found, face) for face in range(len(found.boxes))) or "no face"
    self.panel.show_photo(image, f"Last photo: {what}")
    self.say(f"{what} \N{MIDDLE DOT} saved in {self._photos} as {plain.name} and {marked.name}")

  def close_camera(self) -> None:
    """Closes the camera, video or image."""
    self._begin()
    self.view.show_image(None, None)
    self._show_face()
    self.say("Closed.")
    self._enable()

  def open_run(self) -> None:
    """Shows a folder dialog and switches to the network of the chosen run."""
    if folder := QFileDialog.getExistingDirectory(self, "Open the folder of a finished run"):
      self.say(f"Loading {folder} ...")
      self._orders.put(Run(Path(folder)))

  def open_video(self) -> None:
    """Shows a file dialog and opens the chosen video instead of a camera."""
    if path := self._ask_for("Open a video", _VIDEOS):
      self.chooser.offer([*self.chooser.sources, path], path)
      self.open_camera()

  def choose_photo_folder(self) -> None:
    """Shows a folder dialog for the folder of saved photos."""
    if folder := QFileDialog.getExistingDirectory(self, "Folder for photos", str(self._photos)):
      self._photos = Path(folder)
      self.say(f"Photos are saved in {folder}.")

  def look_for_cameras(self) -> None:
    """Searches for cameras in the background; then updates the chooser and shows the number of cameras found."""
    if self._capture is not None:
      self.say("Close the camera or video before searching for cameras.", trouble=True)
    else:
      self._asked = True
      self.say("Searching for cameras ...")
      if self._search is None or not self._search.is_alive():
        self._look_for_cameras()

  def choose_face(self, track: int) -> None:
    """Shows the probabilities of the face with this track, as long as it is tracked."""
    self._chosen = track
    self._show_face()

  def say(self, sentence: str, trouble: bool = False) -> None:
    """Shows a sentence at the bottom of the window, in the error colour if `trouble`."""
    self.sentence.setText(sentence)
    self.sentence.setProperty("trouble", trouble)
    # Qt evaluates a property selector of the style sheet only when the widget is polished.
    self.sentence.style().polish(self.sentence)

  def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
    """Hides the window and ends the threads; sets `ended` to whether they ended within the timeout."""
    self.hide()
    QApplication.processEvents(QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)
    self._answers.close()
    self._recognition.stop()
    self._begin()
    self.ended = self._recognition.join(_PATIENCE) and (self._last is None or self._last.join(_PATIENCE))
    if self._search is not None:
      self._search.join(_PATIENCE)
      self.ended = self.ended and not self._search.is_alive()
    event.accept()

  def _begin(self) -> None:
    """Begins a new session: stops the open source without joining its thread; late results are discarded."""
    self._session += 1
    self._chosen = self._source = None
    self.panel.stop_counting()
    capture, self._capture = self._capture, None
    if capture is not None:
      capture.stop()
    self._enable()

  def _look_for_cameras(self) -> None:
    def search(last: Capture | None = self._last) -> None:
      if last is not None:
        last.join(_PATIENCE)  # a camera in use would seem unavailable
      self._answers.put(Cameras(self._find_cameras()))

    self._search = threading.Thread(target=search, name="search for cameras", daemon=True)
    self._search.start()

  def _take_answer(self) -> None:
    answer = self._answers.take()
    # The mailbox notifies only when it was empty: emit for the next message first, in case this one fails.
    if self._answers.waiting:
      self.arrived.emit()
    if isinstance(answer, Recognized):
      self._show(answer)
    elif isinstance(answer, Ended):
      self._end(answer)
    elif isinstance(answer, Cameras):
      self._show_cameras(answer.indices)
    elif isinstance(answer, Ready):
      self._use(answer)
    elif isinstance(answer, Trouble):
      self.say(answer.sentence, trouble=True)

  def _use(self, ready: Ready) -> None:
    """Clears the previous network's results, and recognises the displayed image again if no source is open."""
    self._class_names, self._chosen = ready.class_names, None
    found = self.view.found
    if found is not None:
      nothing = np.zeros((0, len(ready.class_names)), np.float32)
      cleared = replace(found, boxes=[], tracks=[], probability=nothing, class_names=ready.class_names)
      self.view.show_image(cleared, None)
      if self._capture is None and found.session == self._session:
        self._orders.put(CapturedImage(found.session, found.image, None, time.perf_counter()))
    self._show_face()
    if not self.sentence.property("trouble"):
      self.say(ready.sentence)

  def _show_cameras(self, indices: list[int]) -> None:
    asked, self._asked = self._asked, False
    files = [source for source in self.chooser.sources if isinstance(source, Path)]
    # Keep the cameras from the command line in the automatic search at the start, and always the open camera.
    known = [source for source in self.chooser.sources if isinstance(source, int)]
    kept = [source for source in known if not asked or (self._capture is not None and source == self._source)]
    self.chooser.offer([*sorted({*indices, *kept}), *files], self.chooser.currentData())
    if asked and self._capture is None:
      number = len(indices)
      sentence = f"{number} camera{'s were' if number > 1 else ' was'} found." if number else _NO_CAMERA
      self.say(sentence, trouble=not number)

  def _show(self, found: Recognized) -> None:
    if found.session != self._session:
      return
    first = self.view.found is None or self.view.found.session != found.session
    self.view.show_image(found, self._chosen)
    self._class_names = found.class_names
    self._show_face()
    if self._capture is not None:
      self.panel.count(found.captured_at)
    if first:
      if self._source is None:
        self.say(_faces(found))
      elif self._capture is not None:
        self.say(name_of(self._source))
      self._enable()

  def _end(self, ended: Ended) -> None:
    if ended.session == self._session:
      self._capture = None
      self.panel.stop_counting()
      self.say(ended.sentence, trouble=not ended.expected)
      self._enable()

  def _show_face(self) -> None:
    found = self.view.found
    if found is None or not found.boxes:
      self.panel.show_face(self._class_names, None, "no face")
      return
    # A chosen face that is not detected for a moment remains chosen; the largest face is shown meanwhile.
    chosen = self._chosen in found.tracks
    face = found.tracks.index(self._chosen) if self._chosen is not None and chosen else 0
    which = "the face you chose" if chosen else "the largest face" if len(found.boxes) > 1 else "one face"
    self.view.show_image(found, found.tracks[face])
    self.panel.show_face(found.class_names, found.probability[face], which)

  def _ask_for(self, title: str, kinds: str) -> Path | None:
    name, _ = QFileDialog.getOpenFileName(self, title, "", kinds)
    return Path(name) if name else None

  def _build(self) -> None:
    self.setWindowTitle("Facial expressions")
    self.view, self.panel = ImageView(_INVITATION), Panel(self._class_names)
    self.view.face_clicked.connect(self.choose_face)
    self.chooser = Chooser()
    self.chooser.setAccessibleName("Camera")
    self.chooser.setMinimumContentsLength(12)
    self.open_button = _button("Open camera", "Ctrl+O", self.open_camera)
    self.image_button = _button("Choose image", "Ctrl+I", self.choose_image)
    self.photo_button = _button("Take photo and recognise", "Ctrl+P", self.take_photo)
    self.close_button = _button("Close camera", "Esc", self.close_camera)
    self.photo_button.setObjectName("primary")
    self.sentence = QLabel()
    self.sentence.setObjectName("sentence")
    self.sentence.setWordWrap(True)
    self.sentence.setAlignment(Qt.AlignmentFlag.AlignTop)
    self.sentence.setFixedHeight(_SENTENCE_PIXELS)
    actions = QHBoxLayout()
    actions.setSpacing(8)
    for widget in (self.chooser, self.open_button, self.image_button, self.photo_button, self.close_button):
      actions.addWidget(widget)
    actions.insertStretch(3)
    upper = QHBoxLayout()
    upper.setSpacing(14)
    upper.addWidget(self.view, 1)
    upper.addWidget(self.panel)
    whole = QWidget()
    layout = QVBoxLayout(whole)
    layout.setContentsMargins(14, 6, 14, 4)
    layout.setSpacing(12)
    layout.addLayout(upper, 1)
    layout.addLayout(actions)
    layout.addWidget(self.sentence)
    self.setCentralWidget(whole)
    menu = self.menuBar().addMenu("&File")
    menu.addAction("Open run...", QKeySequence("Ctrl+R"), self.open_run)
    menu.addAction("Open video...", QKeySequence("Ctrl+Shift+O"), self.open_video)
    menu.addAction("Photo folder...", self.choose_photo_folder)
    menu.addAction("Search for cameras", QKeySequence("F5"), self.look_for_cameras)
    menu.addSeparator()
    menu.addAction("Quit", QKeySequence("Ctrl+Q"), self.close)
    # A style sheet overrides the palette, so a change between light and dark needs a new style sheet.
    application().paletteChanged.connect(self._dress)
    self._dress()
    self._enable()

  def _enable(self) -> None:
    self.open_button.setEnabled(self._capture is None)
    self.chooser.setEnabled(self._capture is None)
    self.photo_button.setEnabled(self.view.found is not None)
    self.close_button.setEnabled(self._capture is not None or self.view.found is not None)

  def _dress(self) -> None:
    """Applies the light or dark theme of the system."""
    colours = colours_of(QApplication.palette())
    dressed = sheet(colours)
    if dressed != self.styleSheet():
      self.view.colours = colours
      self.panel.set_colours(colours)
      self.setStyleSheet(dressed)


@functools.cache  # Qt crashes if the object is garbage-collected
def application() -> QApplication:
  """Returns the QApplication of the process, created if necessary."""
  app = QApplication.instance()
  if isinstance(app, QApplication):
    return app
  made = QApplication(["fer_jax"])
  made.setStyle("Fusion")  # style sheets look the same in this style on every system
  return made


def _button(text: str, keys: str, action: Callable[[], None]) -> QPushButton:
  button = QPushButton(text)
  button.setShortcut(QKeySequence(keys))
  button.setToolTip(f"{text} ({keys})")
  button.clicked.connect(action)
  return button


def _faces(found: Recognized) -> str:
  number = len(found.boxes)
  return "No face was found in the image." if not number else f"{number} face{'s' if number > 1 else ''} in the image."
