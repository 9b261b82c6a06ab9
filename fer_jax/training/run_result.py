"""The result of a run: its fields, and how result.json stores them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_jax.runtime import typed_json

VERSION = 2  # version 1 had no key "version", no `metrics`, and repeated the accuracy of several replicas as "mean"
# Expected content of the file, and advice, in error messages.
_MESSAGES = ("the result of a run", "finish the run again with this version of fer_jax")


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

  name: str = dataclasses.field(metadata={"keys": ("class",)})
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
  results of earlier versions lack some. The result of an ensemble lacks those of a training run, such as `runs`.

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
  measured: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
  seconds: float
  time: Mapping[str, float] = dataclasses.field(default_factory=dict)
  clock: str = "wall"
  stopped: str = "finished"
  steps: float
  parameters: int
  peak_memory_bytes: int = 0
  dataset: str
  notes: tuple[str, ...] = ()
  seeds: tuple[int, ...]
  config: str
  device: str
  versions: Mapping[str, str]
  commit: str
  runs: tuple[ReplicaResult, ...] = ()
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

  def as_replica(self, name: str) -> ReplicaResult:
    """Returns the entry of this result, of a single replica, in the result of the run that the replica is part of.

    Args:
      name: Name of the replica's folder.
    """
    return ReplicaResult(
      name=name,
      seed=self.seeds[0],
      fold=self.fold,
      accuracy=self.accuracy,
      validation_accuracy=self.validation.accuracy,
      best_step=self.validation.step,
      images=sum(map(sum, self.confusion_matrix)),
      loss=self.loss,
      steps=int(self.steps),
      stopped=self.stopped,
      seconds=self.seconds,
      deduplicated=self.deduplicated,
      views=self.views,
    )

  def to_json(self) -> dict[str, Any]:
    """Returns the content of result.json, without the fields that do not apply."""
    return typed_json.as_json(self)


def read_result(path: Path) -> RunResult:
  """Reads a result.json of this or an earlier version; see `typed_json.read`, also for the errors."""
  return typed_json.read(RunResult, path, *_MESSAGES)


def parse_result(content: Any, path: str) -> RunResult:
  """Returns the result that the content of a result.json describes; see `typed_json.parse`, also for the errors."""
  return typed_json.parse(RunResult, content, path, *_MESSAGES)
