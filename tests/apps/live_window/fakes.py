"""Fakes of a trained network, a detector and a camera: brightness is the class, and tests give the faces."""

import time

import cv2
import numpy as np

from fer_jax.faces.detection import Box
from fer_jax.faces.video import Frame
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.trained_model import softmax

NAMES = ("happy", "sad", "neutral")


class BrightnessModel:
  """Fake TrainedModel: the brighter a face, the more probable is "happy"."""

  class_names = NAMES
  shape = (8, 8, 1)
  margin = 0.0
  caution = ""

  def __init__(self, config="bright"):
    self.origin = {"config": config, "accuracy": 0.75, "dataset": "lamps"}
    self.batch_sizes: list[int] = []

  def logits(self, faces):
    assert faces.dtype == np.uint8 and faces.shape[1:] == self.shape
    self.batch_sizes.append(len(faces))
    light = faces.mean((1, 2, 3), dtype=np.float32)[:, None] / 32 - 4
    return np.concatenate([light, -light, np.zeros_like(light)], 1)

  def probability(self, faces, batch_size=64, views="single"):
    return softmax(self.logits(faces))


def fake_predictor(*boxes, model=None):
  """Returns a predictor that finds the same faces in every image."""
  return Predictor(model or BrightnessModel(), lambda image: [Box(*map(float, box), 1.0) for box in boxes])


def uniform_image(value, height=40, width=60):
  """Returns an image of uniform brightness."""
  return np.full((height, width, 3), value, np.uint8)


def write_video(path, images):
  """Writes RGB images of one size as a video of 30 frames per second."""
  height, width, _ = images[0].shape
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30.0, (width, height))
  for image in images:
    writer.write(image[..., ::-1])
  writer.release()
  return path


class FakeCamera:
  """Fake camera that yields `images` and then ends, or repeats them if `endless`."""

  def __init__(self, images, endless=False):
    self.images, self.endless, self.opened, self.released = images, endless, [], 0

  def __call__(self, source):
    self.opened.append(source)
    return self

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.released += 1

  def __iter__(self):
    number = 0
    while number < len(self.images) or self.endless:
      yield Frame(number, number / 100, self.images[number % len(self.images)])
      number += 1
      time.sleep(0.005)
