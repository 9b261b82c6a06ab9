"""Puts every fault into real runs, many times, and writes what was lost: `python -m tests.faults --times=20`.

The table of docs/reliability.md is made of the JSON: `python -m fer_jax.apps.tables`.
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
from tests.faults.registry import FAULTS
from tests.faults.world import World

_WAITING = 4  # trials that wait, to one that does not


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the trials; returns 1 where one of them did not end as it should."""
  parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
  parser.add_argument("--times", type=int, default=20, help="trials of each fault (default: %(default)s)")
  parser.add_argument("--fault", help="of this fault alone, by its name in the table or a part of it")
  parser.add_argument("--out", type=Path, help="also write the rows to this JSON file, results/faults.json say")
  parser.add_argument("--jobs", type=int, default=provenance.cores(), help="trials at a time (default: the cores)")
  options = parser.parse_args(arguments)
  for name in ("times", "jobs"):
    if getattr(options, name) < 1:
      raise UserError(f"--{name}={getattr(options, name)}: expected 1 or more")
  names = [name for name in FAULTS if not options.fault or options.fault in name]
  if not names:
    raise UserError(f"--fault={options.fault}: no such fault; expected one of {', '.join(FAULTS)}")
  jax.config.update("jax_platforms", "cpu")
  logging.set_verbosity(logging.FATAL)  # of orbax, which reads the parameters to be compared
  with (
    tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder,
    World(Path(folder)) as world,
  ):
    trials = Trials(world, options.jobs)
    rows = [trials.row(name, options.times) for name in names]
  if options.out:
    options.out.write_text(json.dumps(_content(rows, options.times), indent=2) + "\n", encoding="utf-8")
  return int(any(row["survived"] < row["injected"] for row in rows))


class Trials:
  """Faults that are put in and survived, or not.

  Args:
    world: where.
    jobs: trials at a time.
  """

  def __init__(self, world: World, jobs: int):
    self._world, self._jobs = world, jobs

  def row(self, name: str, times: int) -> dict[str, Any]:
    """Puts a fault in some times; returns its row of the table."""
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
    """Puts a fault in; returns what it found, None where the run does not survive, whatever is the matter."""
    try:
      found = FAULTS[name].put(self._world, random.Random(f"{name} {trial}"))
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
