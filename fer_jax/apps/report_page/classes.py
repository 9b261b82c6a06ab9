"""The classes that are confused, and the worst mistakes."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fer_jax.apps.report_page.replicas import replica_name
from fer_jax.training.run_files import RunFiles
from fer_jax.training.run_result import RunResult


def most_confused(result: RunResult) -> list[tuple[str, str, int, int]]:
  """Returns the five most frequent confusions, the most frequent first; ties in the order of the classes.

  Returns:
    Names of the true and of the predicted class, number of images that are confused, number of images of the class.
  """
  found = [
    (true, predicted, images, sum(row))
    for true, row in zip(result.class_names, result.confusion_matrix, strict=True)
    for predicted, images in zip(result.class_names, row, strict=True)
    if true != predicted and images
  ]
  return sorted(found, key=lambda each: -each[2])[:5]


@dataclass(frozen=True)
class Explanation:
  """Heat maps of the M worst mistakes, painted over the images.

  Attributes:
    predicted: Images with the evidence for the predicted class, uint8 [M, H, W, 3].
    true: Images with the evidence for the true class, uint8 [M, H, W, 3].
    scale: Colour scale from no evidence to the most, uint8 [1, N, 3].
    reference: Citation of the method.
  """

  predicted: np.ndarray
  true: np.ndarray
  scale: np.ndarray
  reference: str


class Mistake(NamedTuple):
  """A test image, uint8 [H, W, C], that is classified wrongly, and where it is from.

  The probabilities are those of the predicted and of the true class.
  """

  image: np.ndarray
  true: str
  predicted: str
  probabilities: tuple[float, float]
  source: str


def mistakes(run: RunFiles) -> list[Mistake]:
  """Returns the most confident wrong answers on the test split, the most confident first."""
  predictions, result = run.predictions, run.result
  if predictions is None:
    return []
  found = []
  for row, image in zip(predictions.worst.tolist(), predictions.worst_image, strict=True):
    probability, true = predictions.probability[row], int(predictions.label[row])
    predicted = int(probability.argmax())
    # A run that was interrupted just before its end has predictions, but no names of classes.
    names = [result.class_names[label] if result else f"class {label}" for label in (true, predicted)]
    source = f"row {int(predictions.index[row])}"
    if predictions.replica is not None and result is not None:
      source += f", {replica_name(result.runs[predictions.replica[row]].name or '')}"
    probabilities = (float(probability[predicted]), float(probability[true]))
    found.append(Mistake(image, names[0], names[1], probabilities, source))
  return found
