"""Reads the workdir of a training run."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import read_json
from fer_jax.training.run_result import RunResult, Validation, read_result

Record = dict[str, Any]  # one JSON object


@dataclass(frozen=True)
class Predictions:
  """A run's predictions on its test split: N rows, K classes, M worst mistakes, S samples.

  Attributes:
    index: Row of each image in the dataset, int64 [N].
    label: True class, int32 [N].
    probability: Probabilities of the classes, float32 [N, K].
    worst: Indices into the N rows, the most confident wrong answer first, int64 [M].
    worst_image: Images of the worst mistakes, uint8 [M, H, W, C].
    sample_image: Training images as they are fed to the network, uint8 [S, H, W, C]; or None.
    replica: Number of the replica that each row is from, int32 [N]; None in a run without replicas.
  """

  index: np.ndarray
  label: np.ndarray
  probability: np.ndarray
  worst: np.ndarray
  worst_image: np.ndarray
  sample_image: np.ndarray | None
  replica: np.ndarray | None = None


@dataclass(frozen=True)
class Metrics:
  """The records of a `metrics.jsonl`, by kind.

  Attributes:
    train: Records of kind "train", by step.
    evaluations: Records of kind "eval" of each split, by step.
    events: Records of kind "event", in the order of the file.
    unreadable: Numbers, from 1, of the lines that are not a JSON object with a known kind and an integer step.
  """

  train: list[Record] = field(default_factory=list)
  evaluations: dict[str, list[Record]] = field(default_factory=dict)
  events: list[Record] = field(default_factory=list)
  unreadable: list[int] = field(default_factory=list)


def training_cross_entropy(record: Record) -> float | None:
  """Returns the cross-entropy of a record of kind "train", which can be compared with the loss of evaluations.

  Objectives for hidden layers log the classifier's cross-entropy under its own key. A record with neither that key nor
  an accuracy is from a phase without a classifier: None.
  """
  return record.get("cross_entropy", record.get("loss") if "accuracy" in record else None)


@dataclass(frozen=True)
class RunFiles:
  """A run and the files of its workdir.

  Attributes:
    workdir: Folder of the run.
    config: Content of config.json.
    metrics: Records of metrics.jsonl; a run with several replicas logs only events in this file.
    result: Content of result.json; None until the run has finished.
    predictions: Content of predictions.npz; None until the run has finished.
    replicas: Files of the replicas that have started; empty for a run of a single replica.
    planned: Number of replicas that the run is configured for.
  """

  workdir: Path
  config: Record
  metrics: Metrics
  result: RunResult | None
  predictions: Predictions | None
  replicas: "tuple[RunFiles, ...]" = ()
  planned: int = 1

  @property
  def name(self) -> str:
    """Last part of the workdir's path, used as the run's name on pages."""
    return self.workdir.resolve().name

  @property
  def source(self) -> str:
    """Source of the config, such as `configs/hsic.py:small`."""
    return str(self.config.get("source", self.name))

  @property
  def settings(self) -> Mapping[str, Any]:
    """Config of the run with its overrides applied."""
    return mapping(self.config.get("config"))

  @property
  def paper(self) -> Mapping[str, Any]:
    """Entry of the config on the paper of the system; empty without one."""
    return mapping(self.settings.get("paper"))

  @property
  def replicas_or_self(self) -> "tuple[RunFiles, ...]":
    """Replicas of the run, or the run itself if it has none."""
    return self.replicas or (self,)

  @property
  def finished(self) -> "list[RunFiles]":
    """Replicas that have a result."""
    return [replica for replica in self.replicas_or_self if replica.result is not None]

  @property
  def validation(self) -> list[Record]:
    """Evaluations on the validation split, by step."""
    return self.metrics.evaluations.get("validation", [])

  @property
  def best_validation(self) -> Validation | None:
    """Selected evaluation, or the best one so far, the first of equals; None without an evaluation."""
    if self.result is not None:
      return self.result.validation
    known = [Validation(each["accuracy"], each["step"]) for each in self.validation if each.get("accuracy") is not None]
    return max(known, key=lambda each: each.accuracy, default=None)

  @property
  def seconds(self) -> float | None:
    """Seconds of the run, or until the last record before it has finished; None if not logged."""
    if self.result is not None:
      return self.result.seconds
    logged = [*self.metrics.train, *self.validation]
    return max((record["seconds"] for record in logged if record.get("seconds") is not None), default=None)

  @property
  def last_step(self) -> int:
    """Last step of all training and evaluation records; 0 without records."""
    records = [
      record
      for replica in self.replicas_or_self
      for many in (replica.metrics.train, *replica.metrics.evaluations.values())
      for record in many
    ]
    return max((int(record["step"]) for record in records), default=0)


def _parse(line: str) -> Record | None:
  try:
    record = json.loads(line)
  except ValueError:
    return None
  if not isinstance(record, dict) or record.get("kind") not in ("train", "eval", "event"):
    return None
  if not isinstance(record.get("step"), int):
    return None
  return record


def read_metrics(path: Path) -> Metrics:
  """Reads a `metrics.jsonl`.

  A resumed run repeats steps; the last record of a step is used. A crash can truncate a line; such lines are skipped
  and their numbers are returned in `unreadable`.
  """
  train: dict[int, Record] = {}
  evaluations: dict[str, dict[int, Record]] = {}
  events: list[Record] = []
  unreadable: list[int] = []
  # A truncated line can end inside a UTF-8 sequence. split("\n"), unlike splitlines(), keeps U+2028 within a line.
  lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    record = _parse(line)
    if record is None:
      unreadable.append(number)
    elif record["kind"] == "train":
      train[record["step"]] = record
    elif record["kind"] == "eval":
      evaluations.setdefault(str(record.get("split", "validation")), {})[record["step"]] = record
    else:
      events.append(record)
  return Metrics(
    train=[train[step] for step in sorted(train)],
    evaluations={split: [of[step] for step in sorted(of)] for split, of in evaluations.items()},
    events=events,
    unreadable=unreadable,
  )


def read_predictions(path: Path, replicas: int) -> Predictions:
  """Reads a `predictions.npz`.

  Args:
    path: Path of the file.
    replicas: Number of replicas that the run's result lists; `replica` must be below it.

  Raises:
    UserError: The file is damaged or lacks an array, or an index in an array is out of range.
  """
  try:
    # Given a path instead of a file, np.load does not close the file of a damaged archive.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
      found = Predictions(
        index=arrays["index"],
        label=arrays["label"],
        probability=arrays["probability"],
        worst=arrays["worst"],
        worst_image=arrays["worst_image"],
        sample_image=arrays.get("sample_image"),
        replica=arrays.get("replica"),
      )
    _check(found, replicas)
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    reason = " ".join(str(error).split())  # on one line
    raise UserError(
      f"{path}: expected the arrays index, label, probability, worst and worst_image, cannot read them ({reason}); "
      "evaluate the run again, or remove the file"
    ) from None
  return found


def _check(found: Predictions, replicas: int) -> None:
  """Raises ValueError if `worst` or `replica` has the wrong length or an index out of range."""
  rows = len(found.label)
  if len(found.worst) != len(found.worst_image) or ((found.worst < 0) | (found.worst >= rows)).any():
    raise ValueError(f"worst: {len(found.worst)} indices into {rows} rows, with {len(found.worst_image)} images")
  if found.replica is None:
    return
  if len(found.replica) != rows or ((found.replica < 0) | (found.replica >= replicas)).any():
    raise ValueError(f"replica: expected one index for each row, into the {replicas} replicas of result.json")


def replica_folders(workdir: Path) -> list[Path]:
  """Returns the folders of the replicas of a run that have started, sorted by name; empty for a single replica."""
  return sorted(path.parent for path in workdir.glob("replicas/*/metrics.jsonl"))


def read_run(workdir: Path) -> RunFiles:
  """Reads the workdir of a run and of its replicas; files that an unfinished run has not written yet are None.

  Args:
    workdir: Folder of the run.

  Raises:
    UserError: The workdir has no `config.json` or no `metrics.jsonl`, or a file in it is damaged.
  """
  for name in ("config.json", "metrics.jsonl"):
    if not (workdir / name).is_file():
      raise UserError(
        f"{workdir}: expected the workdir of a training run, with config.json and metrics.jsonl, "
        f"but it has no {name}; give the same --workdir as for the training run"
      )
  predictions = workdir / "predictions.npz"
  config = read_json(workdir / "config.json")
  result = read_result(workdir / "result.json") if (workdir / "result.json").is_file() else None
  return RunFiles(
    workdir=workdir,
    config=config,
    metrics=read_metrics(workdir / "metrics.jsonl"),
    result=result,
    predictions=read_predictions(predictions, len(result.runs) if result else 0) if predictions.is_file() else None,
    replicas=tuple(read_run(folder) for folder in replica_folders(workdir)),
    planned=_planned(workdir, mapping(config.get("config"))),
  )


def _planned(workdir: Path, config: Mapping[str, Any]) -> int:
  """Returns the number of replicas of a run; 0 in its config means all folds from `folds.number` on."""
  replicas = config.get("replicas", 1)
  if replicas:
    return int(replicas)
  return int(read_json(workdir / "splits.json")["count"]) - int(mapping(config.get("folds")).get("number", 0))


def mapping(value: object) -> Mapping[str, Any]:
  """Returns `value` if it is a JSON object, else an empty mapping, as for an absent or null entry."""
  return value if isinstance(value, dict) else {}
