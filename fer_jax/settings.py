"""The typed settings of a run: every section of a config is a frozen dataclass here, whose fields are its keys."""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from fer_jax.data.augment import Augmentation
from fer_jax.data.expansion import Expansion
from fer_jax.data.mixing import Mixing
from fer_jax.errors import UserError
from fer_jax.models import ModelSettings
from fer_jax.objectives import ObjectiveSettings
from fer_jax.optim import Optimizer

FOLDS_BY = ("", "images", "groups", "subjects", "one_subject_out", "file")
WATCHED = ("accuracy", "loss")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}
_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(steps?|epochs?)?\s*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Duration:
  """A length of training: a number of steps, of epochs, or a share of something longer.

  Attributes:
    amount: how much, 0 or more.
    unit: "steps", "epochs" or "share".
  """

  amount: float
  unit: str

  @classmethod
  def parse(cls, value: Any, key: str) -> "Duration":
    """Reads 500 or "500 steps", "10 epochs", or 0.1 (a share, up to 1.0); raises UserError naming the key.

    A bare number may also be text, "500" or "0.1": an override on the command line is.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is not None and match[2]:
      return cls(float(match[1]), "epochs" if match[2].lower().startswith("epoch") else "steps")
    number = value if match is None else int(match[1]) if match[1].isdigit() else float(match[1])
    if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
      return cls(number, "steps")
    if isinstance(number, float) and 0 <= number <= 1:
      return cls(number, "share")
    raise UserError(f'{key}={value!r}: expected steps (500 or "500 steps"), "10 epochs" or a share such as 0.1')

  def steps(self, whole: int, rows: int, batch_size: int) -> int:
    """Returns the duration in steps, at least 1.

    Args:
      whole: steps of what a share is a share of.
      rows: of an epoch.
      batch_size: rows of a global batch.
    """
    steps = {"steps": 1.0, "epochs": rows / batch_size, "share": float(whole)}[self.unit]
    return max(1, round(self.amount * steps))


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """Which data, and how it reaches the device.

  Attributes:
    name: a dataset of `fer_jax.data.builders`, or with one of its configurations, "ck_plus/neutral".
    data_dir: where it was prepared; empty for TFDS's own default.
    labels: "original", or for FER2013 with votes "ferplus_hard", "ferplus_soft" or "ferplus_blend".
    image_size: pixels along each side; 0 keeps the dataset's own.
    crop: of photographs to the face: "detector", "fixed" (the same part of every picture) or "none"; "auto" is the
      detector for the datasets that are photographs, and none for those that are faces already.
    validation_share: of the training rows, held out where the dataset has no validation split.
    drop: "train_duplicates" leaves out training images that stand in the validation or test split too; "" nothing.
    residence: "device" keeps the data on the device and sends indices, "host" sends rows, "stream" leaves the images
      encoded on disk and sends rows that are decoded as they are needed; "auto" chooses by the size of the decoded
      images: up to 2 GiB the device, up to 32 GiB the host.
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
  """How the whole dataset is divided for cross-validation, in the place of its own splits.

  Attributes:
    by: what is kept whole: "images", "groups" (sequences, duplicates), "subjects" (people); "one_subject_out" makes
      a fold of every person; "file" takes the division that `file` holds; "" is the dataset's own splits.
    count: of folds; "one_subject_out" and "file" have their own.
    number: of the fold that is the test split, from 0; with replicas, of the first of them.
    seed: of the division, apart from that of the training.
    file: a splits.json that an earlier run has written.
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
    if (self.by == "file") != bool(self.file):
      raise ValueError(f"folds.by={self.by!r} and folds.file={self.file!r}: expected a file with by='file', else none")


@dataclasses.dataclass(frozen=True)
class PretrainedSettings:
  """Weights to begin with.

  Attributes:
    path: a file (.pth, .safetensors, .npz) with torchvision's names, the folder of a finished run or a file made of
      one, or "default", the network that the package ships; empty for none.
    required: whether the config makes no sense without.
    classifier: take the classifier's weights too; otherwise it begins at random.
  """

  path: str = ""
  required: bool = False
  classifier: bool = False


@dataclasses.dataclass(frozen=True)
class PhaseSettings:
  """One stretch of training.

  Attributes:
    objective: how a batch becomes gradients.
    optimizer: how gradients become updates.
    train: shell-style patterns of the layers that learn; the others stay bit for bit as they are.
    duration: of the phase; a share is one of the whole run.
    patience: evaluations without a better result on the validation split before the phase ends early; 0 never.
    watch: what a better result is: more "accuracy", or less "loss", which is the cross-entropy whatever the objective.
      The model is chosen by accuracy all the same.
    average: decay a step of the moving average of parameters and statistics, which is evaluated and kept in the place
      of the last ones, such as 0.999; 0 for none.
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
  """What a paper reports, for the report to set beside what was measured.

  Attributes:
    title: of the paper.
    reference: DOI or arXiv number.
    reported: figures by name, e.g. {"test accuracy": 0.97}.
    by_class: precision, recall and F1 by the name of a class, or the recall alone.
    note: how to read them.
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
  """A whole run.

  Attributes:
    data: which data.
    folds: how it is divided for cross-validation.
    replicas: how many trainings are one run: the folds from `folds.number` on, or, with the dataset's own splits, the
      seeds from `seed` on; 0 for all folds that are left.
    replica_strategy: how replicas share a device: in turn ("loop"), side by side in every operation ("vmap"), or
      whichever a few steps show to be the faster ("auto").
    model: which network.
    pretrained: weights to begin with.
    expansion: of the dataset by augmented copies, before training.
    augmentation: of training images.
    mixing: of training images with one another.
    schedule: the names of the phases, in order.
    phases: their settings, by name.
    duration: of the run.
    batch_size: rows of a global batch, over all devices.
    eval_batch_size: likewise, in evaluation; splits that have fewer rows are evaluated in smaller batches.
    views: of an image that are averaged in the end besides the one: "single" for no others, "flip" for its mirror image
      too, "ten_crop" for centre and corners and their mirror images.
    view_margin: of "ten_crop", pixels between the centre and a corner.
    evaluate_every: how often the validation split is read, and a checkpoint saved.
    checkpoint_every: how often a checkpoint is saved besides.
    log_every: how often metrics are written.
    seed: of parameters, data order and augmentation; replica r has seed + r.
    precision: of activations: "float32" or "bfloat16"; parameters, statistics and losses are float32.
    budget_minutes: a run with a budget ends in that time, results included; 0 for none.
    clock: what the seconds of a run are, those of its budget and of its result: "wall", or "cpu", processor time of
      the process on all its cores, so that other work on the machine does not count. For runs on a CPU.
    paper: what to compare with.
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
