"""The command line of `launch/sweep.py`."""

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from fer_jax.apps.sweeps.executors import Executor, Local
from fer_jax.apps.sweeps.k8s import Kubernetes
from fer_jax.apps.sweeps.launcher import Launcher
from fer_jax.apps.sweeps.plan import SweepPlan, plan_sweep
from fer_jax.apps.sweeps.queues import Queue
from fer_jax.apps.sweeps.slurm import Slurm
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import local_path, write_text

BACKENDS = ("local", "slurm", "k8s")
SCRIPT = "launch/local.sh"
# Flags that only some backends accept -> these backends.
_FLAGS = {"processes": "local", "devices": "local", "sbatch": "slurm", "k8s": "k8s", "no_wait": "slurm k8s"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command line and returns the exit status.

  Raises:
    UserError: An argument is wrong, or the sweep cannot be planned or started.
  """
  # The overrides --config.KEY=VALUE are not defined in the parser; any other undefined argument is an error.
  given, others = _parser().parse_known_args(arguments)
  for other in others:
    if not re.match(r"--?config\.[^=]+=", other):
      raise UserError(f"{other!r}: unexpected argument; overrides are written --config.KEY=VALUE (usage: --help)")
  _check(given)
  overrides = [re.sub("^--?", "--", other) for other in others]
  plan = plan_sweep(given.sweep, given.workdir, overrides, _seeds(given.seeds, overrides))
  executor = _executor(given, plan)
  if given.dry_run:
    _show(plan, executor)
    return 0
  status = Launcher(plan, executor, wait=not given.no_wait).run()
  if given.name and status < 128:  # from 128 on the sweep was stopped by a signal
    write_text(given.results / f"{given.name}.json", (plan.folder / "sweep.json").read_text(encoding="utf-8"))
  print(f"page: {plan.folder / 'index.html'}")
  return status


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python launch/sweep.py",
    description="Train the candidates of a sweep and gather the results in a table and a page. Finished runs are "
    "skipped, interrupted runs are resumed, and a failed run does not stop the others.",
    epilog="--config.KEY=VALUE overrides a key of every candidate's config. "
    "Exit status: 0 done, 1 a run failed, 2 wrong use, 128 + signal number when stopped by a signal.",
    allow_abbrev=False,
    argument_default="",
  )
  parser.add_argument("sweep", help="FILE.py or FILE.py:VARIANT, for example configs/sweeps/hsic_blocks.py:small")
  parser.add_argument(
    "--workdir",
    type=local_path,
    default="workdir/sweeps",
    help="folder of all sweeps and runs (default: %(default)s)",
  )
  parser.add_argument("--seeds", help="seeds of every candidate, such as 0,1,2 (default: those of the sweep)")
  parser.add_argument(
    "--backend",
    default="local",
    help="local: one run after another on this machine; slurm: one job for each run; k8s: one JobSet for each run "
    "(default: %(default)s)",
  )
  parser.add_argument("--processes", help=f"number of processes of a run, started by {SCRIPT} (default: 1)")
  parser.add_argument(
    "--devices", help=f"number of devices of a process, set by {SCRIPT} (default: all, or 1 with --processes)"
  )
  parser.add_argument(
    "--sbatch",
    help='flags of sbatch: --sbatch="--nodes=1 --gpus-per-node=1 --time=2:00:00"; flags of launch/slurm.sbatch follow '
    "after --",
  )
  parser.add_argument("--k8s", help='flags of launch/k8s/train.sh: --k8s="--image=IMAGE --claim=CLAIM --gpus=1"')
  parser.add_argument("--no_wait", action="store_true", help="submit the jobs and exit; run the same command to gather")
  parser.add_argument("--dry_run", action="store_true", help="print the states and the commands of the runs and exit")
  parser.add_argument("--name", help="also write the gathered results to results/NAME.json")
  parser.add_argument("--results", type=local_path, default="results", help="folder for --name (default: %(default)s)")
  return parser


def _check(given: argparse.Namespace) -> None:
  if given.backend not in BACKENDS:
    raise UserError(f"--backend={given.backend}: expected one of {', '.join(BACKENDS)}")
  for flag, backends in _FLAGS.items():
    if getattr(given, flag) and given.backend not in backends.split():
      known = " or ".join(f"--backend={backend}" for backend in backends.split())
      raise UserError(f"--{flag}: expected only with {known}, not with --backend={given.backend}; leave it out")
  for flag in ("processes", "devices"):
    if not re.fullmatch(r"([1-9]\d*)?", getattr(given, flag)):
      raise UserError(f"--{flag}={getattr(given, flag)}: expected a whole number from 1 on, such as 2")
  if given.name and not _NAME.fullmatch(given.name):
    raise UserError(f"--name={given.name}: expected letters, digits, '_', '-' and '.'; choose another name")


def _executor(given: argparse.Namespace, plan: SweepPlan) -> Executor:
  jobs = given.workdir / "jobs"
  if given.backend == "slurm":
    return Queue(Slurm(_words("sbatch", given.sbatch), jobs), jobs, plan.distinct)
  if given.backend == "k8s":
    return Queue(Kubernetes(_words("k8s", given.k8s), given.workdir), jobs, plan.distinct)
  if not (given.processes or given.devices):
    return Local()
  if not Path(SCRIPT).is_file():
    raise UserError(f"{SCRIPT}: not found; run the sweep from the repository's root")
  return Local(["bash", SCRIPT, f"--processes={given.processes or 1}", f"--devices={given.devices or 1}", "--"])


def _show(plan: SweepPlan, executor: Executor) -> None:
  """Prints the status of each run, and the command of each run that is neither finished nor in a queue."""
  titles = {run.workdir: run.title for run in plan.runs}
  for run in plan.distinct:
    try:
      state = "" if run.finished else executor.adopt(run)
    except UserError as error:
      state = f"state unknown: {error}"
    after = f"; after {titles[run.init_from]}" if run.init_from is not None and not run.finished else ""
    print(f"# {run.title}: {run.status}{f', {state}' * bool(state)}{after}")
    if not (run.finished or state):
      print(shlex.join(executor.command(run)))


def _words(flag: str, text: str) -> list[str]:
  try:
    return shlex.split(text)
  except ValueError as error:
    raise UserError(f"--{flag}={text}: {error}; expected flags quoted as in a shell") from None


def _seeds(text: str, overrides: Sequence[str]) -> list[int]:
  if any(override.startswith("--config.seed=") for override in overrides):
    raise UserError("--config.seed: a sweep sets the seeds of its candidates; write --seeds=0,1,2 instead")
  if not re.fullmatch(r"(\d+(,\d+)*)?", text):
    raise UserError(f"--seeds={text}: expected whole numbers separated by commas, such as 0,1,2")
  seeds = [int(seed) for seed in text.split(",") if seed]
  if len(set(seeds)) != len(seeds):
    raise UserError(f"--seeds={text}: expected each seed once; remove the repeated ones")
  return seeds
