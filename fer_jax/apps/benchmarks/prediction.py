"""Throughput of `apps.predict` on photographs, and the effect of the batch size on the predictions."""

import tempfile
import time
from pathlib import Path

import numpy as np

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, random_model
from fer_jax.apps.predictions.classification import ClassificationPipeline
from fer_jax.apps.predictions.detection import DetectionPipeline
from fer_jax.apps.predictions.inputs import File, list_files
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.data.images import MAX_PIXELS
from fer_jax.faces.cascades import photograph_detector
from fer_jax.inference.predictor import Predictor
from fer_jax.runtime import provenance

PHOTOGRAPHS = 1000
BATCH_SIZES = (64, 1, 7, 256)
_PHOTOGRAPHS_PER_PERSON = 70  # in KDEF


def prediction(config: str, rounds: int) -> Benchmark:
  """Measures `apps.predict` on 1,000 drawn photographs of KDEF's size, 562x762 in colour, with `photograph_detector`.

  Everything but writing the rows is included. The network has random parameters, which affect neither the time nor the
  agreement between batch sizes.

  Args:
    config: Config of the network, FILE.py:VARIANT.
    rounds: Timed passes over the photographs with each batch size, after one untimed pass that compiles.

  Returns:
    One row per batch size, the headline first: `images_per_second` of the fastest round; number of `faces`;
    `largest_difference` of a probability from the headline's; number of `labels_that_differ` from the headline's.
  """
  predictor = Predictor(random_model(config, crop="detector"), photograph_detector())
  with tempfile.TemporaryDirectory() as folder:
    layouts.write_tree("kdef", Path(folder), subjects=-(-PHOTOGRAPHS // _PHOTOGRAPHS_PER_PERSON))
    files = list_files([folder], ()).files[:PHOTOGRAPHS]
    found: dict[int, np.ndarray] = {}
    rows = []
    for batch_size in BATCH_SIZES:
      seconds = []
      for _ in range(1 + rounds):
        start = time.perf_counter()
        found[batch_size] = _probabilities(predictor, files, batch_size)
        seconds.append(time.perf_counter() - start)
      rows.append(_row(batch_size, len(files) / min(seconds[1:]), found[batch_size], found[BATCH_SIZES[0]]))
  return Benchmark(rows[0]["name"], rows)


def _probabilities(predictor: Predictor, files: list[File], batch_size: int) -> np.ndarray:
  """Returns the probabilities of all F detected faces, float32 [F, K], computed as by `apps.predict`."""
  detect = DetectionPipeline(
    predictor,
    max_pixels=MAX_PIXELS,
    every=1,
    keep_images=False,
    threads=max(2, provenance.cores()),
    on_video=lambda frames: None,
  )
  classify = ClassificationPipeline(predictor, batch_size, 0.0, None)
  rows = [row for rows in classify(detect(files)) for row in rows]
  assert classify.counts.images == len(files)
  return np.array([row.probability for row in rows if row.probability is not None])


def _row(batch_size: int, rate: float, found: np.ndarray, reference: np.ndarray) -> Row:
  return {
    "name": f"batches of {batch_size}",
    "images_per_second": rate,
    "photographs": PHOTOGRAPHS,
    "faces": len(found),
    "largest_difference": float(np.abs(found - reference).max()),
    "labels_that_differ": int((found.argmax(axis=1) != reference.argmax(axis=1)).sum()),
  }
