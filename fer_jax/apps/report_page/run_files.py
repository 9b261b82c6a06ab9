"""What a training run left in its workdir, read into one value."""

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.errors import UserError

Record = dict[str, Any]  # one JSON object


@dataclass(frozen=True)
class Predictions:
  """A run's predictions over its test split; N rows, K classes, M worst mistakes, S samples.

  Attributes:
    index: `[N]` int64, each row's place in the dataset.
    label: `[N]` int32, the true class.
    probability: `[N, K]` float32.
    worst: `[M]` int64, positions into the N rows, the most confident wrong answer first.
    worst_image: `[M, H, W, C]` uint8.
    sample_image: `[S, H, W, C]` uint8, training images as they are shown to the network, or None.
    replica: `[N]` int32, of a run of several trainings the number of each row's training, else None.
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
  """The records of `metrics.jsonl`, by kind and in the order of their steps.

  Attributes:
    train: the "train" records.
    evaluations: the "eval" records of each split.
    events: the "event" records, as written.
    unreadable: numbers (from 1) of the lines that are no JSON object with the keys of their kind.
  """

  train: list[Record] = field(default_factory=list)
  evaluations: dict[str, list[Record]] = field(default_factory=dict)
  events: list[Record] = field(default_factory=list)
  unreadable: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
  """One run: its workdir and what stands there.

  Attributes:
    workdir: of the run.
    config: its config.json.
    metrics: what it logged; of a run of several trainings its events alone.
    result: None until it ends.
    predictions: None until it ends.
    replicas: the trainings that it consists of, as far as they have begun; none where it is one training itself.
    planned: how many trainings it is to consist of.
  """

  workdir: Path
  config: Record
  metrics: Metrics
  result: Record | None
  predictions: Predictions | None
  replicas: "tuple[Run, ...]" = ()
  planned: int = 1

  @property
  def name(self) -> str:
    """The workdir's last part, by which pages speak of the run."""
    return self.workdir.resolve().name

  @property
  def source(self) -> str:
    """The config's own name, such as `configs/hsic.py:small`."""
    return str(self.config.get("source", self.name))

  @property
  def settings(self) -> Mapping[str, Any]:
    """The config as it was given, overrides included."""
    return mapping(self.config.get("config"))

  @property
  def trainings(self) -> "tuple[Run, ...]":
    """The trainings of the run: its replicas, or itself."""
    return self.replicas or (self,)

  @property
  def finished(self) -> "list[Run]":
    """The trainings that have a result."""
    return [training for training in self.trainings if training.result is not None]

  @property
  def validation(self) -> list[Record]:
    """The evaluations on the validation split, by step."""
    return self.metrics.evaluations.get("validation", [])

  @property
  def last_step(self) -> int:
    """The last step that any record speaks of; 0 when there is none."""
    records = [
      record
      for training in self.trainings
      for many in (training.metrics.train, *training.metrics.evaluations.values())
      for record in many
    ]
    return max((int(record["step"]) for record in records), default=0)


def read_json(path: Path) -> Record:
  """Reads a file that holds one JSON object.

  Raises:
    UserError: the file cannot be read or holds something else.
  """
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path}: expected a JSON object that a program wrote, cannot read it ({error}); write it again"
    ) from None
  if not isinstance(value, dict):
    raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}; write it again with its program")
  return value


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
  """Reads a `metrics.jsonl`; where a resumed run repeats a step, the later record counts.

  A crash may cut a line short: such lines are left out and their numbers kept in `unreadable`.
  """
  train: dict[int, Record] = {}
  evaluations: dict[str, dict[int, Record]] = {}
  events: list[Record] = []
  unreadable: list[int] = []
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


def read_predictions(path: Path, trainings: int) -> Predictions:
  """Reads a `predictions.npz`.

  Args:
    path: of the file.
    trainings: how many the run's result lists, among which `replica` numbers.

  Raises:
    UserError: the file is damaged or lacks an array, or an array points at what is not there.
  """
  try:
    # Given a path, np.load would leave the file of a damaged archive open.
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
    _check(found, trainings)
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    reason = " ".join(str(error).split())
    raise UserError(
      f"{path}: expected index, label, probability, worst and worst_image, cannot read them ({reason}); "
      "evaluate the run again, or remove the file"
    ) from None
  return found


def _check(of: Predictions, trainings: int) -> None:
  """Raises ValueError where the worst mistakes are no rows, or a row's training is none of the run's."""
  rows = len(of.label)
  if len(of.worst) != len(of.worst_image) or ((of.worst < 0) | (of.worst >= rows)).any():
    raise ValueError(f"worst: {len(of.worst)} of {rows} rows, with {len(of.worst_image)} images")
  if of.replica is None:
    return
  if len(of.replica) != rows or ((of.replica < 0) | (of.replica >= trainings)).any():
    raise ValueError(f"replica: not the number of a training for each row, of {trainings} that result.json lists")


def replica_folders(workdir: Path) -> list[Path]:
  """Returns the folders of the trainings that a run consists of, in order; none where it is one training itself."""
  return sorted(path.parent for path in workdir.glob("replicas/*/metrics.jsonl"))


def read_run(workdir: Path) -> Run:
  """Reads a run's workdir, and those of its trainings; what an interrupted run has not yet written is None.

  Raises:
    UserError: the workdir has no `config.json` or no `metrics.jsonl`, or a file in it is damaged.
  """
  for name in ("config.json", "metrics.jsonl"):
    if not (workdir / name).is_file():
      raise UserError(
        f"{workdir}: expected the workdir of a training run, with config.json and metrics.jsonl, "
        f"but it has no {name}; give the --workdir that the training was given"
      )
  predictions = workdir / "predictions.npz"
  config = read_json(workdir / "config.json")
  result = read_json(workdir / "result.json") if (workdir / "result.json").is_file() else None
  listed = len(mapping(result).get("runs") or [])
  return Run(
    workdir=workdir,
    config=config,
    metrics=read_metrics(workdir / "metrics.jsonl"),
    result=result,
    predictions=read_predictions(predictions, listed) if predictions.is_file() else None,
    replicas=tuple(read_run(folder) for folder in replica_folders(workdir)),
    planned=_planned(workdir, mapping(config.get("config"))),
  )


def _planned(workdir: Path, config: Mapping[str, Any]) -> int:
  """Returns how many trainings a run is to consist of: 0 in its config stands for all folds from one on."""
  replicas = config.get("replicas", 1)
  if replicas:
    return int(replicas)
  return int(read_json(workdir / "splits.json")["count"]) - int(mapping(config.get("folds")).get("number", 0))


def mapping(value: object) -> Mapping[str, Any]:
  """Returns `value` where it is a JSON object, else an empty one (an absent or null entry)."""
  return value if isinstance(value, dict) else {}


def write_text(path: Path, text: str) -> None:
  """Writes a text file whole or not at all; creates its folder.

  Raises:
    UserError: the folder or the file cannot be written.
  """
  partial = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      partial.write_text(text, encoding="utf-8", newline="\n")
      partial.replace(path)
    finally:
      partial.unlink(missing_ok=True)
  except OSError as error:
    raise UserError(f"{path}: expected to write here, but {error}; free the place or choose another") from None
