"""Loads the best parameters of a finished run from its folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.runtime.errors import UserError
from fer_jax.training.checkpoint import read_variables

RESULT = "result.json"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the parameters and batch statistics of the step with the best validation accuracy.

  Args:
    folder: Workdir of the run.

  Returns:
    Tuple (params, stats), each {layer name: nested dict of NumPy arrays}.

  Raises:
    UserError: No run has finished in the folder, the run has several replicas, or its checkpoint cannot be read.
  """
  result_file = folder / RESULT
  if not result_file.is_file():
    raise UserError(f"{folder}: has no {RESULT}, so no run has finished there; expected the folder of a finished run")
  try:
    # A run of several replicas has no single best step (None); each replica has its own folder.
    result = json.loads(result_file.read_text(encoding="utf-8"))
    best_step, last_step = result["validation"]["step"], int(result["steps"])
    message = _replicas_message(folder, result["runs"]) if best_step is None else ""
    # -1 without a validation split: the last step is used.
    step = last_step if best_step is None or int(best_step) < 0 else int(best_step)
  except (OSError, ValueError, KeyError, TypeError):
    raise UserError(f"{result_file}: not the {RESULT} of a run; expected the folder of a finished run") from None
  if message:
    raise UserError(message)
  checkpoints = folder / "checkpoints"
  if not (checkpoints / str(step)).is_dir():
    raise UserError(f"{checkpoints}: has no checkpoint of step {step}, which {RESULT} names; copy the whole folder")
  try:
    params, stats = read_variables(checkpoints, step)
  except Exception as error:  # orbax has no common base class for the errors of a damaged file
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    raise UserError(
      f"{checkpoints / str(step)}: cannot be read ({reason}); copy the folder again, or choose another run"
    ) from None
  # The checkpoint's statistics also hold the state of the objective; keep those of layers only.
  return params, {name: value for name, value in stats.items() if name in params}


def _replicas_message(folder: Path, runs: Sequence[Mapping[str, Any]]) -> str:
  best = max(runs, key=lambda run: run["validation_accuracy"])
  return (
    f"{folder}: is a run of {len(runs)} replicas; choose the folder of one: "
    f"{folder / 'replicas' / best['name']} has the highest validation accuracy"
  )
