"""Loads the best parameters of a finished run from its folder."""

from pathlib import Path
from typing import Any

from fer_jax.models.network import inference_parameters
from fer_jax.runtime.errors import UserError
from fer_jax.training.checkpoint import read_variables
from fer_jax.training.run_result import RunResult, read_result

RESULT = "result.json"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any], RunResult]:
  """Reads the parameters and batch statistics of the step with the best validation accuracy.

  Args:
    folder: Workdir of the run.

  Returns:
    Tuple (params, stats, result), where params and stats are {layer name: nested dict of NumPy arrays}.

  Raises:
    UserError: No run has finished in the folder, the run has several replicas, or its checkpoint cannot be read.
  """
  result_file = folder / RESULT
  if not result_file.is_file():
    raise UserError(f"{folder}: has no {RESULT}, so no run has finished there; expected the folder of a finished run")
  result = read_result(result_file)
  if result.validation.step is None:
    best = max(result.runs, key=lambda run: run.validation_accuracy or 0.0)
    raise UserError(
      f"{folder}: is a run of {len(result.runs)} replicas; choose the folder of one: "
      f"{folder / 'replicas' / str(best.name)} has the highest validation accuracy"
    )
  # -1 without a validation split: the last step is used.
  step = int(result.steps) if result.validation.step < 0 else result.validation.step
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
  # The checkpoint also holds what only the objective uses: parameters of local losses, and its state.
  return inference_parameters(params), {name: value for name, value in stats.items() if name in params}, result
