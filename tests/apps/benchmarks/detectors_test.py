"""Tests the detector benchmark on drawn faces, with detectors whose results are known."""

import numpy as np
import pytest

from fer_jax.apps.benchmarks import detectors as benchmark
from fer_jax.data.arrays import Arrays
from fer_jax.faces.detection import Box

pytest.importorskip("skimage")
COUNT = 10


@pytest.fixture
def photographs(monkeypatch):
  """The photographs of the benchmark, with white images instead of faces."""
  monkeypatch.setattr(benchmark, "PHOTOGRAPHS", COUNT)
  data = Arrays(
    image=np.full((4 * COUNT, 48, 48, 1), 255, np.uint8),
    label=np.zeros(4 * COUNT, np.int32),
    subject=np.full(4 * COUNT, ""),
    group=np.arange(4 * COUNT, dtype=np.int32),
    split=np.full(4 * COUNT, "validation"),
    class_names=("angry",),
  )
  monkeypatch.setattr(benchmark.arrays, "load", lambda name, data_dir: data)
  return benchmark._photographs()


def rows_of(monkeypatch, **found):
  monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
  monkeypatch.setattr(benchmark.detectors, "detector", lambda name, yunet: found[name])
  headline, rows = benchmark.detection("", 2)
  assert headline == "yunet"
  assert all(row["images_per_second"] > 0 and row["photographs"] == COUNT for row in rows)
  return {row["name"]: (row["faces"], row["wrong_boxes"]) for row in rows}


def test_a_face_is_pasted_where_the_photograph_says(photographs):
  assert len(photographs) == COUNT
  for image, x, y, side in photographs:
    assert image.shape == (300, 350)
    assert 60 <= side < 180
    quarter = side // 4
    assert (image[int(y) - quarter : int(y) + quarter, int(x) - quarter : int(x) + quarter] >= 254).all()


def test_counts_found_faces_and_wrong_boxes(photographs, monkeypatch):
  by_image = {photo.image.tobytes(): photo for photo in photographs}

  def right(image):
    _, x, y, side = by_image[image.tobytes()]
    return [Box(x - side / 2, y - side / 2, side, side, 1)]

  def beside(image):
    return [*right(image), *(box._replace(x=box.x + 0.3 * box.width) for box in right(image))]

  def nothing(image):
    return []

  assert rows_of(monkeypatch, yunet=right, cascade=nothing) == {"yunet": (COUNT, 0), "cascade": (0, 0)}
  assert rows_of(monkeypatch, yunet=beside, cascade=right) == {"yunet": (COUNT, COUNT), "cascade": (COUNT, 0)}
