"""Grad-CAM heat maps of a run's worst mistakes.

This is the only part of the report that loads a network; a page without explanations is written without JAX.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fer_jax.apps.report_page.classes import Explanation
from fer_jax.inference import trained_model
from fer_jax.inference.saliency import REFERENCE, Explainer, overlay
from fer_jax.runtime.errors import UserError
from fer_jax.training.run_files import Predictions, RunFiles


def explain(whole: RunFiles) -> Mapping[Path, Explanation]:
  """Computes heat maps of the worst mistakes of a run, each with the network that made the mistake.

  Args:
    whole: Run to explain; its finished replicas are explained as well, for their own pages.

  Returns:
    Explanations by workdir, of the run and of its finished replicas; those without mistakes are left out.

  Raises:
    UserError: No replica has finished, or the files of one are missing, damaged or from another run.
  """
  for run in (whole, *whole.finished):
    if run.result is not None and run.predictions is None:
      raise UserError(
        f"{run.workdir / 'predictions.npz'}: expected the worst mistakes, which --explain needs, but the file does not "
        "exist; copy the whole workdir again, or leave out --explain"
      )
  found: dict[Path, Explanation] = {}
  makers = _makers(whole)
  pooled: list[np.ndarray | None] = [None] * len(makers)  # by mistake of the whole run: [2, H, W, 3] once explained
  explainer: Explainer | None = None
  for replica in whole.finished or [whole]:
    loaded = trained_model.load(replica.workdir)
    # All replicas of a run have the same network, so it is compiled once.
    explainer = Explainer(loaded) if explainer is None else explainer.with_model(loaded)
    if replica.predictions is not None and len(replica.predictions.worst):
      every = np.arange(len(replica.predictions.worst))
      found[replica.workdir] = _explanation(*_painted(explainer, replica, replica.predictions, every))
    # The mistakes of the whole run that this replica made.
    own = np.array([row for row, maker in enumerate(makers) if maker == replica.name], np.int64)
    if whole.replicas and whole.predictions is not None and len(own):
      for row, *pair in zip(own, *_painted(explainer, replica, whole.predictions, own), strict=True):
        pooled[row] = np.stack(pair)
  if pooled:
    images = [pair for pair in pooled if pair is not None]
    if len(images) < len(pooled):
      missing = sorted({maker for maker, pair in zip(makers, pooled, strict=True) if pair is None})
      raise UserError(
        f"{whole.workdir / 'replicas'}: expected the folders of all replicas, but {', '.join(missing)} is missing or "
        "not finished; copy the whole workdir again, or leave out --explain"
      )
    # M arrays [2, H, W, 3] -> [2, M, H, W, 3]: predicted, true
    found[whole.workdir] = _explanation(*np.stack(images, axis=1))
  return found


def _makers(whole: RunFiles) -> Sequence[str]:
  """Returns the name of the replica that made each of the run's worst mistakes; empty for a run without replicas."""
  predictions, result = whole.predictions, whole.result
  if not whole.replicas or predictions is None or predictions.replica is None or result is None:
    return []
  return [result.runs[number].name or "" for number in predictions.replica[predictions.worst].tolist()]


def _explanation(predicted: np.ndarray, true: np.ndarray) -> Explanation:
  # The colour scale: a ramp [1, 64] over a grey image [1, 64, 1].
  grey, ramp = np.full((1, 64, 1), 128, np.uint8), np.linspace(0, 1, 64, dtype=np.float32)[None]
  return Explanation(predicted, true, scale=overlay(grey, ramp), reference=REFERENCE)


def _painted(
  explainer: Explainer, run: RunFiles, predictions: Predictions, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns R worst mistakes with heat maps of the predicted and of the true class, uint8 [R, H, W, 3] each."""
  faces, mistakes = predictions.worst_image[rows], predictions.worst[rows]
  classes = predictions.probability[mistakes].argmax(axis=-1), predictions.label[mistakes]
  try:
    predicted, true = (
      np.stack([overlay(*one) for one in zip(faces, explainer.explain(faces, asked), strict=True)]) for asked in classes
    )
  except ValueError as error:
    raise UserError(
      f"{run.workdir}: the checkpoint and predictions.npz are not from the same run ({error}); copy the whole "
      "workdir again"
    ) from None
  return predicted, true
