"""Throughput of the input pipeline alone."""

import time

from fer_jax.apps.benchmarks.benchmark import FER2013, Benchmark, Row, load_settings, random_arrays
from fer_jax.data import pipeline


def pipeline_rates(config: str, rounds: int) -> Benchmark:
  """Measures shuffled training images per second on a dataset of FER2013's size.

  Args:
    config: Config that provides the batch size, FILE.py:VARIANT.
    rounds: Hundreds of batches to read.

  Returns:
    Two rows with `images_per_second`: batches of indices (images on the device), and of gathered uint8 rows.
  """
  batch_size = load_settings(config).batch_size
  arrays = random_arrays(FER2013[0], FER2013[1])
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
