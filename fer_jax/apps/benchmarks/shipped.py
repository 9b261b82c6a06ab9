"""Accuracy and calibration of the shipped network on the validation and test splits of FER2013."""

import dataclasses

import jax
import numpy as np

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row
from fer_jax.data import arrays, duplicates
from fer_jax.data.arrays import Arrays
from fer_jax.inference import model_file, trained_model
from fer_jax.inference.predictor import VIEWS
from fer_jax.inference.trained_model import TrainedModel
from fer_jax.training.calibration import expected_calibration_error
from fer_jax.training.intervals import wilson_interval

BATCH = 256


def shipped(config: str, rounds: int) -> Benchmark:
  """Evaluates the shipped network on FER2013, which must be prepared.

  Args:
    config: Not used; the network's file contains its config.
    rounds: Not used.

  Returns:
    One row per TTA protocol in VIEWS, the single view first: accuracy on validation (public test set); accuracy on test
    (private test set) with its 95 % Wilson interval, and without test images that also appear in training; expected
    calibration error of the probabilities, with and without temperature scaling. Then one row with file size, number of
    parameters and temperature; then one row per class with its recall for the single view.
  """
  del config, rounds
  network = trained_model.load()
  # Shared by both protocols: it compiles its program once.
  unscaled = dataclasses.replace(network, temperature=1.0)
  data = arrays.load("fer2013", None)
  label, seen = data.label[data.rows("test")], duplicates.duplicated_in_training(data)
  probability = {views: _probability(network, data, "test", views) for views in VIEWS}
  rows: list[Row] = []
  for views in VIEWS:
    validation = _probability(network, data, "validation", views).argmax(axis=1)
    right = probability[views].argmax(axis=1) == label
    low, high = wilson_interval(int(right.sum()), len(right))
    rows.append(
      {
        "name": views,
        "validation_accuracy": float((validation == data.label[data.rows("validation")]).mean()),
        "accuracy": float(right.mean()),
        "accuracy_from": low,
        "accuracy_to": high,
        "accuracy_without_duplicates": float(right[~seen].mean()),
        "calibration_error": expected_calibration_error(probability[views], label),
        "calibration_error_unscaled": expected_calibration_error(_probability(unscaled, data, "test", views), label),
      }
    )
  parameters = sum(leaf.size for leaf in jax.tree.leaves(network.params))
  size = model_file.DEFAULT.stat().st_size
  rows.append({"name": "file", "bytes": size, "parameters": parameters, "temperature": network.temperature})
  right = probability["single"].argmax(axis=1) == label
  for k, name in enumerate(network.class_names):
    rows.append({"name": name, "recall": float(right[label == k].mean()), "images": int((label == k).sum())})
  return Benchmark(VIEWS[0], rows)


def _probability(network: TrainedModel, data: Arrays, split: str, views: str) -> np.ndarray:
  """Returns the probabilities of a split, float32 [N, K]."""
  return network.probability(np.asarray(data.image[data.rows(split)]), BATCH, views)
