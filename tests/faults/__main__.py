"""Injects each fault into real runs repeatedly and records the lost steps: `python -m tests.faults --times=20`.

`python -m fer_jax.apps.tables` makes the table of docs/reliability.md from the JSON file.
"""

import argparse
import concurrent.futures
import json
import random
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from fer_jax.runtime import errors, provenance
from fer_jax.runtime.errors import UserError
from tests.faults.harness import Harness
from tests.faults.registry import FAULTS

_WAITING = 4  # number of concurrent trials per job if a fault mostly waits


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the trials; returns 1 if a run did not survive, else 0."""
  parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
  parser.add_argument("--times", type=int, default=20, help="trials of each fault (default: %(default)s)")
  parser.add_argument("--fault", help="only faults whose name contains this text")
  parser.add_argument("--out", type=Path, help="also write the rows to this JSON file, such as results/faults.json")
  parser.add_argument(
    "--jobs", type=int, default=provenance.cores(), help="concurrent trials (default: number of cores)"
  )
  options = parser.parse_args(arguments)
  for name in ("times", "jobs"):
    if getattr(options, name) < 1:
      raise UserError(f"--{name}={getattr(options, name)}: expected 1 or more")
  names = [name for name in FAULTS if not options.fault or options.fault in name]
  if not names:
    raise UserError(f"--fault={options.fault}: no such fault; expected one of {', '.join(FAULTS)}")
  jax.config.update("jax_platforms", "cpu")
  logging.set_verbosity(logging.FATAL)  # hides messages of orbax about the parameters that are compared
  with (
    tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder,
    Harness(Path(folder)) as harness,
  ):
    trials = Trials(harness, options.jobs)
    rows = [trials.row(name, options.times) for name in names]
  if options.out:
    options.out.write_text(json.dumps(_content(rows, options.times), indent=2) + "\n", encoding="utf-8")
  return int(any(row["survived"] < row["injected"] for row in rows))


class Trials:
  """Repeated injections of faults.

  Args:
    harness: Harness for the runs.
    jobs: Number of concurrent trials.
  """

  def __init__(self, harness: Harness, jobs: int):
    self._harness, self._jobs = harness, jobs

  def row(self, name: str, times: int) -> dict[str, Any]:
    """Injects a fault `times` times; returns its row of the table."""
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(self._jobs * (_WAITING if FAULTS[name].waits else 1)) as pool:
      found = list(pool.map(lambda trial: self._trial(name, trial), range(times)))
    survived = [each for each in found if each is not None]
    lost = [int(each["steps_lost"]) for each in survived]
    seconds = [float(each["seconds"]) for each in survived if "seconds" in each]
    row = {
      "name": name,
      "injected": times,
      "survived": len(survived),
      "steps_lost": _lost(lost),
      "bound": str(FAULTS[name].bound or "nothing"),
      "seconds_to_the_end": f"{max(seconds):.1f} at most" if seconds else "",
      "on": " or ".join(sorted({str(each["on"]) for each in survived if "on" in each})),
    }
    print("  ".join(f"{key} {value}" for key, value in row.items()), f"({time.monotonic() - start:.0f} s)", flush=True)
    return row

  def _trial(self, name: str, trial: int) -> dict[str, float | str] | None:
    """Injects a fault once; returns its measurements, or None if the run does not survive, for any reason."""
    try:
      found = FAULTS[name].inject(self._harness, random.Random(f"{name} {trial}"))
      assert float(found["steps_lost"]) <= FAULTS[name].bound, f"lost {found}, bound {FAULTS[name].bound}"
    except Exception:
      print(f"{name}, trial {trial}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
      return None
    return found


def _lost(steps: Sequence[int]) -> str:
  if not steps:
    return "not known"
  return f"{statistics.fmean(steps):.1f} ({max(steps)} at most)" if any(steps) else "nothing"


def _content(rows: Sequence[dict[str, Any]], times: int) -> dict[str, object]:
  return {
    "what": "fault",
    "device": provenance.device(jax.local_devices()[:1]),
    "versions": provenance.versions(),
    "commit": provenance.commit(),
    "rounds": times,
    "rows": list(rows),
  }


if __name__ == "__main__":
  errors.run(main)
