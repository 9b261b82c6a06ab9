"""Throughput of the input pipeline alone."""

import time

import numpy as np

from fer_jax.apps.benchmarks.benchmark import FER2013, Benchmark, Row, settings_of
from fer_jax.data import pipeline
from fer_jax.data.arrays import Arrays


def pipeline_rates(config: str, rounds: int) -> Benchmark:
  """Measures shuffled training images per second on a dataset of FER2013's size.

  Args:
    config: Config that provides the batch size, FILE.py:VARIANT.
    rounds: Hundreds of batches to read.

  Returns:
    Two rows with `images_per_second`: batches of indices (images on the device), and of gathered uint8 rows.
  """
  batch_size = settings_of(config).batch_size
  n = FER2013[0]
  generator = np.random.default_rng(0)
  arrays = Arrays(
    image=generator.integers(0, 256, FER2013, dtype=np.uint8),
    label=generator.integers(0, 7, n).astype(np.int32),
    subject=np.full(n, ""),
    group=np.arange(n, dtype=np.int32),
    split=np.full(n, "train"),
    class_names=tuple("abcdefg"),
  )
  rows: list[Row] = []
  for name, host in (("indices", False), ("uint8 rows", True)):
    iterator = pipeline.training_iterator(pipeline.ShuffledBatches(arrays, "train", batch_size, seed=0, host=host))
    next(iterator)  # starts the pipeline, which is not timed
    batches = 100 * rounds
    start = time.perf_counter()
    for _ in range(batches):
      next(iterator)
    rows.append({"name": name, "images_per_second": batches * batch_size / (time.perf_counter() - start)})
  return Benchmark("indices", rows)
