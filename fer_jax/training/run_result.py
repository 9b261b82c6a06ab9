"""The result of a run: its fields, and how result.json stores them."""

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from fer_jax.runtime.errors import UserError

VERSION = 2  # version 1 had no key "version", no `metrics`, and repeated the accuracy of several replicas as "mean"


@dataclasses.dataclass(frozen=True)
class Input:
  """The images that the network takes.

  Attributes:
    shape: Height, width and channels of an image.
    crop: Cropping of the dataset's images; see `data.arrays.Arrays`.
  """

  shape: tuple[int, ...]
  crop: str


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
  """Metrics of one class on the test split, as defined in `sklearn.metrics`; 0 where undefined.

  Attributes:
    name: Name of the class.
    precision: Precision, 0 to 1.
    recall: Recall, 0 to 1.
    f1: F1 score, 0 to 1.
    support: Number of test images of the class.
  """

  name: str
  precision: float
  recall: float
  f1: float
  support: int


@dataclasses.dataclass(frozen=True)
class Deduplicated:
  """Accuracy without the test images that also appear in training.

  Attributes:
    accuracy: Accuracy on the other test images; None if there are none.
    images: Number of the other test images.
    seen: Number of test images that also appear in training.
  """

  accuracy: float | None
  images: int
  seen: int


@dataclasses.dataclass(frozen=True)
class ViewResult:
  """Result of one test-time augmentation protocol; the mean over the replicas if there are several.

  Attributes:
    validation: Validation accuracy.
    test: Test accuracy.
    deduplicated: Test accuracy without the images that also appear in training; None if there are no others.
    loss: Mean cross-entropy of the test split, in nats.
    std: Standard deviation of the test accuracy over the replicas; None for a single replica.
  """

  validation: float
  test: float
  deduplicated: float | None
  loss: float
  std: float | None = None


@dataclasses.dataclass(frozen=True)
class CalibrationError:
  """Expected calibration error of the test split.

  Attributes:
    error: Error of the network's probabilities.
    error_scaled: Error after temperature scaling.
  """

  error: float
  error_scaled: float


@dataclasses.dataclass(frozen=True)
class Calibration:
  """Temperature scaling, and its effect.

  Attributes:
    temperature: Temperature fitted on the validation split.
    test: Calibration errors of the test split, by test-time augmentation protocol.
  """

  temperature: float
  test: Mapping[str, CalibrationError]


@dataclasses.dataclass(frozen=True)
class Validation:
  """Best evaluation of the validation split.

  Attributes:
    accuracy: Accuracy; the mean over the replicas if there are several.
    step: Step of the evaluation; None if there are several replicas.
  """

  accuracy: float
  step: int | None


@dataclasses.dataclass(frozen=True)
class ReplicaResult:
  """One replica in the result of a run. All fields but the first three are None in a run of a single replica.

  Attributes:
    seed: Random seed.
    accuracy: Test accuracy.
    fold: Index of the fold that is the test split; None with the dataset's own splits.
    name: Name of the replica's folder.
    validation_accuracy: Best validation accuracy.
    best_step: Step of the best validation accuracy.
    images: Number of test images.
    loss: Mean cross-entropy of the test split, in nats.
    steps: Number of steps taken.
    stopped: Reason for the end of training: "finished", "early stopping" or "time budget".
    seconds: Seconds of training and evaluation.
    deduplicated: Accuracy without the test images that also appear in training.
    views: Results by test-time augmentation protocol; {} if only the single image was evaluated.
  """

  seed: int
  accuracy: float
  fold: int | None = None
  name: str | None = None
  validation_accuracy: float | None = None
  best_step: int | None = None
  images: int | None = None
  loss: float | None = None
  steps: int | None = None
  stopped: str | None = None
  seconds: float | None = None
  deduplicated: Deduplicated | None = None
  views: Mapping[str, ViewResult] | None = None


@dataclasses.dataclass(frozen=True)
class Strategy:
  """Number of replicas that train together.

  Attributes:
    strategy: Execution on one device: "loop" (one replica per device at a time) or "vmap" (several).
    together: Number of replicas that train together, over all devices.
    reason: Explanation of the choice, for the report.
  """

  strategy: str
  together: int
  reason: str


@dataclasses.dataclass(frozen=True)
class FoldsResult:
  """Cross-validation of a run.

  Attributes:
    by: Unit that the folds keep together; see `settings.FoldSettings`.
    count: Number of folds.
    seed: Random seed of the folds.
  """

  by: str
  count: int
  seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
  """Content of result.json.

  The fields after `runs` are None where they do not apply: some only exist for several replicas, others for one, and
  results of earlier versions lack some.

  Attributes:
    version: Version of the format.
    accuracy: Test accuracy; the mean over the replicas if there are several.
    loss: Mean cross-entropy of the test split, in nats; the mean over the replicas if there are several.
    metrics: Metrics of the test split by name (`metrics.METRICS`); the means over the replicas if there are several.
    confusion_matrix: Confusion matrix of the test split, summed over the replicas; rows are true classes.
    class_names: Names of the classes, in the order of their labels.
    per_class: Metrics of each class, from the confusion matrix.
    validation: Best evaluation of the validation split.
    measured: Quantities that can be compared with a paper, by name.
    seconds: Seconds of the run, on `clock`.
    time: Seconds by activity; "compile" overlaps with the others.
    clock: Clock of all seconds, "wall" or "cpu".
    stopped: Reason for the end of training: "finished", "early stopping" or "time budget", joined by commas.
    steps: Number of steps taken; the mean over the replicas if there are several.
    parameters: Number of parameters.
    peak_memory_bytes: Peak memory of a device, or of the process on a CPU.
    dataset: Name of the dataset.
    notes: Remarks for the report.
    seeds: Random seeds of the replicas.
    config: Config file and variant.
    device: Kind and number of devices.
    versions: Versions of the packages, by name.
    commit: Commit of the package.
    runs: Result of each replica.
    input: The images that the network takes.
    deduplicated: Accuracy without the test images that also appear in training.
    views: Results by test-time augmentation protocol; {} if only the single image was evaluated.
    calibration: Temperature and calibration errors; only for a single replica.
    together: Number of replicas that were trained together with this one; only for a single replica.
    process_seconds: Seconds from the start of the process to this result; only for a single replica.
    processes: Number of processes.
    pretrained: Origin and layers of the pretrained weights; None if all layers were initialised randomly.
    fold: Index of the fold that is the test split; only for a single replica.
    std: Standard deviation of the accuracy over the replicas; only for several replicas.
    interval_95: Student t interval of the mean accuracy; only for several replicas.
    pooled_accuracy: Accuracy over the test images of all replicas; only for several replicas.
    strategy: Execution of the replicas; only for several replicas.
    folds: Cross-validation; None with the dataset's own splits.
    overrides: Command-line overrides of the config; only in a result that was copied to the results folder.
  """

  version: int = VERSION
  accuracy: float
  loss: float
  metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
  confusion_matrix: tuple[tuple[int, ...], ...]
  class_names: tuple[str, ...]
  per_class: tuple[ClassMetrics, ...]
  validation: Validation
  measured: Mapping[str, float | None]
  seconds: float
  time: Mapping[str, float]
  clock: str = "wall"
  stopped: str
  steps: float
  parameters: int
  peak_memory_bytes: int
  dataset: str
  notes: tuple[str, ...]
  seeds: tuple[int, ...]
  config: str
  device: str
  versions: Mapping[str, str]
  commit: str
  runs: tuple[ReplicaResult, ...]
  input: Input | None = None
  deduplicated: Deduplicated | None = None
  views: Mapping[str, ViewResult] = dataclasses.field(default_factory=dict)
  calibration: Calibration | None = None
  together: int | None = None
  process_seconds: float | None = None
  processes: int | None = None
  pretrained: Mapping[str, Any] | None = None
  fold: int | None = None
  std: float | None = None
  interval_95: tuple[float, ...] | None = None
  pooled_accuracy: float | None = None
  strategy: Strategy | None = None
  folds: FoldsResult | None = None
  overrides: tuple[str, ...] | None = None

  @property
  def several(self) -> bool:
    """Whether the run had several replicas."""
    return self.std is not None

  def to_json(self) -> dict[str, Any]:
    """Returns the content of result.json, without the fields that do not apply."""
    return as_json(self)


def read_result(path: Path) -> RunResult:
  """Reads a result.json of this or an earlier version.

  Raises:
    UserError: The file cannot be read, is not the result of a run, or was written by a newer version.
  """
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: expected the result of a run, cannot read it ({error}); finish the run again") from None
  return parse_result(content, str(path))


def parse_result(content: Any, path: str) -> RunResult:
  """Returns the result that the content of a result.json describes.

  Args:
    content: Parsed JSON.
    path: Path of the file, for error messages.

  Raises:
    UserError: A key is missing or has the wrong type, or the file was written by a newer version.
  """
  if not isinstance(content, dict):
    raise UserError(f"{path}: expected the result of a run, found {type(content).__name__}; finish the run again")
  version = content.get("version", 1)
  if not isinstance(version, int) or version > VERSION:
    raise UserError(f"{path}: version {version!r} of the result is newer than {VERSION}; update fer_jax")
  try:
    return _read(RunResult, {**content, "version": VERSION}, "")
  except ValueError as error:
    raise UserError(f"{path}: {error}; finish the run again, with this version of fer_jax") from None


def _key(cls: type, name: str) -> str:
  return "class" if cls is ClassMetrics and name == "name" else name


def as_json(value: Any) -> Any:
  """Returns a value in the form of result.json: dataclasses as dicts, and tuples as lists.

  Fields whose default is None are left out if they are None.
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {
      _key(type(value), field.name): as_json(getattr(value, field.name))
      for field in dataclasses.fields(value)
      if field.default is not None or getattr(value, field.name) is not None
    }
  if isinstance(value, Mapping):
    return {key: as_json(item) for key, item in value.items()}
  return [as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _read(kind: Any, value: Any, key: str) -> Any:
  """Converts parsed JSON to a type of this module; raises ValueError with the key if it does not fit."""
  if kind is Any:
    return value
  arguments = get_args(kind)
  if isinstance(kind, types.UnionType) or get_origin(kind) is Union:
    return None if value is None else _read(next(each for each in arguments if each is not type(None)), value, key)
  origin = get_origin(kind) or kind
  if dataclasses.is_dataclass(origin):
    return _read_dataclass(origin, value, key)
  if origin is tuple and isinstance(value, list):
    return tuple(_read(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
  if origin is Mapping and isinstance(value, dict):
    return {name: _read(arguments[1], item, f"{key}.{name}") for name, item in value.items()}
  # JSON does not distinguish 1.0 from 1; a bool is an int in Python.
  accepted = (int, float) if origin is float else origin
  if origin not in (tuple, Mapping) and isinstance(value, accepted) and not isinstance(value, bool):
    return value
  raise ValueError(f"{key}: expected {getattr(origin, '__name__', origin)}, found {value!r:.60}")


def _read_dataclass(cls: Any, value: Any, key: str) -> Any:
  if not isinstance(value, dict):
    raise ValueError(f"{key}: expected an object, found {value!r:.60}")
  hints = get_type_hints(cls)
  found = {}
  for field in dataclasses.fields(cls):
    name = _key(cls, field.name)
    if name in value:
      found[field.name] = _read(hints[field.name], value[name], f"{key}.{name}".lstrip("."))
    elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
      raise ValueError(f"{key}.{name}: missing".lstrip("."))
  return cls(**found)
