"""Result of a sweep: its fields, and how sweep.json and the results folder store them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fer_jax.config.sweep import Candidate, Figure, Sweep
from fer_jax.runtime import typed_json

VERSION = 2  # version 1 had no key "version" and other names for some keys
Interval = tuple[float, float]


@dataclass(frozen=True)
class SeedResult:
  """Run of a candidate with one seed; values are None until it has finished.

  Attributes:
    seed: Random seed.
    run: Name of the run's folder.
    status: Status of the run: "finished", "failed", "unfinished" or "not yet run".
    error: Error message of a failed run; empty otherwise.
    accuracy: Test accuracy; the mean over the replicas if there are several.
    validation_accuracy: Best validation accuracy; None without a validation split.
    steps: Number of steps taken.
    seconds: Seconds of the run.
    stopped: Reason for the end of training.
    device: Kind and number of devices.
    commit: Commit of the package.
    replicas: Number of replicas and what they differ in, such as "10 folds by subjects"; None for a single replica.
  """

  seed: int
  run: str
  status: str
  error: str = ""
  accuracy: float | None = None
  validation_accuracy: float | None = None
  steps: float | None = None
  seconds: float | None = None
  stopped: str | None = None
  device: str | None = None
  commit: str | None = None
  replicas: str | None = field(default=None, metadata={"keys": ("replicas", "trainings")})


@dataclass(frozen=True)
class ClassRecall:
  """Recall of one class, over the test images of all finished runs of a candidate.

  Attributes:
    name: Name of the class.
    recall: Recall, 0 to 1; None without test images.
    interval_95: Wilson interval; None if several seeds are tested on the same images, which are not independent.
    images: Number of test images.
    reported: Recall reported in the paper; None if there is none.
  """

  name: str = field(metadata={"keys": ("class",)})
  recall: float | None
  interval_95: Interval | None
  images: int
  reported: float | None = field(metadata={"keys": ("reported", "printed")})


@dataclass(frozen=True)
class Gap:
  """Test accuracy of the reference minus that of a candidate, over the seeds that both have finished.

  Attributes:
    mean: Mean difference; None without a common seed.
    interval_95: Student t interval of paired observations; None for less than two seeds.
    seeds: Number of common seeds.
  """

  mean: float | None
  interval_95: Interval | None
  seeds: int


@dataclass(frozen=True)
class FoldChoices:
  """Test accuracy when each fold chooses its own candidate by its validation part.

  Attributes:
    accuracy: Mean test accuracy of the chosen replicas.
    interval_95: Student t interval of the mean; None for a single fold.
    picks: Number of folds that chose a candidate, by its name.
  """

  accuracy: float = field(metadata={"keys": ("test accuracy",)})
  interval_95: Interval | None
  picks: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class CandidateResult(Candidate):
  """A candidate with its results, and statistics over its seeds or folds.

  Attributes:
    status: Status of its runs together: "finished", "failed", "unfinished" or "not yet run".
    error: Distinct error messages of its runs, each with the seeds; empty without errors.
    measured: Means by quantity; None where not measured.
    std: Standard deviations by quantity.
    interval_95: Intervals by quantity.
    interval: Description of the intervals, such as "Student t, over 3 seeds"; empty without intervals.
    classes: Recall of each class.
    steps: Mean number of steps; None until a run has finished.
    seconds: Seconds of all finished runs.
    runs: Its runs, one for each seed.
    gap: Gap to the sweep's reference; None without a reference, and for the reference itself.
  """

  status: str
  error: str = ""
  measured: Mapping[str, float | None]
  std: Mapping[str, float]
  interval_95: Mapping[str, Interval]
  interval: str
  classes: tuple[ClassRecall, ...] = ()
  steps: float | None = None
  seconds: float
  runs: tuple[SeedResult, ...]
  gap: Gap | None = None


@dataclass(frozen=True, kw_only=True)
class SweepResult(Sweep):
  """A sweep with the results of its candidates, the content of sweep.json.

  Attributes:
    version: Version of the format.
    candidates: Candidates with their results.
    sweep: Source of the sweep, FILE.py or FILE.py:VARIANT.
    chosen: Name of the chosen candidate; None if the sweep chooses none, and until all have finished.
    chosen_by_fold: Choice of each fold; None without a choice or folds.
    overrides: Overrides of all candidates.
    status: Status of all runs together: "finished", "failed" or "unfinished".
    timed_on: Device of the timings; empty without timings.
    timed: Quantities that are read from the timings.
    datasets, devices, commits: Distinct values of the finished runs.
    versions: Versions of the packages, by name; several of one package are separated by commas.
    seeds: Distinct seeds of all candidates.
    seconds: Seconds of all finished runs; a run that candidates share counts once.
  """

  version: int = VERSION
  candidates: tuple[CandidateResult, ...] = field(metadata={"keys": ("rows",)})
  sweep: str
  chosen: str | None = None
  chosen_by_fold: FoldChoices | None = None
  overrides: tuple[str, ...]
  status: str
  timed_on: str = ""
  timed: tuple[str, ...] = ()
  datasets: tuple[str, ...]
  devices: tuple[str, ...]
  commits: tuple[str, ...]
  versions: Mapping[str, str]
  seeds: tuple[int, ...]
  seconds: float

  def shown_in(self, figure: Figure) -> list[CandidateResult]:
    """Returns the candidates that a figure shows."""
    return [each for each in self.candidates if not figure.candidates or each.name in figure.candidates]


def parse_sweep(content: Any, path: str) -> SweepResult:
  """Returns the result that the content of a sweep.json describes; see `typed_json.parse`, also for the errors."""
  advice = "run the sweep again with this version of fer_jax"
  return typed_json.parse(SweepResult, content, path, "the result of a sweep", advice)
