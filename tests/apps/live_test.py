"""Tests the start of the live program and its errors."""

import os
import sys
import threading

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtTest", reason="needs PySide6 and its libraries", exc_type=ImportError)

from fer_jax.apps import live
from fer_jax.apps.live_window import window as window_lib
from fer_jax.apps.live_window.layout import application
from fer_jax.runtime.errors import UserError
from tests.apps.live_window.fakes import fake_predictor, uniform_image, write_video


@pytest.fixture
def use_window(monkeypatch):
  """Function that replaces the event loop by an action on the window."""
  app = application()

  def use_window(action):
    def execute():
      windows = [each for each in app.topLevelWidgets() if isinstance(each, window_lib.LiveWindow)]
      (window,) = (each for each in windows if each.isVisible())
      action(window)
      return 0

    monkeypatch.setattr(live, "load_predictor", lambda path, **options: fake_predictor((40, 60, 120, 120)))
    monkeypatch.setattr(app, "exec", execute)

  return use_window


def test_opens_the_run_and_the_video(use_window, tmp_path, monkeypatch):
  seen, searched = [], threading.Event()

  def record_source_and_close(window):
    seen.append(window.chooser.currentText())
    assert searched.wait(30)
    window.close()

  use_window(record_source_and_close)
  monkeypatch.setattr(window_lib, "cameras", lambda: searched.set() or [])
  video = write_video(tmp_path / "talk.avi", [uniform_image(200, 240, 320)])
  assert live.main(["--checkpoint=run", f"--video={video}", f"--photos={tmp_path}"]) == 0
  assert seen == ["talk.avi"]


def test_exits_at_once_if_a_thread_is_still_running(use_window, tmp_path, monkeypatch):
  def close_with_running_thread(window):
    window.close()
    window.ended = False

  exit_status = []
  use_window(close_with_running_thread)
  monkeypatch.setattr(window_lib, "cameras", list)
  monkeypatch.setattr(live.os, "_exit", exit_status.append)
  live.main(["--checkpoint=run", f"--photos={tmp_path}"])
  assert exit_status == [0]


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    (["--video=nowhere.mp4"], "--video=nowhere.mp4: no such file"),
    (["--smoothing=-1"], "--smoothing=-1.0: expected a half-life"),
    (["--smoothing=nan"], "--smoothing=nan: expected a half-life"),
    (["--smoothing=inf"], "--smoothing=inf: expected a half-life"),
    (["--yunet=nowhere.onnx"], "nowhere.onnx does not exist"),
    ([], "nowhere"),
  ],
)
def test_invalid_flags_raise_one_line(arguments, text):
  with pytest.raises(UserError, match=text) as error:
    live.main(["--checkpoint=nowhere", *arguments])
  assert "\n" not in str(error.value)


def test_no_display_raises(monkeypatch):
  for name in ("QT_QPA_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(live.sys, "platform", "linux")
  with pytest.raises(UserError, match="there is no display"):
    live.check_display()


def test_unusable_display_raises(monkeypatch):
  monkeypatch.setenv("QT_QPA_PLATFORM", "no_such_platform")
  with pytest.raises(UserError, match="Qt cannot open a window: .*no_such_platform"):
    live.check_display()


def test_rejects_a_pyside6_version_that_crashes(monkeypatch):
  monkeypatch.setattr(sys.modules["PySide6"], "__version__", "6.12.0")
  monkeypatch.setattr(live.sys, "version_info", (3, 11, 7))
  with pytest.raises(UserError, match=r"PySide6 6.12.0 ends the program.*pip install .PySide6-Essentials<6.12"):
    live.check_display()


def test_missing_qt_or_library_raises(monkeypatch):
  def fail_import(error):
    def import_module(name):
      raise error

    monkeypatch.setattr(live.importlib, "import_module", import_module)

  fail_import(ModuleNotFoundError("No module named 'PySide6'", name="PySide6"))
  with pytest.raises(UserError, match="pip install .PySide6-Essentials<6.12"):
    live.check_display()
  fail_import(ImportError("libEGL.so.1: cannot open shared object file"))
  with pytest.raises(UserError, match="Qt cannot start .libEGL.so.1: .*install the system package"):
    live.check_display()
