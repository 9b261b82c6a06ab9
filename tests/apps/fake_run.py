"""Fake workdirs with the files of finished and unfinished runs, and a fake trained model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import numpy as np

from fer_jax.inference.trained_model import TrainedModel
from fer_jax.models.network import Network
from fer_jax.training.intervals import student_interval

NAMES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
TRICKY = '<b>sad</b> & "blue"'


def _curves(steps: int, best: float) -> list[dict[str, Any]]:
  random = np.random.default_rng(0)
  records: list[dict[str, Any]] = []
  for step in range(10, steps + 1, 10):
    progress = step / steps
    phase = "bottleneck" if progress <= 0.7 else "classifier"
    record = {
      "kind": "train",
      "step": step,
      "epoch": step / 112,
      "phase": phase,
      "loss": (1.2 - progress if phase == "bottleneck" else 2.4 - progress) + 0.05 * random.normal(),
      "learning_rate": 1e-3 * (1 + np.cos(np.pi * progress)),
      "seconds": 0.1 * step,
      "images_per_second": 1200 + 40 * random.normal(),
    }
    if phase == "classifier":
      record["accuracy"] = best * (1 - np.exp(-12 * (progress - 0.65))) + 0.03 + 0.01 * random.normal()
    else:
      for layer in range(12):
        name = f"block{layer // 4 + 1}_conv{layer % 4 + 1}"
        record[f"hsic_label/{name}"] = (0.1 + 0.03 * layer) * (1 - np.exp(-4 * progress)) + 0.004 * random.normal()
        record[f"hsic_input/{name}"] = 0.6 - 0.03 * layer - 0.2 * progress + 0.004 * random.normal()
    records.append(record)
    if step % 100 == 0:
      accuracy = best * (1 - np.exp(-9 * max(0.02, progress - 0.68)))
      records.append(
        {
          "kind": "eval",
          "split": "validation",
          "step": step,
          "phase": phase,
          "accuracy": accuracy,
          "loss": 1.95 - accuracy,
          "seconds": 0.1 * step,
        }
      )
  return records


def _views(accuracy: float, best: float) -> dict[str, Any]:
  """Returns the metrics of each protocol: flip is best on validation, ten_crop on test."""
  offsets = {"single": (0.0, 0.0), "flip": (0.02, 0.004), "ten_crop": (0.01, 0.007)}
  return {
    protocol: {
      "validation": best * 0.93 + on_validation,
      "test": accuracy + on_test,
      "deduplicated": accuracy + on_test - 0.011,
      "loss": 1.3 - on_test,
    }
    for protocol, (on_validation, on_test) in offsets.items()
  }


def _result(best: float, steps: int, names: list[str], seed: int, views: bool) -> dict[str, Any]:
  random = np.random.default_rng(seed + 1)
  support = [491, 55, 528, 879, 594, 416, 626]
  errors = (1 - best) * random.dirichlet(np.ones(7), size=7)
  matrix = [
    random.multinomial(support[k], (row + best * np.eye(7)[k]) / (row + best * np.eye(7)[k]).sum()).tolist()
    for k, row in enumerate(errors)
  ]
  counts = np.array(matrix)
  precision, recall = counts.diagonal() / counts.sum(0), counts.diagonal() / counts.sum(1)
  accuracy = float(counts.trace() / counts.sum())
  return {
    "accuracy": accuracy,
    "metrics": {
      "accuracy": accuracy,
      "balanced_accuracy": float(recall.mean()),
      "macro_f1": float((2 * precision * recall / (precision + recall)).mean()),
      "cohen_kappa": 0.4321,
      "expected_calibration_error": 0.123,
    },
    "confusion_matrix": matrix,
    "class_names": names,
    "per_class": [
      {
        "class": name,
        "precision": float(precision[k]),
        "recall": float(recall[k]),
        "f1": float(2 * precision[k] * recall[k] / (precision[k] + recall[k])),
        "support": support[k],
      }
      for k, name in enumerate(names)
    ],
    "loss": 1.3,
    "views": _views(accuracy, best) if views else {},
    "validation": {"accuracy": best * 0.93, "loss": 1.2, "step": steps - 100},
    "calibration": {"temperature": 1.31, "test": {"single": {"error": 0.123, "error_scaled": 0.045}}},
    "seconds": 363.4,
    "clock": "cpu",
    "time": {"compile": 21.5, "train": 310.2, "evaluate": 24.0, "prepare": 7.7},
    "device": "cpu: AMD EPYC x 2",
    "versions": {"jax": "0.10.2", "flax": "0.12.1", "optax": "0.2.8"},
    "commit": "e3ed27b0c2f94b5ad1",
    "seeds": [seed],
    "fold": None,
    "deduplicated": {"accuracy": accuracy, "images": 3589, "seen": 0},
    "stopped": "finished",
    "steps": steps,
    "parameters": 1_132_007,
    "peak_memory_bytes": 3_251_000_000,
    "dataset": "fer2013",
    "notes": ["12 constant images kept", f"class {TRICKY} is rare"],
    "measured": {"test accuracy": accuracy, "seconds a step": None, "layers": 12},
    "config": "configs/hsic.py:small",
    "runs": [{"seed": seed, "fold": None, "accuracy": accuracy}],
  }


def _save_predictions(path: Path, result: dict[str, Any], channels: int) -> None:
  random = np.random.default_rng(2)
  label = np.repeat(np.arange(7, dtype=np.int32), [sum(row) for row in result["confusion_matrix"]])
  probability = random.dirichlet(np.ones(7) * 0.3, size=len(label)).astype(np.float32)
  wrong = np.flatnonzero(probability.argmax(1) != label)
  worst = wrong[np.argsort(-probability[wrong].max(1))][:24]
  rows, columns = np.mgrid[-1:1:48j, -1:1:48j]
  faces = 60 + 150 * (rows**2 + 1.4 * columns**2 < 0.8) - 90 * ((abs(columns) - 0.3) ** 2 + (rows + 0.2) ** 2 < 0.02)
  faces = np.clip(faces + random.normal(0, 12, size=(40, 48, 48)), 0, 255).astype(np.uint8)
  images = np.repeat(faces[..., None], channels, axis=-1)
  validation = random.dirichlet(np.ones(7) * 0.3, size=70).astype(np.float32)
  averaged = [protocol for protocol in result["views"] if protocol != "single"]
  np.savez(
    path,
    index=np.arange(len(label), dtype=np.int64) + 32298,
    label=label,
    probability=probability,
    worst=worst.astype(np.int64),
    worst_image=images[:24],
    sample_image=images[24:],
    seen=np.zeros(len(label), bool),
    validation_index=np.arange(len(validation), dtype=np.int64) + 28709,
    validation_label=np.arange(len(validation), dtype=np.int32) % 7,
    **{f"test_{protocol}": probability for protocol in ("single", *averaged)},
    **{f"validation_{protocol}": validation for protocol in ("single", *averaged)},
  )


def write_run(
  workdir: Path,
  *,
  steps: int = 2000,
  best: float = 0.6,
  names: list[str] = NAMES,
  channels: int = 1,
  finished: bool = True,
  seed: int = 0,
  settings: Mapping[str, Any] = MappingProxyType({}),
  views: bool = False,
) -> dict[str, Any]:
  """Writes the workdir of a finished or unfinished run; returns its result."""
  workdir.mkdir(parents=True, exist_ok=True)
  paper = {
    "title": "The HSIC bottleneck for expressions",
    "reference": "A. Author & B. Author, 2022, <https://example.org/paper>",
    "reported": {"test accuracy": 0.8823, "seconds a step": 0.049286, "parameters": 7_000_000},
    "by_class": {NAMES[1]: [0.934, 0.864, 0.898]},
    "note": "The paper's split is by image, ours by subject.",
  }
  config = {
    "config": {
      "model": {"name": "hsic_dense", "growth": 24},
      "batch_size": 128,
      "seed": seed,
      "paper": paper,
      **settings,
    },
    "source": "configs/hsic.py:small",
    "overrides": ["--config.batch_size=128"],
    "commit": "e3ed27b0c2f94b5ad1",
    "versions": {"jax": "0.10.2"},
    "device": "cpu: AMD EPYC x 2",
  }
  (workdir / "config.json").write_text(json.dumps(config))
  records = _curves(steps, best)
  records.insert(40, {"kind": "event", "step": 200, "text": "resumed from step 200"})
  (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
  result = _result(best, steps, names, seed, views)
  if finished:
    (workdir / "result.json").write_text(json.dumps(result))
    _save_predictions(workdir / "predictions.npz", result, channels)
  return result


def write_folds(
  workdir: Path, *, best: Sequence[float] = (0.55, 0.6, 0.65), finished: int | None = None, views: bool = False
) -> dict[str, Any]:
  """Writes the workdir of a run with folds by subject, the first `finished` of them complete; returns its result."""
  finished = len(best) if finished is None else finished
  folds = {"by": "subjects", "count": len(best), "number": 0, "seed": 4}
  whole = write_run(workdir, finished=False, settings={"folds": folds, "replicas": 0}, views=views)
  event = {"kind": "event", "step": 0, "text": f"{len(best)} runs, 2 at a time (loop: as configured)"}
  (workdir / "metrics.jsonl").write_text(json.dumps(event) + "\n")
  (workdir / "splits.json").write_text(json.dumps({"by": "subjects", "count": len(best), "seed": 4}))
  results = []
  for number in range(min(finished + 1, len(best))):  # the replica after the finished ones is running
    folder = workdir / "replicas" / f"fold_{number}"
    settings = {"folds": {**folds, "number": number}, "replicas": 1}
    result = write_run(
      folder, best=best[number], finished=number < finished, seed=number, settings=settings, views=views
    )
    results.append(result)
  if finished < len(best):
    return whole
  accuracies = [result["accuracy"] for result in results]
  confusion = np.sum([result["confusion_matrix"] for result in results], axis=0)
  whole |= {
    "accuracy": fmean(accuracies),
    "metrics": {name: fmean(result["metrics"][name] for result in results) for name in whole["metrics"]},
    "std": stdev(accuracies),
    "calibration": None,
    "interval_95": list(student_interval(accuracies)),
    "pooled_accuracy": float(confusion.trace() / confusion.sum()),
    "confusion_matrix": confusion.tolist(),
    "validation": {"accuracy": fmean(result["validation"]["accuracy"] for result in results), "step": None},
    "seeds": list(range(len(results))),
    "deduplicated": {"accuracy": 0.5, "images": 10_000, "seen": 767},
    "views": {
      protocol: {
        **{key: fmean(result["views"][protocol][key] for result in results) for key in figures},
        "std": stdev(result["views"][protocol]["test"] for result in results),
      }
      for protocol, figures in whole["views"].items()
    },
    "strategy": {"strategy": "loop", "together": 2, "reason": "as configured"},
    "folds": {"by": "subjects", "count": len(best), "seed": 4},
    "runs": [
      {
        "name": f"fold_{number}",
        "seed": number,
        "fold": number,
        "validation_accuracy": result["validation"]["accuracy"],
        "best_step": result["validation"]["step"],
        "images": 3589,
        **{key: result[key] for key in ("accuracy", "loss", "steps", "stopped", "seconds", "deduplicated", "views")},
      }
      for number, result in enumerate(results)
    ],
  }
  (workdir / "result.json").write_text(json.dumps(whole))
  _pool_predictions(workdir, len(best))
  return whole


def _pool_predictions(workdir: Path, count: int) -> None:
  """Concatenates the predictions of a run's folds in one file."""
  parts = [dict(np.load(workdir / "replicas" / f"fold_{number}" / "predictions.npz")) for number in range(count)]
  rows = [len(part["label"]) for part in parts]
  np.savez(
    workdir / "predictions.npz",
    **{key: np.concatenate([part[key] for part in parts]) for key in ("index", "label", "probability")},
    replica=np.repeat(np.arange(count, dtype=np.int32), rows),
    worst=parts[-1]["worst"] + sum(rows[:-1]),
    worst_image=parts[-1]["worst_image"],
    sample_image=parts[0]["sample_image"],
  )


class _ConstantFeatures(nn.Module):
  """Returns its parameter, feature maps [6, 6, 7], for every image."""

  @nn.compact
  def __call__(self, x, train):
    features = self.param("features", nn.initializers.zeros, (6, 6, 7))
    # [6, 6, 7] -> [B, 6, 6, 7]
    return features[None] + 0 * x.mean(axis=(1, 2, 3))[:, None, None, None]


class _GlobalAverage(nn.Module):
  """Averages feature maps over all positions."""

  @nn.compact
  def __call__(self, x, train):
    return x.mean(axis=(1, 2))


def localizing_model(row: int, channels: int = 1) -> TrainedModel:
  """Returns a model whose evidence for class k < 6 is at (row, k) of 6x6 positions; the last class has none."""
  walk = lambda apply, image: (apply("head", apply("features", image)), image)  # noqa: E731
  network = Network({"features": _ConstantFeatures(), "head": _GlobalAverage()}, walk, (("features",),), "head")
  features = np.zeros((6, 6, 7), np.float32)
  features[row, range(6), range(6)] = 1
  params = {"features": {"features": features}, "head": {}}
  return TrainedModel(network, params, {"features": {}, "head": {}}, tuple(NAMES), (48, 48, channels), "face", {})
