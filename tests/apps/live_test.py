"""The window as a program: how it is started, and what keeps it from starting."""

import os
import sys
import threading

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtTest", reason="needs PySide6 and its libraries", exc_type=ImportError)

from fer_jax.apps import live
from fer_jax.apps.live_window import window as window_lib
from fer_jax.runtime.errors import UserError
from tests.apps.live_window.stand_ins import lit, predictor_of, write_video


@pytest.fixture
def use_window(monkeypatch):
  """Has what would be a user's doing done to the window, as soon as the program waits for it."""
  app = window_lib.application()

  def use_window(action):
    def execute():
      shown = [each for each in app.topLevelWidgets() if isinstance(each, window_lib.LiveWindow) and each.isVisible()]
      (window,) = shown
      action(window)
      return 0

    monkeypatch.setattr(live, "load", lambda path, detector, views: predictor_of((40, 60, 120, 120)))
    monkeypatch.setattr(app, "exec", execute)

  return use_window


def test_it_opens_the_run_and_the_video(use_window, tmp_path, monkeypatch):
  seen, searched = [], threading.Event()

  def look_and_close(window):
    seen.append(window.chooser.currentText())
    assert searched.wait(30)
    window.close()

  use_window(look_and_close)
  monkeypatch.setattr(window_lib, "cameras", lambda: searched.set() or [])
  video = write_video(tmp_path / "talk.avi", [lit(200, 240, 320)])
  assert live.main(["--checkpoint=run", f"--video={video}", f"--photos={tmp_path}"]) == 0
  assert seen == ["talk.avi"]


def test_a_thread_that_does_not_end_does_not_make_the_interpreter_wait_or_abort(use_window, tmp_path, monkeypatch):
  def close_with_a_thread_left(window):
    window.close()
    window.ended = False

  left = []
  use_window(close_with_a_thread_left)
  monkeypatch.setattr(window_lib, "cameras", list)
  monkeypatch.setattr(live.os, "_exit", left.append)
  live.main(["--checkpoint=run", f"--photos={tmp_path}"])
  assert left == [0]


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (["--video=nowhere.mp4"], "--video=nowhere.mp4: no such file"),
    (["--smoothing=-1"], "--smoothing=-1.0: expected a half-life"),
    (["--smoothing=nan"], "--smoothing=nan: expected a half-life"),
    (["--smoothing=inf"], "--smoothing=inf: expected a half-life"),
    (["--yunet=nowhere.onnx"], "nowhere.onnx does not exist"),
    ([], "nowhere"),
  ],
)
def test_a_mistake_is_one_line(arguments, sentence):
  with pytest.raises(UserError, match=sentence) as error:
    live.main(["--checkpoint=nowhere", *arguments])
  assert "\n" not in str(error.value)


def test_no_display(monkeypatch):
  for name in ("QT_QPA_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(live.sys, "platform", "linux")
  with pytest.raises(UserError, match="there is no display"):
    live.check_display()


def test_a_display_that_qt_cannot_use(monkeypatch):
  monkeypatch.setenv("QT_QPA_PLATFORM", "no_such_platform")
  with pytest.raises(UserError, match="Qt cannot open a window: .*no_such_platform"):
    live.check_display()


def test_a_pyside6_that_would_end_the_program(monkeypatch):
  monkeypatch.setattr(sys.modules["PySide6"], "__version__", "6.12.0")
  monkeypatch.setattr(live.sys, "version_info", (3, 11, 7))
  with pytest.raises(UserError, match=r"PySide6 6.12.0 ends the program.*pip install .PySide6-Essentials<6.12"):
    live.check_display()


def test_qt_is_not_installed_or_lacks_a_library(monkeypatch):
  def refuse(error):
    def find(name):
      raise error

    monkeypatch.setattr(live.importlib, "import_module", find)

  refuse(ModuleNotFoundError("No module named 'PySide6'", name="PySide6"))
  with pytest.raises(UserError, match="pip install .PySide6-Essentials<6.12"):
    live.check_display()
  refuse(ImportError("libEGL.so.1: cannot open shared object file"))
  with pytest.raises(UserError, match="Qt cannot start .libEGL.so.1: .*install the system package"):
    live.check_display()
