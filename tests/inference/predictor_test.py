"""Predictions of a finished run: loading, preprocessing as in training, batches, and rejected inputs."""

import dataclasses
import json
import shutil

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

import fer_jax
from fer_jax.data.builders.synthetic_faces.images import render_image
from fer_jax.data.images import in_channels
from fer_jax.faces.cascades import HaarDetector
from fer_jax.faces.detection import Box
from fer_jax.faces.framing import SMALLEST_FACE, Framing
from fer_jax.inference import predictor, trained_model
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.trained_model import TrainedModel, softmax
from fer_jax.runtime.errors import UserError
from tests import tiny_run


@pytest.fixture(scope="module")
def replicas(tmp_path_factory, tiny_data):
  folder = tmp_path_factory.mktemp("runs") / "replicas"
  tiny_run.run(folder, tiny_run.config(duration="4 steps", replicas=2))
  return folder


@pytest.fixture(scope="module")
def model(finished_run):
  return trained_model.load(finished_run)


def test_logits_equal_the_predictions_of_the_run(finished_run, model):
  arrays = tiny_run.tiny_arrays()
  rows = arrays.rows("test")
  with np.load(finished_run / "predictions.npz") as file:
    expected = file["probability"]
  found = softmax(model.logits(np.asarray(arrays.image[rows])))
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert model.class_names == ("a", "b", "c")
  assert model.shape == (16, 16, 1)
  assert model.origin["config"] == "a config"


def test_predict_equals_probability_for_training_images(finished_run, model):
  arrays = tiny_run.tiny_arrays()
  images = [np.asarray(image)[..., 0] for image in arrays.image[:9]]
  found = predictor.load_predictor(finished_run, detector="whole").predict(images)
  np.testing.assert_array_equal(found.probability, model.probability(np.asarray(arrays.image[:9])))
  np.testing.assert_array_equal(found.image_index, np.arange(9))
  np.testing.assert_array_equal(found.box[0], (0, 0, 16, 16))
  assert found.label == [("a", "b", "c")[k] for k in found.probability.argmax(axis=1)]
  np.testing.assert_allclose(found.probability.sum(axis=1), 1, atol=1e-6)


def test_grey_images_in_three_channels_give_the_same_result(model):
  image = np.asarray(tiny_run.tiny_arrays().image[0])[..., 0]
  whole = Predictor(model, None)
  grey, colour = whole.predict([image]), whole.predict([np.stack([image] * 3, axis=-1)])
  np.testing.assert_array_equal(grey.probability, colour.probability)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 64])
def test_result_is_independent_of_the_batch_size(model, batch_size):
  faces = np.asarray(tiny_run.tiny_arrays().image[:11])
  np.testing.assert_allclose(model.logits(faces, batch_size), model.logits(faces), atol=1e-5)
  assert model.logits(faces[:0], batch_size).shape == (0, 3)


def test_crops_faces_with_the_margin_of_training(model):
  image = np.random.default_rng(0).integers(0, 256, (60, 90), dtype=np.uint8)
  face = np.asarray(tiny_run.tiny_arrays().image[0])[..., 0]
  image[20:36, 50:66] = face
  exact = Predictor(model, lambda image: [Box(50, 20, 16, 16, 3.0)])
  assert model.crop == "face"
  np.testing.assert_array_equal(exact.cut(image, exact.find(image)[0])[..., 0], face)
  wider = Predictor(dataclasses.replace(model, crop="detector"), lambda image: [Box(52, 22, 13, 13, 3.0)])
  np.testing.assert_array_equal(wider.cut(image, wider.find(image)[0])[..., 0], face)  # 13 * 1.2 is 16 pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_photographs_as_in_training(model, channels):
  photograph = in_channels(render_image(0, 3, "happy", 0, 300, yaw=0.0), channels)
  detector = HaarDetector(smallest_face=SMALLEST_FACE)
  expected = Framing(48, {"": (0.5, 0.5, 0.1)}, detector)
  color_model = dataclasses.replace(model, crop="detector", shape=(48, 48, channels))
  model_predictor = Predictor(color_model, detector)
  found = model_predictor.cut(photograph, model_predictor.find(photograph)[0])
  np.testing.assert_array_equal(found, expected(photograph, "", "").reshape(48, 48, channels))
  assert expected.notes() == ("a face was found in each of 1 images",)


def test_images_with_no_face_and_with_several(model):
  boxes = {10: [], 20: [Box(0, 0, 9, 9, 2.0), Box(8, 8, 5, 5, 1.0)], 30: [Box(1, 2, 20, 20, 4.0)]}
  found = Predictor(model, lambda image: boxes[len(image)]).predict(
    [np.zeros((side, 40), np.uint8) for side in (10, 20, 30)]
  )
  assert len(found) == 3
  np.testing.assert_array_equal(found.image_index, (1, 1, 2))
  np.testing.assert_array_equal(found.score, (2, 1, 4))
  np.testing.assert_array_equal(found.box[2], (1, 2, 20, 20))
  empty = Predictor(model, lambda image: []).predict([np.zeros((9, 9), np.uint8)])
  assert (empty.probability.shape, empty.box.shape, empty.label) == ((0, 3), (0, 4), [])


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)])
def test_rejects_invalid_images(model, image):
  with pytest.raises(ValueError, match="expected uint8"):
    Predictor(model, None).predict([image])


@pytest.mark.parametrize("images", [np.zeros((9, 8), np.uint8), np.zeros((9, 8, 3), np.uint8)])
def test_rejects_a_single_image(model, images):
  with pytest.raises(ValueError, match="expected a sequence"):
    Predictor(model, None).predict(images)
  assert len(Predictor(model, None).predict(np.zeros((2, *images.shape), np.uint8))) == 2


def test_accepts_image_files(model, tmp_path):
  image = np.asarray(tiny_run.tiny_arrays().image[0])[..., 0]
  cv2.imwrite(str(tmp_path / "face.png"), image)
  predictor = Predictor(model, None)
  from_files = predictor.predict([tmp_path / "face.png", str(tmp_path / "face.png")])
  np.testing.assert_allclose(from_files.probability, predictor.predict([image, image]).probability, atol=1e-6)
  with pytest.raises(UserError, match=r"none\.jpg: does not exist"):
    predictor.predict([tmp_path / "none.jpg"])
  with pytest.raises(ValueError, match="'party.jpg': expected a sequence"):
    predictor.predict("party.jpg")


def test_flip_averages_mirror_images(model):
  faces = np.asarray(tiny_run.tiny_arrays().image[:5])
  single, flip = (Predictor(model, None, views).probability(faces) for views in ("single", "flip"))
  mirrored = Predictor(model, None).probability(faces[:, :, ::-1])
  np.testing.assert_allclose(flip, (single + mirrored) / 2, atol=1e-6)
  assert np.abs(flip - single).max() > 1e-3
  with pytest.raises(ValueError, match="views='both': expected one of single, flip"):
    Predictor(model, None, "both")


def test_probability_is_scaled_by_the_temperature(model):
  faces = np.asarray(tiny_run.tiny_arrays().image[:5])
  scaled_model = dataclasses.replace(model, temperature=2.0)
  np.testing.assert_allclose(scaled_model.probability(faces), softmax(model.logits(faces) / 2), atol=1e-6)


def test_warns_about_networks_trained_on_drawn_faces(finished_run, model, monkeypatch):
  drawn = dataclasses.replace(model, origin={**model.origin, "dataset": "synthetic_faces"})
  assert drawn.caution == "this network was trained on drawn faces (synthetic_faces): it does not recognise real ones"
  assert dataclasses.replace(model, origin={**model.origin, "dataset": "fer2013"}).caution == ""
  monkeypatch.setattr(trained_model, "load", lambda path: drawn)
  with pytest.warns(UserWarning, match="trained on drawn faces"):
    fer_jax.load(finished_run)


def test_rejects_faces_of_another_size(model):
  with pytest.raises(ValueError, match=r"uint8 \[N, 16, 16, 1\]"):
    model.logits(np.zeros((2, 16, 17, 1), np.uint8))


def test_softmax_equals_jax_and_is_stable():
  logits = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32) * 30
  np.testing.assert_allclose(
    softmax(logits),
    np.exp(jnp.asarray(logits) - jnp.max(logits, -1, keepdims=True))
    / np.sum(np.exp(logits - logits.max(-1, keepdims=True)), -1, keepdims=True),
    atol=1e-6,
  )
  np.testing.assert_array_equal(softmax(np.array([[1e4, 0.0]], np.float32)), [[1, 0]])
  assert softmax(np.zeros((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.filterwarnings("ignore:this network was trained on drawn faces")
def test_package_loads_a_run(finished_run, model):
  found = fer_jax.load(str(finished_run), detector="whole")
  assert isinstance(found.model, TrainedModel)
  with pytest.raises(ValueError, match="expected one of auto, yunet, mtcnn, cascade, whole"):
    fer_jax.load(str(finished_run), detector="hole")


def test_uncropped_photographs_are_used_whole(finished_run, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(finished_run, folder)
  result = json.loads((folder / "result.json").read_text())
  result["input"]["crop"] = "none"
  (folder / "result.json").write_text(json.dumps(result))
  assert predictor.load_predictor(folder).detector is None
  assert predictor.load_predictor(folder, detector="cascade").detector is not None


class TestRejectedFolders:
  def test_rejects_runs_of_several_replicas_and_names_the_best(self, replicas):
    with pytest.raises(UserError, match=r"is a run of 2 replicas; choose .*/replicas/seed_\d has the highest"):
      trained_model.load(replicas)
    for folder in (replicas / "replicas").glob("seed_*"):
      assert trained_model.load(folder).shape == (16, 16, 1)

  def test_rejects_folders_without_a_run(self, tmp_path):
    with pytest.raises(UserError, match="no run has finished there"):
      trained_model.load(tmp_path)

  @pytest.mark.parametrize("change", [{"input": None}, {"input": {"shape": [16, 16, 1], "crop": "oval"}}])
  def test_rejects_runs_without_a_recorded_crop(self, finished_run, tmp_path, change):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    result = json.loads((folder / "result.json").read_text()) | change
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match="does not record how its images were cropped.*train again"):
      trained_model.load(folder)

  def test_rejects_damaged_configs(self, finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    for text, message in (("{", "config.json: expected a JSON object"), ("{}", "not the config.json of a run")):
      (folder / "config.json").write_text(text)
      with pytest.raises(UserError, match=message):
        trained_model.load(folder)

  def test_loading_does_not_write_to_the_run(self, finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    step = json.loads((folder / "result.json").read_text())["validation"]["step"]
    metrics = folder / "checkpoints" / str(step) / "metrics" / "metrics"
    metrics.write_text("damaged")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    trained_model.load(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
