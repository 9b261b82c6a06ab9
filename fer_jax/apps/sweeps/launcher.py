"""Runs a sweep, a training at a time, and gathers what came out."""

import argparse
import json
import re
import shlex
import signal
import time
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fer_jax.apps.report_page.quantities import duration
from fer_jax.apps.report_page.run_files import Record, write_text
from fer_jax.apps.sweeps.executors import BACKENDS, Executor, Outcome
from fer_jax.apps.sweeps.gather import gather, read_trainings
from fer_jax.apps.sweeps.page import sweep_page
from fer_jax.apps.sweeps.plan import Plan, Run, plan
from fer_jax.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Launcher:
  """Runs what a plan lacks.

  Args:
    planned: the sweep.
    executor: of each run.
  """

  def __init__(self, planned: Plan, executor: Executor):
    self.plan = planned
    self._executor = executor
    self._outcomes: dict[Path, Outcome] = {}
    self._signum: int | None = None

  def run(self) -> int:
    """Runs what is not finished, in order, and gathers after each run; returns the exit status.

    A run that fails does not stop the others. A signal is passed on to the run that is on, which saves and ends.

    Returns:
      0, 1 where a run failed, or 128 + signal.
    """
    runs = self.plan.distinct
    with self._signals():
      for position, run in enumerate(runs, start=1):
        if self._signum is not None:
          break
        number = f"[{position}/{len(runs)}]"
        if run.finished:
          print(f"{number} {run.title}: finished before", flush=True)
          continue
        print(f"{number} {run.title}{', goes on' * run.begun}{self._left(runs[position - 1 :])}", flush=True)
        self._execute(run, number)
        if run is not runs[-1]:  # the page can be looked at while the others train
          self._gather()
    content = self._gather()
    if self._signum is not None:
      print(f"stopped by {signal.Signals(self._signum).name}; run the same command to go on")
      return 128 + self._signum
    return int(content["status"] != "finished")

  def keep(self, path: Path) -> None:
    """Writes what was gathered to another file, too."""
    write_text(path, (self.plan.folder / "sweep.json").read_text(encoding="utf-8"))

  def _execute(self, run: Run, number: str) -> None:
    start = time.monotonic()
    outcome = self._executor.run(run.arguments)
    spent = duration(time.monotonic() - start)
    if outcome.status == 0 and not run.finished:
      outcome = Outcome(1, "ended without a result.json")
    if outcome.status == 0:
      print(f"{number} {run.title}: finished in {spent}", flush=True)
    elif self._signum is not None:  # told to stop, it is no failure, however it took that
      print(f"{number} {run.title}: stopped after {spent}", flush=True)
    else:
      outcome = Outcome(outcome.status, outcome.error or f"exit status {outcome.status}")
      print(f"{number} {run.title}: failed after {spent}: {outcome.error}", flush=True)
      self._outcomes[run.workdir] = outcome

  def _gather(self) -> Record:
    trainings = read_trainings(self.plan, self._outcomes)
    content = gather(self.plan, trainings)
    write_text(self.plan.folder / "sweep.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    write_text(self.plan.folder / "index.html", sweep_page(content, trainings))
    return content

  def _left(self, waiting: Sequence[Run]) -> str:
    """Says how long what is left takes: as long as the member's other seeds took, or as the mean of all runs."""
    known: dict[str, list[float]] = {}
    for training in read_trainings(self.plan, {}):
      if training.result is not None and training.result.get("seconds"):
        known.setdefault(training.run.member, []).append(training.result["seconds"])
    everything = [seconds for of in known.values() for seconds in of]
    if not everything:
      return ""
    guesses = [known.get(run.member, everything) for run in waiting if not run.finished]
    return f" (about {duration(sum(sum(of) / len(of) for of in guesses))} left)"

  @contextmanager
  def _signals(self) -> Iterator[None]:
    """Passes SIGINT and SIGTERM on to the run while the context lasts."""
    before = {signum: signal.signal(signum, self._stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
      yield
    finally:
      for signum, handler in before.items():
        signal.signal(signum, handler)

  def _stop(self, signum: int, frame: types.FrameType | None) -> None:
    del frame
    self._signum = signum
    self._executor.stop(signum)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python launch/sweep.py",
    description="Train the members of a sweep, one after the other, and gather a table and a page. A finished run is "
    "not trained again, an interrupted one goes on.",
    epilog="--config.KEY=VALUE overrides a key of every member's config. "
    "Exit status: 0 done, 1 a run failed, 2 wrong use, 128 + signal when it was told to stop.",
    allow_abbrev=False,
  )
  parser.add_argument("sweep", help="FILE.py or FILE.py:VARIANT, for example configs/sweeps/hsic_blocks.py:small")
  parser.add_argument(
    "--workdir",
    type=Path,
    default=Path("workdir/sweeps"),
    help="of all sweeps, which share runs (default: %(default)s)",
  )
  parser.add_argument("--seeds", default="", help="of every member, such as 0,1,2 (default: what the sweep says)")
  parser.add_argument("--backend", default="local", help=f"where runs are executed: {', '.join(BACKENDS)}")
  parser.add_argument("--dry_run", action="store_true", help="print the runs' commands and end")
  parser.add_argument("--name", default="", help="keep what is gathered as results/NAME.json, too")
  parser.add_argument("--results", type=Path, default=Path("results"), help="folder for --name (default: %(default)s)")
  given, others = parser.parse_known_args(arguments)
  for other in others:
    if not re.match(r"--?config\.[^=]+=", other):
      raise UserError(
        f"{other!r}: unexpected argument; overrides are written --config.KEY=VALUE (--help shows the usage)"
      )
  if given.backend not in BACKENDS:
    raise UserError(f"--backend={given.backend}: expected one of {', '.join(BACKENDS)}")
  if given.name and not _NAME.fullmatch(given.name):
    raise UserError(f"--name={given.name}: expected letters, digits, '_', '-' and '.'; give another")
  overrides = [re.sub("^--?", "--", other) for other in others]
  planned = plan(given.sweep, given.workdir, overrides, _seeds(given.seeds, overrides))
  if given.dry_run:
    for run in planned.distinct:
      state = "finished" if run.finished else "begun" if run.begun else "not yet run"
      print(f"# {run.title}: {state}\n{shlex.join(['python', '-m', 'fer_jax.main', *run.arguments])}")
    return 0
  launcher = Launcher(planned, BACKENDS[given.backend]())
  status = launcher.run()
  if given.name and status < 128:
    launcher.keep(given.results / f"{given.name}.json")
  print(f"page: {planned.folder / 'index.html'}")
  return status


def _seeds(text: str, overrides: Sequence[str]) -> list[int]:
  if any(override.startswith("--config.seed=") for override in overrides):
    raise UserError("--config.seed: a sweep trains its members with several seeds; write --seeds=0,1,2 instead")
  if not re.fullmatch(r"(\d+(,\d+)*)?", text):
    raise UserError(f"--seeds={text}: expected whole numbers joined by commas, such as 0,1,2")
  seeds = [int(seed) for seed in text.split(",") if seed]
  if len(set(seeds)) != len(seeds):
    raise UserError(f"--seeds={text}: expected each seed once")
  return seeds
