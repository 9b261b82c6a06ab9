"""The live benchmark on a network of a handful of filters, for moments."""

import numpy as np
import pytest

from fer_jax.apps.benchmarks import live as benchmark


def test_both_paces_are_measured_and_faces_are_found(config, monkeypatch):
  monkeypatch.setattr(benchmark, "SECONDS", 0.25)
  monkeypatch.setattr(benchmark, "RATE", 20.0)
  monkeypatch.setattr(benchmark, "_SCENES", 6)
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

  row = benchmark._measured(benchmark.Predictor(Slow(), lambda image: []), [benchmark.scene(0)], 1)
  assert row["dropped"] > 0
  assert row["faces"] == 0


class TrainedModel:
  class_names, shape, margin, origin, caution = ("a", "b"), (8, 8, 1), 0.0, {}, ""

  def probability(self, faces, batch_size, views):
    return np.zeros((len(faces), 2), np.float32)


def test_at_full_speed_a_picture_always_waits_and_none_is_dropped(monkeypatch):
  monkeypatch.setattr(benchmark, "SECONDS", 0.2)
  watch = benchmark._Watch(benchmark.Predictor(TrainedModel(), lambda image: []))
  waiting = []

  def frames(watch):
    for frame in benchmark._as_asked([benchmark.scene(0)], watch):
      yield frame
      waiting.append(watch.captured - len(watch.found))

  watch.run(frames)
  assert watch.dropped == 0
  assert max(waiting) == 2


def test_a_failure_of_the_recognition_is_one_line(monkeypatch):
  class Broken(TrainedModel):
    def probability(self, faces, batch_size, views):
      if len(faces):
        return super().probability(faces, batch_size, views)
      raise ValueError("out of order")

  predictor = benchmark.Predictor(Broken(), lambda image: [])
  with pytest.raises(benchmark.UserError, match="out of order"):
    benchmark._measured(predictor, [benchmark.scene(0)], 1)


def test_the_window_shows_what_was_recognised(monkeypatch):
  pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
  monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
  monkeypatch.setattr(benchmark, "SECONDS", 0.4)
  row = benchmark._shown(benchmark.Predictor(TrainedModel(), lambda image: []), [benchmark.scene(0)], 2)
  assert row["delay_p95_ms"] >= row["delay_p50_ms"] > 0
  assert 0 < row["frames"] <= 2 * 0.4 * benchmark.RATE


def test_a_scene_is_a_picture_of_a_camera():
  first, other = benchmark.scene(0), benchmark.scene(10)
  assert (first.dtype, first.shape) == (np.uint8, (480, 640, 3))
  assert (first != other).any()
