"""From a sweep's file to the runs that it takes."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fer_jax import command_line, config
from fer_jax.errors import UserError
from fer_jax.sweep import Member, Sweep

_DATA_DIR = "data.data_dir"  # where a machine keeps its data is no part of what is measured
_WEIGHTS = "pretrained.path"  # nor is the folder that holds a file or a run, which has a name of its own
_VALUE_LENGTH = 24  # of an overridden value within a folder's name


@dataclass(frozen=True)
class Run:
  """One training: a member with one seed.

  Attributes:
    member: its name.
    seed: of the training.
    workdir: named after the whole config, so that sweeps which share a run share its folder.
    arguments: for `python -m fer_jax.main`.
    after: the folder of the run that it takes its first weights from, which has to be finished before.
  """

  member: str
  seed: int
  workdir: Path
  arguments: tuple[str, ...]
  after: Path | None = None

  @property
  def title(self) -> str:
    """The run as a reader knows it."""
    return f"{self.member}, seed {self.seed}"

  @property
  def finished(self) -> bool:
    """Whether its result stands in its folder."""
    return (self.workdir / "result.json").is_file()

  @property
  def begun(self) -> bool:
    """Whether it has ever trained."""
    return (self.workdir / "config.json").is_file()

  @property
  def state(self) -> str:
    """One of "finished", "begun" and "not yet run"."""
    return "finished" if self.finished else "begun" if self.begun else "not yet run"


@dataclass(frozen=True)
class Plan:
  """A sweep with the runs that it takes.

  Attributes:
    source: FILE.py or FILE.py:VARIANT.
    sweep: its members have the overrides and the seeds of the command line, too.
    overrides: of all members, from the command line.
    runs: in order, one for each member and seed; those that agree in everything have one folder.
    folder: of what is gathered.
  """

  source: str
  sweep: Sweep
  overrides: tuple[str, ...]
  runs: tuple[Run, ...]
  folder: Path

  @property
  def distinct(self) -> list[Run]:
    """The runs to take: of those that share a folder, the first."""
    return list({run.workdir: run for run in reversed(self.runs)}.values())[::-1]

  def runs_of(self, member: Member) -> list[Run]:
    """The runs of one member, a seed each."""
    return [run for run in self.runs if run.member == member.name]


def load_sweep(source: str) -> Sweep:
  """Returns the sweep of FILE.py or FILE.py:VARIANT; raises UserError where there is none."""
  path = Path(source.partition(":")[0])
  if not path.is_file():
    known = sorted(other.as_posix() for other in Path("configs/sweeps").glob("*.py") if other.stem != "__init__")
    raise UserError(f"{source}: no file {path}; expected one of {', '.join(known)}, with :VARIANT or without")
  sweep = command_line.call_in_file(source, "get_sweep", source)
  if not isinstance(sweep, Sweep):
    raise UserError(f"{source}: get_sweep gave {type(sweep).__name__}; expected a fer_jax.sweep.Sweep")
  return sweep


def plan(source: str, workdir: Path, overrides: Sequence[str] = (), seeds: Sequence[int] = ()) -> Plan:
  """Plans a sweep's runs; reads and checks every member's config, and writes nothing.

  Args:
    source: of the sweep, FILE.py or FILE.py:VARIANT.
    workdir: of all sweeps.
    overrides: of every member's config.
    seeds: of every member, in place of its own.

  Raises:
    UserError: the sweep, its variant, a config or an override of one is not as expected.
  """
  sweep = load_sweep(source)
  members = tuple(
    replace(member, overrides=(*member.overrides, *overrides), seeds=tuple(seeds) or member.seeds)
    for member in sweep.members
  )
  runs: list[Run] = []
  for member in members:
    sources = {run.seed: run.workdir for run in runs if run.member == member.begins_with}
    runs += [_run(member, seed, workdir / "runs", sources.get(seed)) for seed in member.seeds]
  changed = [_word(*o.removeprefix("--config.").split("=", 1)) for o in measured_overrides(overrides)]
  if seeds:
    changed.append(_word("seeds", "+".join(map(str, seeds))))
  folder = workdir / "_".join([_stem(source), *changed])
  return Plan(source, replace(sweep, members=members), tuple(overrides), tuple(runs), folder)


def measured_overrides(overrides: Sequence[str]) -> list[str]:
  """Returns the overrides that say what is measured: all but the data's folder."""
  return [override for override in overrides if not override.startswith(f"--config.{_DATA_DIR}=")]


def _run(member: Member, seed: int, folder: Path, weights: Path | None) -> Run:
  begins = () if weights is None else (f"--config.{_WEIGHTS}={weights}",)
  arguments = (f"--config={member.config}", *member.overrides, *begins, f"--config.seed={seed}")
  try:
    command = command_line.parse(["sweep", *arguments])
    assert command is not None  # no argument asks for help
    config.parse(command.config)
    name = _run_name(member.config, command_line.load_config(member.config), command.config)
  except UserError as error:
    raise UserError(f"member {member.name}: {error}") from None
  workdir = folder / name
  return Run(member.name, seed, workdir, (arguments[0], f"--workdir={workdir}", *arguments[1:]), weights)


def _run_name(source: str, base: ConfigDict, changed: ConfigDict) -> str:
  """Names a config: what is overridden, to be read, and a digest of the whole, to be unique."""
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
  """Writes a key such as "model.blocks" and its value as a part of a folder's name."""
  plain = re.sub(r"[^\w.+-]+", "-", str(value)).strip("-")
  return f"{key.rpartition('.')[2]}={plain[:_VALUE_LENGTH]}"


def _leaves(section: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
  for key, value in section.items():
    if isinstance(value, dict):
      yield from _leaves(value, f"{path}{key}.")
    else:
      yield f"{path}{key}", value
