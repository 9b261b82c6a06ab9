"""Tests the live benchmark on small networks, for fractions of a second."""

import numpy as np
import pytest

from fer_jax.apps.benchmarks import live as benchmark


def test_measures_both_frame_rates_and_finds_faces(config, monkeypatch):
  monkeypatch.setattr(benchmark, "SECONDS", 0.25)
  monkeypatch.setattr(benchmark, "RATE", 20.0)
  monkeypatch.setattr(benchmark, "_SCENE_FRAMES", 6)
  headline, (row, detection, *_) = benchmark.live(config, 2)
  assert headline == row["name"] == config
  assert detection["name"] == "detection alone"
  for each in (row, detection):
    assert each["delay_p95_ms"] >= each["delay_p50_ms"] > 0
    assert each["frames_per_second"] > 0
    assert each["faces"] > 0.9
  assert detection["frames"] == 12
  assert 0 <= row["dropped"] < 1
  assert row["image_size"] == 48


def test_a_slow_network_drops_frames(monkeypatch):
  monkeypatch.setattr(benchmark, "SECONDS", 0.3)
  monkeypatch.setattr(benchmark, "RATE", 100.0)

  class Slow:
    class_names, shape, origin, caution = ("a", "b"), (8, 8, 1), {}, ""

    def probability(self, faces, batch_size, views):
      benchmark.time.sleep(0.05)
      return np.zeros((len(faces), 2), np.float32)

  row = benchmark._measure_threads(benchmark.Predictor(Slow(), lambda image: []), [benchmark.scene(0)], 1)
  assert row["dropped"] > 0
  assert row["faces"] == 0


class FakeModel:
  class_names, shape, margin, origin, caution = ("a", "b"), (8, 8, 1), 0.0, {}, ""

  def probability(self, faces, batch_size, views):
    return np.zeros((len(faces), 2), np.float32)


def test_full_speed_always_has_a_frame_waiting_and_drops_none(monkeypatch):
  monkeypatch.setattr(benchmark, "SECONDS", 0.2)
  measurement = benchmark._Measurement(benchmark.Predictor(FakeModel(), lambda image: []))
  waiting = []

  def frames(measurement):
    for frame in benchmark._frames_on_demand([benchmark.scene(0)], measurement):
      yield frame
      waiting.append(measurement.captured - len(measurement.found))

  measurement.run(frames)
  assert measurement.dropped == 0
  assert max(waiting) == 2


def test_failed_recognition_raises_user_error(monkeypatch):
  class Broken(FakeModel):
    def probability(self, faces, batch_size, views):
      if len(faces):
        return super().probability(faces, batch_size, views)
      raise ValueError("out of order")

  predictor = benchmark.Predictor(Broken(), lambda image: [])
  with pytest.raises(benchmark.UserError, match="out of order"):
    benchmark._measure_threads(predictor, [benchmark.scene(0)], 1)


def test_measures_painted_frames_of_the_window(monkeypatch):
  pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
  monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
  monkeypatch.setattr(benchmark, "SECONDS", 0.4)
  row = benchmark._measure_window(benchmark.Predictor(FakeModel(), lambda image: []), [benchmark.scene(0)], 2)
  assert row["delay_p95_ms"] >= row["delay_p50_ms"] > 0
  assert 0 < row["frames"] <= 2 * 0.4 * benchmark.RATE


def test_scene_is_a_camera_frame():
  first, other = benchmark.scene(0), benchmark.scene(10)
  assert (first.dtype, first.shape) == (np.uint8, (480, 640, 3))
  assert (first != other).any()
