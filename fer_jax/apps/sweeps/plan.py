"""Plans the runs of a sweep from its file."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from fer_jax.config import command_line, parsing
from fer_jax.config.sweep import Candidate, Sweep
from fer_jax.runtime.errors import UserError

# The location of the data on a machine does not change what is measured, so it is not part of a run's identity.
_DATA_DIR = "data.data_dir"
_WEIGHTS = "pretrained.path"  # only its last part, the name of the file or the run, is part of a run's identity
_VALUE_LENGTH = 24  # maximum number of characters of an overridden value in a folder's name


@dataclass(frozen=True)
class PlannedRun:
  """A training run of a sweep: a candidate with one seed.

  Attributes:
    candidate: Name of the candidate.
    seed: Random seed of the training run.
    workdir: Folder of the run, named after the whole config, so that sweeps with a common run share its folder.
    arguments: Arguments of `python -m fer_jax.main`.
    init_from: Folder of the run that provides the initial parameters and must finish first; None without one.
  """

  candidate: str
  seed: int
  workdir: Path
  arguments: tuple[str, ...]
  init_from: Path | None = None

  @property
  def title(self) -> str:
    """Name of the run in messages and on pages."""
    return f"{self.candidate}, seed {self.seed}"

  @property
  def finished(self) -> bool:
    """Whether the run's folder contains its result."""
    return (self.workdir / "result.json").is_file()

  @property
  def started(self) -> bool:
    """Whether the run has started, now or earlier."""
    return (self.workdir / "config.json").is_file()

  @property
  def status(self) -> str:
    """Status of the run: "finished", "unfinished" or "not yet run"."""
    return "finished" if self.finished else "unfinished" if self.started else "not yet run"


@dataclass(frozen=True)
class SweepPlan:
  """A sweep and its runs.

  Attributes:
    source: Source of the sweep, FILE.py or FILE.py:VARIANT.
    sweep: Sweep, with the overrides and the seeds of the command line applied to its candidates.
    overrides: Overrides of all candidates, from the command line.
    runs: Runs in order, one for each candidate and seed; runs with equal configs share a folder.
    folder: Folder for the gathered results.
  """

  source: str
  sweep: Sweep
  overrides: tuple[str, ...]
  runs: tuple[PlannedRun, ...]
  folder: Path

  @property
  def distinct(self) -> list[PlannedRun]:
    """Runs with distinct folders, in order; of those that share a folder, the first."""
    return list({run.workdir: run for run in reversed(self.runs)}.values())[::-1]


def load_sweep(source: str) -> Sweep:
  """Returns the sweep defined by FILE.py or FILE.py:VARIANT.

  Raises:
    UserError: There is no such file or variant, or its `get_sweep` does not return a Sweep.
  """
  path = Path(source.partition(":")[0])
  if not path.is_file():
    known = sorted(other.as_posix() for other in Path("configs/sweeps").glob("*.py") if other.stem != "__init__")
    raise UserError(f"{source}: no file {path}; expected one of {', '.join(known)}, with or without :VARIANT")
  sweep = command_line.call_in_file(source, "get_sweep", source)
  if not isinstance(sweep, Sweep):
    raise UserError(f"{source}: get_sweep returned {type(sweep).__name__}; expected a fer_jax.config.sweep.Sweep")
  return sweep


def plan_sweep(source: str, workdir: Path, overrides: Sequence[str] = (), seeds: Sequence[int] = ()) -> SweepPlan:
  """Plans the runs of a sweep: reads and validates the config of every candidate, and writes nothing.

  Args:
    source: Source of the sweep, FILE.py or FILE.py:VARIANT.
    workdir: Folder of all sweeps.
    overrides: Overrides of every candidate's config, such as "--config.batch_size=64".
    seeds: Seeds of every candidate, instead of its own; empty keeps the sweep's seeds.

  Raises:
    UserError: The sweep, its variant, a candidate's config or an override is invalid.
  """
  sweep = load_sweep(source)
  candidates = tuple(
    replace(each, overrides=(*each.overrides, *overrides), seeds=tuple(seeds) or each.seeds)
    for each in sweep.candidates
  )
  runs: list[PlannedRun] = []
  for candidate in candidates:
    # For each seed, the run of the earlier candidate with the same seed.
    sources = {run.seed: run.workdir for run in runs if run.candidate == candidate.init_from}
    config = locate(candidate.config, source)
    runs += [_plan_run(candidate, config, seed, workdir / "runs", sources.get(seed)) for seed in candidate.seeds]
  changed = [_word(*o.removeprefix("--config.").split("=", 1)) for o in measured_overrides(overrides)]
  if seeds:
    changed.append(_word("seeds", "+".join(map(str, seeds))))
  folder = workdir / "_".join([_stem(source), *changed])
  return SweepPlan(source, replace(sweep, candidates=candidates), tuple(overrides), tuple(runs), folder)


def locate(path: str, source: str) -> str:
  """Returns a path that a sweep's file contains, so that sweeps can be started from any folder.

  Args:
    path: Path, or config FILE.py:VARIANT, relative to the current folder or to the folder that contains the sweep's
      package, such as `configs`.
    source: Source of the sweep, FILE.py or FILE.py:VARIANT.
  """
  file, _, _ = path.partition(":")
  root = Path(command_line.import_root(Path(source.partition(":")[0])))
  return str(root / path) if not Path(file).exists() and (root / file).exists() else path


def measured_overrides(overrides: Sequence[str]) -> tuple[str, ...]:
  """Returns the overrides that affect the measurement: all but the location of the data."""
  return tuple(override for override in overrides if not override.startswith(f"--config.{_DATA_DIR}="))


def _plan_run(candidate: Candidate, config: str, seed: int, folder: Path, init_from: Path | None) -> PlannedRun:
  weights = () if init_from is None else (f"--config.{_WEIGHTS}={init_from}",)
  arguments = (f"--config={config}", *candidate.overrides, *weights, f"--config.seed={seed}")
  try:
    command = command_line.parse(["sweep", *arguments])
    assert command is not None  # None is returned only for --help
    parsing.parse(command.config)
    name = _run_name(config, command_line.load_config(config), command.config)
  except UserError as error:
    raise UserError(f"candidate {candidate.name}: {error}") from None
  workdir = folder / name
  return PlannedRun(candidate.name, seed, workdir, (arguments[0], f"--workdir={workdir}", *arguments[1:]), init_from)


def _run_name(source: str, base: ConfigDict, changed: ConfigDict) -> str:
  """Returns the name of a run's folder: its overridden values, for readers, and a digest of the config, for uniqueness.

  Args:
    source: Source of the candidate's config.
    base: Config without overrides.
    changed: Config with overrides and seed.
  """
  content = changed.to_dict()
  content["pretrained"]["path"] = Path(content["pretrained"]["path"]).name
  before, after = (flatten_dict(each, sep=".") for each in (base.to_dict(), content))
  words = [
    _word(key, value)
    for key, value in after.items()
    if before.get(key) != value and key not in ("seed", _DATA_DIR, _WEIGHTS)
  ]
  digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
  return "_".join([_stem(source), *words, f"seed={after['seed']}", digest])


def _stem(source: str) -> str:
  path, _, variant = source.partition(":")
  return "_".join([Path(path).stem, *re.findall(r"\w+", variant)])


def _word(key: str, value: Any) -> str:
  """Returns a key such as "model.blocks" and its value as a part of a folder's name: "blocks=2"."""
  plain = re.sub(r"[^\w.+-]+", "-", str(value)).strip("-")
  return f"{key.rpartition('.')[2]}={plain[:_VALUE_LENGTH]}"
