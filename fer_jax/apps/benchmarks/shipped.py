"""Accuracy and calibration of the shipped network on the validation and test splits of FER2013."""

import dataclasses

import jax
import numpy as np

from fer_jax import classifier as classifiers
from fer_jax.apps.benchmarks.benchmark import Benchmark, Row
from fer_jax.calibration import expected_calibration_error
from fer_jax.classifier import Classifier
from fer_jax.data import arrays, audit
from fer_jax.data.arrays import Arrays
from fer_jax.intervals import wilson_interval
from fer_jax.predictor import VIEWS
from fer_jax.pretrained import model_file

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
  network = classifiers.load()
  data = arrays.load("fer2013", None)
  rows = [_accuracy(network, data, views) for views in VIEWS]
  parameters = sum(leaf.size for leaf in jax.tree.leaves(network.params))
  size = model_file.DEFAULT.stat().st_size
  rows.append({"name": "file", "bytes": size, "parameters": parameters, "temperature": network.temperature})
  label, probability = _labelled(network, data, "test", "single")
  right = probability.argmax(axis=1) == label
  for k, name in enumerate(network.class_names):
    rows.append({"name": name, "recall": float(right[label == k].mean()), "images": int((label == k).sum())})
  return Benchmark(VIEWS[0], rows)


def _labelled(network: Classifier, data: Arrays, split: str, views: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns labels int32 [N] and probabilities float32 [N, K] of a split."""
  rows = data.rows(split)
  return data.label[rows], network.probability(np.asarray(data.image[rows]), BATCH, views)


def _accuracy(network: Classifier, data: Arrays, views: str) -> Row:
  label, validation = _labelled(network, data, "validation", views)
  validation_accuracy = float((validation.argmax(axis=1) == label).mean())
  label, probability = _labelled(network, data, "test", views)
  right = probability.argmax(axis=1) == label
  low, high = wilson_interval(float(right.sum()), len(right))
  _, unscaled = _labelled(dataclasses.replace(network, temperature=1.0), data, "test", views)
  return {
    "name": views,
    "validation_accuracy": validation_accuracy,
    "accuracy": float(right.mean()),
    "accuracy_from": low,
    "accuracy_to": high,
    "accuracy_without_duplicates": float(right[~audit.seen_in_training(data)].mean()),
    "calibration_error": expected_calibration_error(probability, label),
    "calibration_error_unscaled": expected_calibration_error(unscaled, label),
  }
