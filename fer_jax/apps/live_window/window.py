"""Behaviour of the window: its actions, and the threads that capture and recognise images."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PySide6.QtCore import QEventLoop, Qt, Signal
from PySide6.QtGui import QCloseEvent, QKeySequence
from PySide6.QtWidgets import QApplication, QFileDialog

from fer_jax.apps.live_window.capture import (
  Capture,
  CapturedImage,
  Open,
  Source,
  SourceEnded,
  cameras,
  open_source,
  source_name,
)
from fer_jax.apps.live_window.layout import WindowLayout
from fer_jax.apps.live_window.mailbox import Mailbox
from fer_jax.apps.live_window.painting import annotate, caption, save_photo
from fer_jax.apps.live_window.recognition import (
  LoadRun,
  ModelReady,
  ReadImage,
  Recognition,
  RecognitionFailed,
  RecognizedImage,
  Request,
  Response,
)
from fer_jax.data import images
from fer_jax.faces import video
from fer_jax.faces.detection import Detector
from fer_jax.inference.predictor import Predictor

_JOIN_TIMEOUT = 5.0  # timeout in seconds for a thread to end
_IMAGES, _VIDEOS = (
  f"{kind} (*{' *'.join(sorted(suffixes))});;All files (*)"
  for kind, suffixes in (("Images", images.SUFFIXES), ("Videos", video.SUFFIXES))
)
_NO_CAMERA = "No camera was found: connect one and press F5, or open a video or an image."


@dataclass(frozen=True)
class CamerasFound:
  """Message with the indices of the available cameras."""

  indices: list[int]


class LiveWindow(WindowLayout):
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
  """Emitted when the mailbox of responses has a message; connects the worker threads with the GUI thread."""

  def __init__(
    self,
    predictor: Predictor,
    load: Callable[[Path], Predictor],
    photos: Path,
    smoothing: float,
    detector: Detector | None = None,
    source: Source | None = None,
    open_source: Open = open_source,
    find_cameras: Callable[[], list[int]] | None = None,
  ):
    super().__init__(predictor.model.class_names)
    self._photos, self._open_source, self._find_cameras = photos, open_source, find_cameras or cameras
    self._class_names = predictor.model.class_names
    self._capture: Capture | None = None
    self._previous_capture: Capture | None = None  # may still be running
    self._search: threading.Thread | None = None  # may still be running too
    self._search_requested = False  # whether the user requested the search
    self._source: Source | None = None  # of the current session; None for an image
    self.ended = False
    self._session = 0
    self._selected_track: int | None = None
    self.view.face_clicked.connect(self.choose_face)
    self.open_button.clicked.connect(self.open_camera)
    self.image_button.clicked.connect(self.choose_image)
    self.photo_button.clicked.connect(self.take_photo)
    self.close_button.clicked.connect(self.close_camera)
    menu = self.menuBar().addMenu("&File")
    menu.addAction("Open run...", QKeySequence("Ctrl+R"), self.open_run)
    menu.addAction("Open video...", QKeySequence("Ctrl+Shift+O"), self.open_video)
    menu.addAction("Photo folder...", self.choose_photo_folder)
    menu.addAction("Search for cameras", QKeySequence("F5"), self.search_cameras)
    menu.addSeparator()
    menu.addAction("Quit", QKeySequence("Ctrl+Q"), self.close)
    self._update_buttons()
    self.chooser.set_sources([] if source is None else [source], source)
    self.arrived.connect(self._receive_response, Qt.ConnectionType.QueuedConnection)
    self._responses: Mailbox[Response | SourceEnded | CamerasFound] = Mailbox(self.arrived.emit)
    self._requests: Mailbox[Request] = Mailbox()
    self._recognition = Recognition(predictor, load, self._requests, self._responses.put, smoothing, detector)
    self._recognition.start()
    self.show_status("The network is being compiled ...")
    self._start_camera_search()

  def open_camera(self) -> None:
    """Opens the selected camera or video."""
    source: Source | None = self.chooser.currentData()
    if source is None:
      self.show_status(_NO_CAMERA, error=True)
      return
    self._start_session()
    self._source = source
    self.show_status(f"Opening {source_name(source)} ...")
    self._capture = Capture(source, self._session, self._requests.put, self._responses.put, self._open_source)
    self._capture.start(self._previous_capture, self._search if isinstance(source, int) else None)
    self._previous_capture = self._capture
    self._update_buttons()

  def choose_image(self) -> None:
    """Shows a file dialog and recognises the faces in the selected image."""
    if path := self._choose_file("Choose an image", _IMAGES):
      self._start_session()
      self.show_status(f"Reading {path.name} ...")
      self._requests.put(ReadImage(self._session, path))

  def take_photo(self) -> None:
    """Saves the displayed image and an annotated copy, and shows the predictions."""
    found = self.view.found
    if found is None:
      self.show_status("There is no image yet: open a camera or choose an image.", error=True)
      return
    annotated = annotate(found, self._selected_track)
    try:
      original, copy = save_photo(found, annotated, self._photos)
    except OSError as error:
      self.show_status(f"The photo was not saved: {error}.", error=True)
      return
    captions = ", ".join(caption(found, face) for face in range(len(found.boxes))) or "no face"
    self.panel.show_photo(annotated, f"Last photo: {captions}")
    self.show_status(f"{captions} \N{MIDDLE DOT} saved in {self._photos} as {original.name} and {copy.name}")

  def close_camera(self) -> None:
    """Closes the camera, video or image."""
    self._start_session()
    self.view.show_image(None, None)
    self._show_face()
    self.show_status("Closed.")
    self._update_buttons()

  def open_run(self) -> None:
    """Shows a folder dialog and switches to the network of the selected run."""
    if folder := QFileDialog.getExistingDirectory(self, "Open the folder of a finished run"):
      self.show_status(f"Loading {folder} ...")
      self._requests.put(LoadRun(Path(folder)))

  def open_video(self) -> None:
    """Shows a file dialog and opens the selected video instead of a camera."""
    if path := self._choose_file("Open a video", _VIDEOS):
      self.chooser.set_sources([*self.chooser.sources, path], path)
      self.open_camera()

  def choose_photo_folder(self) -> None:
    """Shows a folder dialog for the folder of saved photos."""
    if folder := QFileDialog.getExistingDirectory(self, "Folder for photos", str(self._photos)):
      self._photos = Path(folder)
      self.show_status(f"Photos are saved in {folder}.")

  def search_cameras(self) -> None:
    """Searches for cameras in the background; then updates the chooser and shows the number of cameras found."""
    if self._capture is not None:
      self.show_status("Close the camera or video before searching for cameras.", error=True)
    else:
      self._search_requested = True
      self.show_status("Searching for cameras ...")
      if self._search is None or not self._search.is_alive():
        self._start_camera_search()

  def choose_face(self, track: int) -> None:
    """Shows the probabilities of the face with this track, as long as it is tracked."""
    self._selected_track = track
    self._show_face()

  def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
    """Hides the window and ends the threads; sets `ended` to whether they ended within the timeout."""
    self.hide()
    QApplication.processEvents(QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)
    self._responses.close()
    self._recognition.stop()
    self._start_session()
    capture = self._previous_capture
    self.ended = self._recognition.join(_JOIN_TIMEOUT) and (capture is None or capture.join(_JOIN_TIMEOUT))
    if self._search is not None:
      self._search.join(_JOIN_TIMEOUT)
      self.ended = self.ended and not self._search.is_alive()
    event.accept()

  def _start_session(self) -> None:
    """Begins a new session: stops the open source without joining its thread; late results are discarded."""
    self._session += 1
    self._selected_track = self._source = None
    self.panel.clear_rate()
    capture, self._capture = self._capture, None
    if capture is not None:
      capture.stop()
    self._update_buttons()

  def _start_camera_search(self) -> None:
    def search(last: Capture | None = self._previous_capture) -> None:
      if last is not None:
        last.join(_JOIN_TIMEOUT)  # a camera in use would seem unavailable
      self._responses.put(CamerasFound(self._find_cameras()))

    self._search = threading.Thread(target=search, name="search for cameras", daemon=True)
    self._search.start()

  def _receive_response(self) -> None:
    response = self._responses.take()
    # The mailbox notifies only when it was empty: emit for the next message first, in case this one fails.
    if self._responses.waiting:
      self.arrived.emit()
    if isinstance(response, RecognizedImage):
      self._show_recognized(response)
    elif isinstance(response, SourceEnded):
      self._on_source_ended(response)
    elif isinstance(response, CamerasFound):
      self._set_cameras(response.indices)
    elif isinstance(response, ModelReady):
      self._use_model(response)
    elif isinstance(response, RecognitionFailed):
      self.show_status(response.text, error=True)

  def _use_model(self, ready: ModelReady) -> None:
    """Clears the previous network's results, and recognises the displayed image again if no source is open."""
    self._class_names, self._selected_track = ready.class_names, None
    found = self.view.found
    if found is not None:
      no_face = np.zeros((0, len(ready.class_names)), np.float32)
      cleared = replace(found, boxes=[], tracks=[], probability=no_face, class_names=ready.class_names)
      self.view.show_image(cleared, None)
      if self._capture is None and found.session == self._session:
        self._requests.put(CapturedImage(found.session, found.image, None, time.perf_counter()))
    self._show_face()
    if not self.status.property("error"):
      self.show_status(ready.text)

  def _set_cameras(self, indices: list[int]) -> None:
    requested, self._search_requested = self._search_requested, False
    files = [source for source in self.chooser.sources if isinstance(source, Path)]
    # Keep the cameras from the command line in the automatic search at the start, and always the open camera.
    known = [source for source in self.chooser.sources if isinstance(source, int)]
    kept = [source for source in known if not requested or (self._capture is not None and source == self._source)]
    self.chooser.set_sources([*sorted({*indices, *kept}), *files], self.chooser.currentData())
    if requested and self._capture is None:
      number = len(indices)
      text = f"{number} camera{'s were' if number > 1 else ' was'} found." if number else _NO_CAMERA
      self.show_status(text, error=not number)

  def _show_recognized(self, found: RecognizedImage) -> None:
    if found.session != self._session:
      return
    first = self.view.found is None or self.view.found.session != found.session
    self.view.show_image(found, self._selected_track)
    self._class_names = found.class_names
    self._show_face()
    if self._capture is not None:
      self.panel.update_rate(found.captured_at)
    if first:
      if self._source is None:
        self.show_status(_faces(found))
      elif self._capture is not None:
        self.show_status(source_name(self._source))
      self._update_buttons()

  def _on_source_ended(self, ended: SourceEnded) -> None:
    if ended.session == self._session:
      self._capture = None
      self.panel.clear_rate()
      self.show_status(ended.text, error=not ended.expected)
      self._update_buttons()

  def _show_face(self) -> None:
    found = self.view.found
    if found is None or not found.boxes:
      self.panel.show_face(self._class_names, None, "no face")
      return
    # A selected face that is not detected for a moment remains selected; the largest face is shown meanwhile.
    selected = self._selected_track in found.tracks
    face = found.tracks.index(self._selected_track) if self._selected_track is not None and selected else 0
    which_face = "the face you chose" if selected else "the largest face" if len(found.boxes) > 1 else "one face"
    self.view.show_image(found, found.tracks[face])
    self.panel.show_face(found.class_names, found.probability[face], which_face)

  def _update_buttons(self) -> None:
    self.open_button.setEnabled(self._capture is None)
    self.chooser.setEnabled(self._capture is None)
    self.photo_button.setEnabled(self.view.found is not None)
    self.close_button.setEnabled(self._capture is not None or self.view.found is not None)

  def _choose_file(self, title: str, kinds: str) -> Path | None:
    name, _ = QFileDialog.getOpenFileName(self, title, "", kinds)
    return Path(name) if name else None


def _faces(found: RecognizedImage) -> str:
  number = len(found.boxes)
  return "No face was found in the image." if not number else f"{number} face{'s' if number > 1 else ''} in the image."
