"""A run's result for tests that train nothing."""

from typing import Any

from fer_jax.training.run_result import RunResult, Validation


def run_result(**changes: Any) -> RunResult:
  """Returns the result of a run with one replica and two classes, with some fields changed."""
  fields = {
    "accuracy": 0.75,
    "loss": 0.5,
    "confusion_matrix": ((40, 10), (15, 35)),
    "class_names": ("happy", "sad"),
    "per_class": (),
    "validation": Validation(0.8, 1000),
    "seconds": 1234.5,
    "steps": 2000,
    "parameters": 1000,
    "dataset": "fer2013",
    "seeds": (0,),
    "config": "configs/hsic.py:small",
    "device": "cpu: 2 | cores",
    "versions": {"jax": "0.10.2"},
    "commit": "e3ed27b0c2f94b5ad1-dirty",
  }
  return RunResult(**fields | changes)
