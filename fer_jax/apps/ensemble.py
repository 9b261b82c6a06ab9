"""Averages the probabilities of finished runs, also of different configs, without training or evaluating again.

Usage:
  python -m fer_jax.apps.ensemble --out=FILE.json [--views=single|flip|ten_crop] [--choose=N|best] RUN [RUN ...]

A run with several replicas contributes each replica as one network. All choices use the validation split; the test
split is only reported.
"""

import argparse
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fer_jax.apps.formatting import count, percent
from fer_jax.data.views import PROTOCOLS
from fer_jax.runtime import provenance, typed_json
from fer_jax.runtime.errors import UserError, run
from fer_jax.runtime.files import local_path
from fer_jax.training.evaluate import Evaluation, averaged, deduplicated
from fer_jax.training.metrics import METRICS, per_class
from fer_jax.training.run_files import replica_folders
from fer_jax.training.run_result import RunResult, Validation, ViewResult, read_result

ALL, BEST = "all", "best"
_ROUNDS = 50  # rounds of the forward selection; weights are multiples of 1/50 = 2 % or coarser
_LABELS = {"test": "label", "validation": "validation_label"}  # split -> array of predictions.npz
# Arrays of predictions.npz that all averaged networks must share -> their name in error messages.
_SHARED = {
  "index": "test images",
  "label": "test labels",
  "validation_index": "validation images",
  "validation_label": "validation labels",
}


@dataclass(frozen=True)
class FinishedRun:
  """A finished training run or replica with its predictions: N test rows, M validation rows, K classes.

  Attributes:
    name: Name in tables.
    folder: Folder of the run or replica.
    result: Result of the run or replica.
    arrays: Arrays of its predictions.npz: `index`, `label`, `seen` `[N]`; `validation_index`, `validation_label` `[M]`;
      and for each TTA protocol `test_<protocol>` `[N, K]`, `validation_<protocol>` `[M, K]`.
  """

  name: str
  folder: Path
  result: RunResult
  arrays: Mapping[str, np.ndarray]

  @property
  def protocols(self) -> list[str]:
    """TTA protocols that the network was evaluated with, by increasing number of views."""
    return [each for each in PROTOCOLS if {f"test_{each}", f"validation_{each}"} <= self.arrays.keys()]


@dataclass(frozen=True)
class NetworkResult:
  """One network in the result of an ensemble.

  Attributes:
    name: Name of the run or replica.
    weight: Weight of its probabilities; 0 if it was not chosen.
    validation: Validation accuracy of the network alone.
    test: Test accuracy of the network alone.
    config, seeds, commit: Fields of its run's result.
  """

  name: str
  weight: float
  validation: float
  test: float
  config: str
  seeds: tuple[int, ...]
  commit: str


@dataclass(frozen=True, kw_only=True)
class EnsembleResult(RunResult):
  """Result of an ensemble, in the format of a run's result.

  Attributes:
    protocol: TTA protocol whose probabilities are averaged.
    networks: All networks that were given.
    commits: Commits of the package that the networks were trained with.
  """

  protocol: str
  networks: tuple[NetworkResult, ...] = field(metadata={"keys": ("members",)})
  commits: tuple[str, ...]


def forward_selection(probabilities: Sequence[np.ndarray], label: np.ndarray, rounds: int = _ROUNDS) -> list[int]:
  """Selects networks greedily with replacement, and returns the best of the nested ensembles.

  Each round adds the network that improves the mean of the probabilities most: Caruana et al. 2004, "Ensemble selection
  from libraries of models", ICML. Higher accuracy is better; ties go to the lower loss, then to the earlier network.

  Args:
    probabilities: Validation probabilities of each network, float [M, K].
    label: Validation labels, int [M].
    rounds: Number of networks that are added before the best prefix is chosen.

  Returns:
    Positions in `probabilities`, possibly repeated.
  """
  taken: list[int] = []
  merits: list[tuple[float, float]] = []
  total = np.zeros(probabilities[0].shape)
  for size in range(1, rounds + 1):
    # Merit of the mean [M, K] after adding each of the networks.
    found = [_merit(_evaluate_mean([(total + each) / size], label)) for each in probabilities]
    merits.append(max(found))
    taken.append(found.index(merits[-1]))
    total += probabilities[taken[-1]]
  # The shortest prefix that reaches the maximum.
  return taken[: merits.index(max(merits)) + 1]


def write_ensemble(runs: Sequence[Path], out: Path, views: str | None = None, choose: str = ALL) -> EnsembleResult:
  """Averages finished runs, and writes and returns the ensemble's result in the format of result.json.

  Args:
    runs: Workdirs of the runs.
    out: Path of the file to write.
    views: TTA protocol of `fer_jax.data.views`; None for the one with the most views that all networks have.
    choose: "all" for all networks; a number N for the N with the best validation accuracy; "best" for a forward
      selection.

  Raises:
    UserError: A run is unfinished, was written by an older version or is given twice; the runs differ in dataset,
      classes or rows; a network lacks the views; fewer networks are given than are to be chosen; or the file cannot be
      written.
  """
  number = _number(choose)
  networks, seconds = _read_runs(runs)
  for folder in (*runs, *(network.folder for network in networks)):
    if out.resolve() == (folder / "result.json").resolve():
      raise UserError(f"--out={out}: expected a new file, but this is the result of a run; give another path")
  _check_shared(networks)
  protocol = _protocol(networks, views)
  if number is not None and number > len(networks):
    raise UserError(
      f"--choose={number}: expected at most {len(networks)}, the networks given; give more runs or a smaller number"
    )
  if choose == BEST:
    label = networks[0].arrays["validation_label"]
    chosen = forward_selection([each.arrays[f"validation_{protocol}"] for each in networks], label)
  else:
    merits = [_merit(_evaluate([each], "validation", protocol)) for each in networks]
    chosen = sorted(range(len(networks)), key=merits.__getitem__, reverse=True)[:number]
  flags = [f"--views={protocol}", *([f"--choose={choose}"] if choose != ALL else [])]
  result = _combine(networks, chosen, protocol, flags, seconds)
  typed_json.write(out, result)
  return result


def table(result: EnsembleResult) -> str:
  """Returns a text table of the networks and the ensemble, with the accuracy without train/test overlap below."""
  rows = [("network", "weight", "validation", "test")]
  for network in result.networks:
    weight = f"{network.weight:.2f}" if network.weight else "-"
    rows.append((network.name, weight, percent(network.validation), percent(network.test)))
  rows.append(("ensemble", "", percent(result.validation.accuracy), percent(result.accuracy)))
  name, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
  lines = [
    f"{first:<{name}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    for first, *cells in rows
  ]
  rest = result.deduplicated
  if rest is not None and rest.images and rest.seen:
    lines.append(
      f"without the {count(rest.seen)} test images that also appear in training: {percent(rest.accuracy)} over "
      f"{count(rest.images)}"
    )
  return "\n".join(lines)


def _read_runs(runs: Sequence[Path]) -> tuple[list[FinishedRun], float]:
  """Returns the networks of all runs, and the total seconds of the runs; replicas of one run share its time."""
  last = [folder.resolve().name for folder in runs]
  networks: list[FinishedRun] = []
  seconds = 0.0
  for folder, short in zip(runs, last, strict=True):
    name = short if last.count(short) == 1 else str(folder)
    seconds += _read_result(folder).seconds
    replicas = replica_folders(folder)
    networks += [_read(f"{name}/{each.name}", each) for each in replicas] or [_read(name, folder)]
  resolved = [network.folder.resolve() for network in networks]
  for position, folder in enumerate(resolved):
    if folder in resolved[:position]:
      raise UserError(f"{networks[position].folder}: given twice; give each run once (--choose=best finds weights)")
  return networks, seconds


def _read_result(folder: Path) -> RunResult:
  path = folder / "result.json"
  if not path.is_file():
    raise UserError(
      f"{folder}: has no result.json, so no run has finished there; expected the workdir of a finished run"
    )
  return read_result(path)


def _read(name: str, folder: Path) -> FinishedRun:
  result, path = _read_result(folder), folder / "predictions.npz"
  rows = ("index", "label", "seen")
  try:
    # Given a path, np.load does not close the file of a damaged archive.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
      arrays = {key: saved[key] for key in saved.files if key in rows or key.startswith(("test_", "validation_"))}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    reason = " ".join(str(error).split())
    raise UserError(f"{path}: expected a run's predictions, cannot read them ({reason}); copy the run again") from None
  missing = [key for key in (*rows, *_SHARED, "test_single", "validation_single") if key not in arrays]
  if missing:
    raise UserError(
      f"{path}: has no {', '.join(dict.fromkeys(missing))}: written by an older version; train the run again"
    )
  return FinishedRun(name, folder, result, arrays)


def _check_shared(networks: Sequence[FinishedRun]) -> None:
  """Raises UserError unless the networks classify the same images of one dataset."""
  first, *others = networks
  if not len(first.arrays["validation_label"]):
    raise UserError(
      f"{first.folder}: has no validation images, which are needed to compare networks; give runs with some"
    )
  for other in others:
    for key in ("dataset", "class_names"):
      expected, found = getattr(first.result, key), getattr(other.result, key)
      if found != expected:
        raise UserError(
          f"{other.folder}: expected the {key} of {first.folder}, {expected}, found {found}; give runs of one dataset"
        )
    for key, what in _SHARED.items():
      if not np.array_equal(other.arrays[key], first.arrays[key]):
        raise UserError(
          f"{other.folder}: expected the {what} of {first.folder}, found others; give runs that share both splits, not "
          "folds or seeds that each draw their own validation split"
        )


def _protocol(networks: Sequence[FinishedRun], views: str | None) -> str:
  """Returns the requested TTA protocol, or the one with the most views that all networks have."""
  if views is None:
    return _common(networks)[-1]
  for network in networks:
    if views not in network.protocols:
      raise UserError(
        f"{network.folder}: was not evaluated with --views={views}, only with {', '.join(network.protocols)}; give "
        f"another --views, or train it with --config.views={views}"
      )
  return views


def _common(networks: Sequence[FinishedRun]) -> list[str]:
  """Returns the TTA protocols that all networks have, by increasing number of views."""
  return [each for each in PROTOCOLS if all(each in network.protocols for network in networks)]


def _number(choose: str) -> int | None:
  """Returns the number of networks to choose; None for "all" and "best"."""
  if choose in (ALL, BEST):
    return None
  if not (choose.isascii() and choose.isdigit() and int(choose)):
    raise UserError(f"--choose={choose}: expected a number of networks, 1 or more, or best")
  return int(choose)


def _evaluate(networks: Sequence[FinishedRun], split: str, protocol: str) -> Evaluation:
  """Evaluates the mean of the networks' probabilities on a split."""
  probabilities = [each.arrays[f"{split}_{protocol}"] for each in networks]
  return _evaluate_mean(probabilities, networks[0].arrays[_LABELS[split]])


def _evaluate_mean(probabilities: Sequence[np.ndarray], label: np.ndarray) -> Evaluation:
  """Evaluates the mean of several networks' probabilities, each [N, K], against labels [N]."""
  classes = probabilities[0].shape[1]
  # `averaged` reads only the probabilities, so loss and confusion matrix are placeholders.
  each = [Evaluation(math.nan, np.zeros((classes, classes), np.int64), one) for one in probabilities]
  return averaged(each, np.eye(classes)[label])


def _merit(evaluation: Evaluation) -> tuple[float, float]:
  """Returns a sort key that increases with accuracy, then with decreasing loss."""
  return evaluation.accuracy, -evaluation.loss


def _combine(
  networks: Sequence[FinishedRun], chosen: Sequence[int], protocol: str, flags: Sequence[str], seconds: float
) -> EnsembleResult:
  """Returns the result of the ensemble of the chosen networks, and the figures of every single network.

  Args:
    networks: All networks.
    chosen: Positions in `networks`; a repeated position has a larger weight.
    protocol: TTA protocol whose probabilities are averaged.
    flags: Command-line flags, for the result's config.
    seconds: Seconds of all runs.
  """
  weights = np.bincount(chosen, minlength=len(networks)) / len(chosen)
  picked = [networks[position] for position in chosen]
  used = [network for network, weight in zip(networks, weights, strict=True) if weight]
  seen = np.any([each.arrays["seen"] for each in used], axis=0)  # bool [N]: in the training set of any network used
  label = networks[0].arrays["label"]
  results = [each.result for each in networks]
  names = results[0].class_names
  test = _evaluate(picked, "test", protocol)
  common = _common(networks)
  return EnsembleResult(
    accuracy=test.accuracy,
    loss=test.loss,
    metrics={name: metric(test.probability, label) for name, metric in METRICS.items()},
    confusion_matrix=tuple(map(tuple, test.confusion.tolist())),
    class_names=names,
    per_class=per_class(test.confusion, names),
    deduplicated=deduplicated(test, label, seen),
    validation=Validation(_evaluate(picked, "validation", protocol).accuracy, None),
    protocol=protocol,
    views={each: _view_result(picked, each, seen) for each in common} if len(common) > 1 else {},
    networks=tuple(
      NetworkResult(
        name=each.name,
        weight=float(weight),
        validation=_evaluate([each], "validation", protocol).accuracy,
        test=_evaluate([each], "test", protocol).accuracy,
        config=each.result.config,
        seeds=each.result.seeds,
        commit=each.result.commit,
      )
      for each, weight in zip(networks, weights, strict=True)
    ),
    seeds=tuple(sorted({seed for network in used for seed in network.result.seeds})),
    steps=sum(result.steps for result in results),
    parameters=sum(network.result.parameters for network in used),
    dataset=results[0].dataset,
    config=" ".join(["apps.ensemble", *flags, *dict.fromkeys(each.result.config or each.name for each in networks)]),
    seconds=seconds,
    # `seconds` is training time, so `device` is where the networks were trained.
    device=", ".join(dict.fromkeys(result.device for result in results)),
    versions=provenance.versions(),
    commit=provenance.commit(),
    commits=tuple(dict.fromkeys(result.commit for result in results)),
  )


def _view_result(networks: Sequence[FinishedRun], protocol: str, seen: np.ndarray) -> ViewResult:
  """Returns the result of one TTA protocol."""
  test = _evaluate(networks, "test", protocol)
  return ViewResult(
    validation=_evaluate(networks, "validation", protocol).accuracy,
    test=test.accuracy,
    deduplicated=deduplicated(test, networks[0].arrays["label"], seen).accuracy,
    loss=test.loss,
  )


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command line; prints the networks, the ensemble and the path of the file."""
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.ensemble",
    description="Average the probabilities of finished runs; all choices use the validation split.",
  )
  parser.add_argument("runs", type=local_path, nargs="+", metavar="RUN", help="workdir of a finished run")
  parser.add_argument("--out", type=local_path, required=True, metavar="FILE.json", help="file to write the result to")
  parser.add_argument("--views", choices=tuple(PROTOCOLS), help="TTA protocol (default: most views that all have)")
  parser.add_argument(
    "--choose",
    default=ALL,
    metavar="N|best",
    help="number of networks, by validation accuracy; or best: forward selection with weights (default: all)",
  )
  given = parser.parse_args(arguments)
  result = write_ensemble(given.runs, given.out, given.views, given.choose)
  print(f"{table(result)}\nWritten: {given.out}")


if __name__ == "__main__":
  run(main)
