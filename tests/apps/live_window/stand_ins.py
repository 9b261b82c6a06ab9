"""A network and a detector that need no training: what is bright is happy, and a face is where the test says."""

import numpy as np

from fer_jax.faces.detection import Box
from fer_jax.predictor import Predictor

NAMES = ("happy", "sad", "neutral")


class Brightness:
  """Stands for a Classifier: the brighter a face, the happier."""

  class_names = NAMES
  shape = (8, 8, 1)
  margin = 0.0

  def __init__(self, config="bright"):
    self.origin = {"config": config, "accuracy": 0.75, "dataset": "lamps"}
    self.asked: list[int] = []

  def logits(self, faces):
    assert faces.dtype == np.uint8 and faces.shape[1:] == self.shape
    self.asked.append(len(faces))
    light = faces.mean((1, 2, 3), dtype=np.float32)[:, None] / 32 - 4
    return np.concatenate([light, -light, np.zeros_like(light)], 1)


def predictor_of(*boxes, classifier=None):
  """A predictor that finds the same faces in every picture."""
  return Predictor(classifier or Brightness(), lambda image: [Box(*map(float, box), 1.0) for box in boxes])


def lit(value, height=40, width=60):
  """A picture that is as bright all over."""
  return np.full((height, width, 3), value, np.uint8)
