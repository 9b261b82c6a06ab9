"""Typed settings of a run: each section of a config is a frozen dataclass whose fields are the section's keys."""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from fer_jax.data.augment import Augmentation
from fer_jax.data.expansion import Expansion
from fer_jax.data.mixing import Mixing
from fer_jax.models import ModelSettings
from fer_jax.objectives import ObjectiveSettings
from fer_jax.optim import Optimizer
from fer_jax.runtime.errors import UserError

FOLDS_BY = ("", "images", "groups", "subjects", "one_subject_out", "file")
WATCHED = ("accuracy", "loss")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}
_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(steps?|epochs?)?\s*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Duration:
  """A length of training, as a number of steps, a number of epochs, or a share of a longer duration.

  Attributes:
    amount: Number of steps or epochs, or the share in [0, 1]; 0 or more.
    unit: Unit of `amount`: "steps", "epochs" or "share".
  """

  amount: float
  unit: str

  @classmethod
  def parse(cls, value: Any, key: str) -> "Duration":
    """Parses a duration: 500 or "500 steps", "10 epochs", or 0.1 (a share, at most 1.0).

    Bare numbers may also be text ("500", "0.1"), because command-line overrides are text.

    Args:
      value: Value of the config key.
      key: Full path of the config key, for the error message.

    Returns:
      Parsed duration.

    Raises:
      UserError: The value is not a duration.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is not None and match[2]:
      return cls(float(match[1]), "epochs" if match[2].lower().startswith("epoch") else "steps")
    # An integer is a number of steps and a float is a share: "1" is one step, "1.0" is the whole.
    number = value if match is None else int(match[1]) if match[1].isdigit() else float(match[1])
    if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
      return cls(number, "steps")
    if isinstance(number, float) and 0 <= number <= 1:
      return cls(number, "share")
    raise UserError(f'{key}={value!r}: expected steps (500 or "500 steps"), "10 epochs" or a share such as 0.1')

  def steps(self, total: int, rows: int, batch_size: int) -> int:
    """Returns the duration in steps, rounded, at least 1.

    Args:
      total: Number of steps that a share refers to.
      rows: Number of training rows in an epoch.
      batch_size: Number of rows in a global batch.
    """
    steps = {"steps": 1.0, "epochs": rows / batch_size, "share": float(total)}[self.unit]
    return max(1, round(self.amount * steps))


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """The dataset, its preparation, and where its images are stored during training.

  Attributes:
    name: Dataset name in `fer_jax.data.builders`, optionally with a configuration, as in "ck_plus/neutral".
    data_dir: Directory of the prepared dataset; "" selects the default of TFDS.
    labels: Label set: "original", or for FER2013 with FER+ votes "ferplus_hard", "ferplus_soft" or "ferplus_blend".
    image_size: Height and width of the images in pixels; 0 keeps the size of the dataset.
    crop: Face crop: "detector", "fixed" (the same region of every image), "none", or "auto", which selects the
      detector for datasets of photographs and no crop for datasets that are already cropped to faces.
    validation_share: Share of the training rows held out for validation if the dataset has no validation split.
    drop: Filter of the training split: "train_duplicates" removes training images that also appear in the validation
      or test split; "" removes nothing.
    residence: Storage of the images. "device" keeps them in device memory and sends indices; "host" sends rows;
      "stream" leaves them encoded on disk and sends rows that are decoded on demand; "auto" chooses by the size of
      the decoded images: device up to 2 GiB, host up to 32 GiB, stream above.
  """

  name: str = "fer2013"
  data_dir: str = ""
  labels: str = "original"
  image_size: int = 0
  crop: str = "auto"
  validation_share: float = 0.1
  drop: str = ""
  residence: str = "auto"


@dataclasses.dataclass(frozen=True)
class FoldSettings:
  """Cross-validation folds, which replace the dataset's own splits.

  Attributes:
    by: Unit that is never split between folds: "images", "groups" (sequences, duplicates) or "subjects" (people);
      "one_subject_out" makes one fold per person; "file" reads the folds from `file`; "" keeps the dataset's own
      splits.
    count: Number of folds; ignored for "one_subject_out" and "file", which define their own.
    number: Index of the fold that is the test split, from 0; with several replicas, index of the first one's fold.
    seed: Random seed of the fold assignment, independent of the training seed.
    file: Path of a splits.json that an earlier run wrote.
  """

  by: str = ""
  count: int = 10
  number: int = 0
  seed: int = 0
  file: str = ""

  def __post_init__(self) -> None:
    if self.by not in FOLDS_BY:
      raise ValueError(f"folds.by={self.by!r}: expected one of {', '.join(by or 'empty' for by in FOLDS_BY)}")
    if self.count < 2:
      raise ValueError(f"folds.count={self.count}: expected 2 or more")
    if self.number < 0:
      raise ValueError(f"folds.number={self.number}: expected 0 or more")
    # A file is required with by="file" and rejected otherwise, where it would be ignored silently.
    if (self.by == "file") != bool(self.file):
      raise ValueError(f"folds.by={self.by!r} and folds.file={self.file!r}: expected a file with by='file', else none")


@dataclasses.dataclass(frozen=True)
class PretrainedSettings:
  """Pretrained weights that training starts from.

  Attributes:
    path: Weights to load: a file (.pth, .safetensors, .npz) with torchvision's parameter names, the folder of a
      finished run, a model file exported from one, or "default" for the network shipped with the package; "" loads
      nothing.
    required: Whether the config is meaningless without pretrained weights.
    classifier: Whether to load the weights of the classifier layer too; otherwise it is initialised at random.
  """

  path: str = ""
  required: bool = False
  classifier: bool = False


@dataclasses.dataclass(frozen=True)
class PhaseSettings:
  """One phase of training.

  Attributes:
    objective: Objective that computes gradients from a batch.
    optimizer: Optimiser that computes updates from gradients.
    train: Shell-style patterns of the names of trainable layers; all other layers are frozen.
    duration: Length of the phase; a share refers to the whole run.
    patience: Number of evaluations without improvement on the validation split before the phase ends; 0 disables
      early stopping.
    watch: Validation metric that defines improvement: "accuracy" (higher) or "loss" (lower), which is the
      cross-entropy whatever the objective. The best checkpoint is selected by accuracy in either case.
    average: Decay per step of the exponential moving average of parameters and batch statistics, such as 0.999. The
      averages replace the latest values for evaluation and in the trained model. 0 disables averaging.
  """

  objective: ObjectiveSettings
  optimizer: Optimizer = Optimizer()
  train: tuple[str, ...] = ("*",)
  duration: Duration = Duration(1.0, "share")
  patience: int = 0
  watch: str = "accuracy"
  average: float = 0.0

  def __post_init__(self) -> None:
    if self.watch not in WATCHED:
      raise ValueError(f"watch={self.watch!r}: expected one of {', '.join(WATCHED)}")
    if not 0 <= self.average < 1:
      raise ValueError(f"average={self.average}: expected a decay, 0 <= average < 1")
    if self.patience < 0:
      raise ValueError(f"patience={self.patience}: expected evaluations, 0 for any number")


@dataclasses.dataclass(frozen=True)
class Paper:
  """Results that a paper reports, shown in the report next to the measured ones.

  Attributes:
    title: Title of the paper.
    reference: DOI or arXiv number.
    reported: Reported values by quantity, e.g. {"test accuracy": 0.97}.
    by_class: Reported (precision, recall, F1), or (recall,) alone, by class name.
    note: Remark on how to interpret the values.
  """

  title: str = ""
  reference: str = ""
  reported: Mapping[str, float] = dataclasses.field(default_factory=dict)
  by_class: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
  note: str = ""

  def __post_init__(self) -> None:
    for name, figures in self.by_class.items():
      if len(figures) not in (1, 3):
        raise ValueError(f"paper.by_class.{name}={figures}: expected precision, recall and F1, or the recall alone")


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a whole run.

  Attributes:
    data: Dataset.
    folds: Cross-validation folds.
    replicas: Number of replicas that form the run. They use the folds from `folds.number` on, or, with the dataset's
      own splits, the seeds from `seed` on. 0 selects all remaining folds.
    replica_strategy: Execution of several replicas on one device: "loop" (one after the other), "vmap" (batched in
      every operation), or "auto" (the faster of the two, measured on a few steps).
    model: Network and its hyper-parameters.
    pretrained: Pretrained weights.
    expansion: Offline expansion of the dataset by augmented copies, before training.
    augmentation: Online augmentation of training images.
    mixing: Mixing of training images with one another.
    schedule: Names of the phases, in order.
    phases: Settings of the phases, by name.
    duration: Length of the run; the shares of the phases refer to it.
    batch_size: Number of rows in a global batch, over all devices.
    eval_batch_size: Number of rows in a global evaluation batch; smaller splits are evaluated in smaller batches.
    views: Test-time augmentation, evaluated after training in addition to the single image: "single" (none), "flip"
      (the image and its mirror image) or "ten_crop" (centre and four corners, and their mirror images).
    view_margin: Offset in pixels of the "ten_crop" corners from the centre.
    evaluate_every: Interval between evaluations of the validation split, each followed by a checkpoint.
    checkpoint_every: Interval between additional checkpoints.
    log_every: Interval between logged training metrics.
    seed: Random seed of parameters, data order and augmentation; replica r uses seed + r.
    precision: Dtype of activations, "float32" or "bfloat16"; parameters, statistics and losses are always float32.
    budget_minutes: Time limit of the run in minutes, including evaluation and report; 0 for no limit.
    clock: Clock of the time budget and of all reported seconds: "wall", or "cpu", the processor time of the process
      summed over all cores, which excludes other load on the machine. "cpu" is meant for runs on a CPU.
    paper: Results of a paper, for comparison.
  """

  model: ModelSettings
  phases: Mapping[str, PhaseSettings]
  schedule: tuple[str, ...]
  duration: Duration
  data: DataSettings = DataSettings()
  folds: FoldSettings = FoldSettings()
  replicas: int = 1
  replica_strategy: str = "auto"
  pretrained: PretrainedSettings = PretrainedSettings()
  expansion: Expansion = Expansion()
  augmentation: Augmentation = Augmentation()
  mixing: Mixing = Mixing()
  batch_size: int = 128
  eval_batch_size: int = 256
  views: str = "single"
  view_margin: int = 3
  evaluate_every: Duration = Duration(1, "epochs")
  checkpoint_every: Duration = Duration(1, "epochs")
  log_every: Duration = Duration(10, "steps")
  seed: int = 0
  precision: str = "float32"
  budget_minutes: float = 0.0
  clock: str = "wall"
  paper: Paper = Paper()
