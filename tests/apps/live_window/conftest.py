"""Images and folders for the tests of the live window."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_jax.data.builders.synthetic_faces.images import render_image
from tests.apps.live_window.fakes import write_video


@pytest.fixture(scope="module")
def scenes():
  """Frames with a face that moves to the right and one that does not move, on a uniform background."""
  faces = [render_image(0, subject, "happy", 0, 120, yaw=0.0)[..., None] for subject in (3, 5)]
  images = []
  for number in range(12):
    image = np.full((240, 320, 3), (96, 124, 150), np.uint8)
    image[60:180, 20 + 4 * number : 140 + 4 * number] = faces[0]
    image[80:170, 190:280] = cv2.resize(faces[1], (90, 90))[..., None]
    images.append(image)
  return images


@pytest.fixture(scope="module")
def video(scenes, tmp_path_factory):
  """Path of a video of the scenes."""
  return write_video(tmp_path_factory.mktemp("video") / "talk.avi", scenes)


@pytest.fixture
def artefacts(tmp_path):
  """Folder of the screenshots."""
  folder = Path(os.environ.get("FER_JAX_TEST_ARTEFACTS", tmp_path))
  folder.mkdir(parents=True, exist_ok=True)
  return folder
