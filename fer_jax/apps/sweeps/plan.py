"""Plans the runs of a sweep from its file."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fer_jax.config import command_line, parsing
from fer_jax.config.sweep import Member, Sweep
from fer_jax.runtime.errors import UserError

# The location of the data on a machine does not change what is measured, so it is not part of a run's identity.
_DATA_DIR = "data.data_dir"
_WEIGHTS = "pretrained.path"  # only its last part, the name of the file or the run, is part of a run's identity
_VALUE_LENGTH = 24  # maximum number of characters of an overridden value in a folder's name


@dataclass(frozen=True)
class Run:
  """A training run: a member with one seed.

  Attributes:
    member: Name of the member.
    seed: Random seed of the training run.
    workdir: Folder of the run, named after the whole config, so that sweeps with a common run share its folder.
    arguments: Arguments of `python -m fer_jax.main`.
    after: Folder of the run that provides the initial parameters and must finish first; None without one.
  """

  member: str
  seed: int
  workdir: Path
  arguments: tuple[str, ...]
  after: Path | None = None

  @property
  def title(self) -> str:
    """Name of the run in messages and on pages."""
    return f"{self.member}, seed {self.seed}"

  @property
  def finished(self) -> bool:
    """True if the run's folder contains its result."""
    return (self.workdir / "result.json").is_file()

  @property
  def begun(self) -> bool:
    """True if the run has started, now or earlier."""
    return (self.workdir / "config.json").is_file()

  @property
  def state(self) -> str:
    """State of the run: "finished", "begun" or "not yet run"."""
    return "finished" if self.finished else "begun" if self.begun else "not yet run"


@dataclass(frozen=True)
class Plan:
  """A sweep and its runs.

  Attributes:
    source: Source of the sweep, FILE.py or FILE.py:VARIANT.
    sweep: Sweep, with the overrides and the seeds of the command line applied to its members.
    overrides: Overrides of all members, from the command line.
    runs: Runs in order, one for each member and seed; runs with equal configs share a folder.
    folder: Folder for the gathered results.
  """

  source: str
  sweep: Sweep
  overrides: tuple[str, ...]
  runs: tuple[Run, ...]
  folder: Path

  @property
  def distinct(self) -> list[Run]:
    """Runs with distinct folders, in order; of those that share a folder, the first."""
    return list({run.workdir: run for run in reversed(self.runs)}.values())[::-1]

  def runs_of(self, member: Member) -> list[Run]:
    """Returns the runs of one member, one for each seed."""
    return [run for run in self.runs if run.member == member.name]


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


def plan(source: str, workdir: Path, overrides: Sequence[str] = (), seeds: Sequence[int] = ()) -> Plan:
  """Plans the runs of a sweep: reads and validates the config of every member, and writes nothing.

  Args:
    source: Source of the sweep, FILE.py or FILE.py:VARIANT.
    workdir: Folder of all sweeps.
    overrides: Overrides of every member's config, such as "--config.batch_size=64".
    seeds: Seeds of every member, instead of its own; empty keeps the sweep's seeds.

  Raises:
    UserError: The sweep, its variant, a member's config or an override is invalid.
  """
  sweep = load_sweep(source)
  members = tuple(
    replace(member, overrides=(*member.overrides, *overrides), seeds=tuple(seeds) or member.seeds)
    for member in sweep.members
  )
  runs: list[Run] = []
  for member in members:
    # A member that starts from an earlier member takes, for each seed, the run with the same seed.
    sources = {run.seed: run.workdir for run in runs if run.member == member.begins_with}
    runs += [_run(member, seed, workdir / "runs", sources.get(seed)) for seed in member.seeds]
  changed = [_word(*o.removeprefix("--config.").split("=", 1)) for o in measured_overrides(overrides)]
  if seeds:
    changed.append(_word("seeds", "+".join(map(str, seeds))))
  folder = workdir / "_".join([_stem(source), *changed])
  return Plan(source, replace(sweep, members=members), tuple(overrides), tuple(runs), folder)


def measured_overrides(overrides: Sequence[str]) -> list[str]:
  """Returns the overrides that affect the measurement: all but the location of the data."""
  return [override for override in overrides if not override.startswith(f"--config.{_DATA_DIR}=")]


def _run(member: Member, seed: int, folder: Path, weights: Path | None) -> Run:
  begins = () if weights is None else (f"--config.{_WEIGHTS}={weights}",)
  arguments = (f"--config={member.config}", *member.overrides, *begins, f"--config.seed={seed}")
  try:
    command = command_line.parse(["sweep", *arguments])
    assert command is not None  # None is returned only for --help
    parsing.parse(command.config)
    name = _run_name(member.config, command_line.load_config(member.config), command.config)
  except UserError as error:
    raise UserError(f"member {member.name}: {error}") from None
  workdir = folder / name
  return Run(member.name, seed, workdir, (arguments[0], f"--workdir={workdir}", *arguments[1:]), weights)


def _run_name(source: str, base: ConfigDict, changed: ConfigDict) -> str:
  """Returns the name of a run's folder: its overridden values, for readers, and a digest of the config, for uniqueness.

  Args:
    source: Source of the member's config.
    base: Config without overrides.
    changed: Config with overrides and seed.
  """
  content = changed.to_dict()
  content["pretrained"]["path"] = Path(content["pretrained"]["path"]).name
  before, after = dict(_leaves(base.to_dict())), dict(_leaves(content))
  words = [
    _word(key, value)
    for key, value in after.items()
    if before.get(key) != value and key not in ("seed", _DATA_DIR, _WEIGHTS)
  ]
  whole = json.dumps(content, sort_keys=True)
  digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
  return "_".join([_stem(source), *words, f"seed={after['seed']}", digest])


def _stem(source: str) -> str:
  path, _, variant = source.partition(":")
  return "_".join([Path(path).stem, *re.findall(r"\w+", variant)])


def _word(key: str, value: Any) -> str:
  """Returns a key such as "model.blocks" and its value as a part of a folder's name: "blocks=2"."""
  plain = re.sub(r"[^\w.+-]+", "-", str(value)).strip("-")
  return f"{key.rpartition('.')[2]}={plain[:_VALUE_LENGTH]}"


def _leaves(section: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
  for key, value in section.items():
    if isinstance(value, dict):
      yield from _leaves(value, f"{path}{key}.")
    else:
      yield f"{path}{key}", value
