"""Pictures of where a network found its reasons for its worst mistakes.

The only part of the report that loads a network: a page without explanations is written without JAX.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fer_jax import classifier
from fer_jax.apps.report_page.classes import Explanation
from fer_jax.apps.report_page.run_files import Predictions, Run, mapping
from fer_jax.errors import UserError
from fer_jax.saliency import REFERENCE, Explainer, paint


def explain(whole: Run) -> Mapping[Path, Explanation]:
  """Explains the worst mistakes of a run, each by the training that made it.

  Args:
    whole: the run; of several trainings, those that have ended are explained too, each by itself.

  Returns:
    by workdir, as far as there are mistakes.

  Raises:
    UserError: no training has ended, or the files of one are gone, damaged or another run's.
  """
  for run in (whole, *whole.finished):
    if run.result is not None and run.predictions is None:
      raise UserError(
        f"{run.workdir / 'predictions.npz'}: expected the worst mistakes, which are to be explained, but it is not "
        "there; copy the whole folder again, or leave --explain out"
      )
  found: dict[Path, Explanation] = {}
  makers = _makers(whole)
  pooled: list[np.ndarray | None] = [None] * len(makers)
  explainer: Explainer | None = None
  for training in whole.finished or [whole]:
    loaded = classifier.load(training.workdir)
    # The trainings of a run have one network, which is compiled once.
    explainer = Explainer(loaded) if explainer is None else explainer.of(loaded)
    if training.predictions is not None and len(training.predictions.worst):
      every = np.arange(len(training.predictions.worst))
      found[training.workdir] = _explanation(*_painted(explainer, training, training.predictions, every))
    own = np.array([row for row, maker in enumerate(makers) if maker == training.name], np.int64)
    if whole.replicas and whole.predictions is not None and len(own):
      for row, *pair in zip(own, *_painted(explainer, training, whole.predictions, own), strict=True):
        pooled[row] = np.stack(pair)
  if pooled:
    pictures = [pair for pair in pooled if pair is not None]
    if len(pictures) < len(pooled):
      missing = sorted({maker for maker, pair in zip(makers, pooled, strict=True) if pair is None})
      raise UserError(
        f"{whole.workdir / 'replicas'}: expected the folders of all trainings, but {', '.join(missing)} is not a "
        "finished one; copy the whole folder, or leave --explain out"
      )
    found[whole.workdir] = _explanation(*np.stack(pictures, axis=1))
  return found


def _makers(whole: Run) -> Sequence[str]:
  """Returns the training that made each of the run's worst mistakes; none where it is one training itself."""
  of = whole.predictions
  if not whole.replicas or of is None or of.replica is None:
    return []
  names = [str(one.get("name", "")) for one in mapping(whole.result).get("runs") or []]
  return [names[number] for number in of.replica[of.worst].tolist()]


def _explanation(predicted: np.ndarray, true: np.ndarray) -> Explanation:
  grey, ramp = np.full((1, 64, 1), 128, np.uint8), np.linspace(0, 1, 64, dtype=np.float32)[None]
  return Explanation(predicted, true, scale=paint(grey, ramp), reference=REFERENCE)


def _painted(explainer: Explainer, training: Run, of: Predictions, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns those of the worst mistakes that `rows` names, painted for the predicted and for the true class."""
  faces, places = of.worst_image[rows], of.worst[rows]
  classes = of.probability[places].argmax(axis=-1), of.label[places]
  try:
    predicted, true = (
      np.stack([paint(*one) for one in zip(faces, explainer.explain(faces, asked), strict=True)]) for asked in classes
    )
  except ValueError as error:
    raise UserError(
      f"{training.workdir}: its checkpoint is not that of its predictions.npz ({error}); copy the whole folder again"
    ) from None
  return predicted, true
