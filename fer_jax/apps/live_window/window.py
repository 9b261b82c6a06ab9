"""The window: four actions, the picture, and what is recognised in it."""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from PySide6.QtCore import Qt, Signal
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

from fer_jax.apps.live_window.capture import Capture, Ended, Open, Source, cameras, name_of
from fer_jax.apps.live_window.mailbox import Mailbox
from fer_jax.apps.live_window.painting import annotated, caption, image_of
from fer_jax.apps.live_window.panel import Panel
from fer_jax.apps.live_window.recognition import Answer, Order, Ready, Recognition, Recognized, Run, Still, Trouble
from fer_jax.apps.live_window.style import colours_of, sheet
from fer_jax.apps.live_window.widgets import Chooser, PictureView
from fer_jax.faces.detection import Detector
from fer_jax.faces.video import Video
from fer_jax.predictor import Predictor

_SENTENCE_PIXELS = 46  # of two lines, so that nothing moves when a sentence is long
_PATIENCE = 5.0  # seconds that a thread is given to end
_INVITATION = "Open a camera or choose an image"
_IMAGES = "Images (*.png *.jpg *.jpeg *.webp *.bmp *.gif *.tif *.tiff);;All files (*)"
_VIDEOS = "Videos (*.mp4 *.avi *.mkv *.mov *.webm);;All files (*)"
_NO_CAMERA = "No camera was found: connect one and press F5, or open a video or an image."


@dataclass(frozen=True)
class Cameras:
  """The cameras that can be opened."""

  indices: list[int]


class LiveWindow(QMainWindow):
  """Shows a camera, a video or an image, and what the faces in it express. It starts the threads; closing ends them.

  Args:
    predictor: what is used until another run is opened.
    load: returns the predictor of a run; raises UserError.
    photos: folder of the photos; it is made when the first is taken.
    smoothing: half-life in seconds, see `Recognition`.
    detector: for cameras and videos, see `Recognizer`.
    source: what the chooser offers first.
    open_source: opens a camera or video, see `Capture`.
    find_cameras: returns the indices of the cameras; called in a thread of its own.
  """

  arrived = Signal()
  """Something lies in the answers' mailbox."""

  def __init__(
    self,
    predictor: Predictor,
    load: Callable[[Path], Predictor],
    photos: Path,
    smoothing: float,
    detector: Detector | None = None,
    source: Source | None = None,
    open_source: Open = Video,
    find_cameras: Callable[[], list[int]] = cameras,
  ):
    super().__init__()
    self._photos, self._open_source, self._find_cameras = photos, open_source, find_cameras
    self._class_names = predictor.classifier.class_names
    self._capture: Capture | None = None
    self._last: Capture | None = None  # perhaps not ended yet
    self._session = 0
    self._chosen: int | None = None
    self._build()
    if source is not None:
      self._offer(source)
    self.arrived.connect(self._empty_mailbox, Qt.ConnectionType.QueuedConnection)
    self._answers: Mailbox[Answer | Ended | Cameras] = Mailbox(self.arrived.emit)
    self._orders: Mailbox[Order] = Mailbox()
    self._recognition = Recognition(predictor, load, self._orders, self._answers.put, smoothing, detector)
    self._recognition.start()
    self.say("The network is being compiled ...")
    self.look_for_cameras()

  def open_camera(self) -> None:
    """Opens the camera or video that the chooser shows."""
    source: Source | None = self.chooser.currentData()
    if source is None:
      self.say(_NO_CAMERA, trouble=True)
      return
    self._begin(None)
    self.say(f"Opening {name_of(source)} ...")
    self._capture = Capture(source, self._session, self._orders.put, self._answers.put, self._open_source)
    self._capture.start(self._last)
    self._last = self._capture
    self._enable()

  def choose_image(self) -> None:
    """Asks for an image file and recognises the faces in it."""
    if path := self._ask_for("Choose an image", _IMAGES):
      self._begin(None)
      self.say(f"Reading {path.name} ...")
      self._orders.put(Still(self._session, path))

  def take_photo(self) -> None:
    """Saves the picture that is shown, and beside it the same with its faces marked, and says what was recognised."""
    found = self.view.found
    if found is None:
      self.say("There is no picture yet: open a camera or choose an image.", trouble=True)
      return
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]
    plain, marked = self._photos / f"{name}.png", self._photos / f"{name}_faces.png"
    image = annotated(found, self._chosen)
    try:
      self._photos.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      self.say(f"The photo was not saved: {self._photos} cannot be made ({error.strerror}).", trouble=True)
      return
    if not (image_of(found.image).save(str(plain)) and image.save(str(marked))):
      plain.unlink(missing_ok=True)
      self.say(f"The photo was not saved: {self._photos} cannot be written to.", trouble=True)
      return
    what = ", ".join(caption(found, face) for face in range(len(found.boxes))) or "no face"
    self.panel.show_photo(image, f"Last photo: {what}")
    self.say(f"{what} \N{MIDDLE DOT} saved in {self._photos} as {plain.name} and {marked.name}")

  def close_camera(self) -> None:
    """Closes the camera or video, or puts the image away."""
    self._begin(None)
    self.view.show_picture(None, None)
    self._show_face()
    self.say("Closed.")
    self._enable()

  def open_run(self) -> None:
    """Asks for the folder of a finished run, and recognises with it from then on."""
    if folder := QFileDialog.getExistingDirectory(self, "Open the folder of a finished run"):
      self.say(f"Loading {folder} ...")
      self._orders.put(Run(Path(folder)))

  def open_video(self) -> None:
    """Asks for a video and opens it in the place of a camera."""
    if path := self._ask_for("Open a video", _VIDEOS):
      self._offer(path)
      self.open_camera()

  def choose_photo_folder(self) -> None:
    """Asks where photos are to be saved."""
    if folder := QFileDialog.getExistingDirectory(self, "Where photos are saved", str(self._photos)):
      self._photos = Path(folder)
      self.say(f"Photos are saved in {folder}.")

  def look_for_cameras(self) -> None:
    """Fills the chooser with the cameras that open, in a while; an open one is left alone."""
    if self._capture is None:
      search = lambda: self._answers.put(Cameras(self._find_cameras()))  # noqa: E731
      threading.Thread(target=search, name="search for cameras", daemon=True).start()

  def choose_face(self, track: int) -> None:
    """Shows the bars of this face, as long as it can be followed."""
    self._chosen = track
    self._show_face()

  def say(self, sentence: str, trouble: bool = False) -> None:
    """Writes a sentence at the foot of the window."""
    self.sentence.setText(sentence)
    self.sentence.setProperty("trouble", trouble)
    self.sentence.style().polish(self.sentence)

  def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
    """Ends the threads."""
    self._answers.close()
    self._recognition.stop()
    self._begin(_PATIENCE)
    self._recognition.join(_PATIENCE)
    event.accept()

  def _begin(self, patience: float | None) -> None:
    """Ends what was open and waits so many seconds for its thread, if any; what still comes of it is not shown."""
    self._session += 1
    self._chosen = None
    self.panel.stop_counting()
    capture, self._capture = self._capture, None
    if capture is not None:
      capture.stop()
      if patience is not None:
        capture.join(patience)

  def _empty_mailbox(self) -> None:
    while (answer := self._answers.take()) is not None:
      if isinstance(answer, Recognized):
        self._show(answer)
      elif isinstance(answer, Ended):
        self._end(answer)
      elif isinstance(answer, Cameras):
        self._offer(*answer.indices)
      elif isinstance(answer, Ready):
        self._class_names = answer.class_names
        self._show_face()
        self.say(answer.sentence)
      elif isinstance(answer, Trouble):
        self.say(answer.sentence, trouble=True)

  def _show(self, found: Recognized) -> None:
    if found.session != self._session:
      return
    first = self.view.found is None or self.view.found.session != found.session
    self.view.show_picture(found, self._chosen)
    self._class_names = found.class_names
    self._show_face()
    if self._capture is not None:
      self.panel.count(found.captured)
    if first:
      self.say(name_of(self.chooser.currentData()) if self._capture else _faces(found))
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
    if self._chosen not in found.tracks:
      self._chosen = None
    face = 0 if self._chosen is None else found.tracks.index(self._chosen)
    which = (
      "the face you chose" if self._chosen is not None else "the largest face" if len(found.boxes) > 1 else "one face"
    )
    self.view.show_picture(found, found.tracks[face])
    self.panel.show_face(found.class_names, found.probability[face], which)

  def _offer(self, *sources: Source) -> None:
    """Adds to the chooser what it does not have, and shows the last of it if that is a file."""
    for source in sources:
      if self.chooser.findData(source) < 0:
        self.chooser.addItem(name_of(source), source)
    if sources and (isinstance(sources[-1], Path) or self.chooser.currentData() is None):
      self.chooser.setCurrentIndex(self.chooser.findData(sources[-1]))
    nothing = self.chooser.findData(None)
    if self.chooser.count() > 1 and nothing >= 0:
      self.chooser.removeItem(nothing)

  def _ask_for(self, title: str, kinds: str) -> Path | None:
    name, _ = QFileDialog.getOpenFileName(self, title, "", kinds)
    return Path(name) if name else None

  def _build(self) -> None:
    self.setWindowTitle("Facial expressions")
    self.view, self.panel = PictureView(_INVITATION), Panel(self._class_names)
    self.view.face_clicked.connect(self.choose_face)
    self.chooser = Chooser()
    self.chooser.setAccessibleName("Camera")
    self.chooser.addItem("No camera", None)
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
    menu.addAction("Look for cameras", QKeySequence("F5"), self.look_for_cameras)
    menu.addSeparator()
    menu.addAction("Quit", QKeySequence("Ctrl+Q"), self.close)
    # The widgets hear nothing of it, as they have a style sheet.
    application().paletteChanged.connect(self._dress)
    self._dress()
    self._enable()

  def _enable(self) -> None:
    self.open_button.setEnabled(self._capture is None)
    self.chooser.setEnabled(self._capture is None)
    self.photo_button.setEnabled(self.view.found is not None)
    self.close_button.setEnabled(self._capture is not None or self.view.found is not None)

  def _dress(self) -> None:
    """Follows the system from light to dark and back."""
    colours = colours_of(QApplication.palette())
    dressed = sheet(colours)
    if dressed != self.styleSheet():
      self.view.colours = colours
      self.panel.set_colours(colours)
      self.setStyleSheet(dressed)


@functools.cache  # Qt does not survive it if nobody holds it
def application() -> QApplication:
  """Returns the program's one QApplication, made where there is none."""
  app = QApplication.instance()
  if isinstance(app, QApplication):
    return app
  made = QApplication(["fer_jax"])
  made.setStyle("Fusion")  # the one that a style sheet changes alike on every system
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
