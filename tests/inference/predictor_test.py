"""A finished run, asked about pictures: its files read back, the pixels of training, any number of faces at a time."""

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
from fer_jax.faces.detection import Box, HaarDetector
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


def test_a_run_answers_as_it_did_on_its_test_split(finished_run, model):
  arrays = tiny_run.tiny_arrays()
  rows = arrays.rows("test")
  with np.load(finished_run / "predictions.npz") as file:
    expected = file["probability"]
  found = softmax(model.logits(np.asarray(arrays.image[rows])))
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert model.class_names == ("a", "b", "c")
  assert model.shape == (16, 16, 1)
  assert model.origin["config"] == "a config"


def test_an_image_of_training_gives_the_same_logits_through_predict(finished_run, model):
  arrays = tiny_run.tiny_arrays()
  images = [np.asarray(image)[..., 0] for image in arrays.image[:9]]
  found = predictor.load(finished_run, face="whole").predict(images)
  np.testing.assert_array_equal(found.probability, model.probability(np.asarray(arrays.image[:9])))
  np.testing.assert_array_equal(found.image_index, np.arange(9))
  np.testing.assert_array_equal(found.box[0], (0, 0, 16, 16))
  assert found.label == [("a", "b", "c")[k] for k in found.probability.argmax(axis=1)]
  np.testing.assert_allclose(found.probability.sum(axis=1), 1, atol=1e-6)


def test_grey_pictures_in_three_channels_are_the_same_pictures(model):
  image = np.asarray(tiny_run.tiny_arrays().image[0])[..., 0]
  whole = Predictor(model, None)
  grey, colour = whole.predict([image]), whole.predict([np.stack([image] * 3, axis=-1)])
  np.testing.assert_array_equal(grey.probability, colour.probability)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 64])
def test_the_batch_size_does_not_matter(model, batch_size):
  faces = np.asarray(tiny_run.tiny_arrays().image[:11])
  np.testing.assert_allclose(model.logits(faces, batch_size), model.logits(faces), atol=1e-5)
  assert model.logits(faces[:0], batch_size).shape == (0, 3)


def test_a_face_is_cut_around_its_box_with_the_margin_of_training(model):
  image = np.random.default_rng(0).integers(0, 256, (60, 90), dtype=np.uint8)
  face = np.asarray(tiny_run.tiny_arrays().image[0])[..., 0]
  image[20:36, 50:66] = face
  exact = Predictor(model, lambda image: [Box(50, 20, 16, 16, 3.0)])
  assert model.crop == "face"
  np.testing.assert_array_equal(exact.cut(image, exact.find(image)[0])[..., 0], face)
  wider = Predictor(dataclasses.replace(model, crop="detector"), lambda image: [Box(52, 22, 13, 13, 3.0)])
  np.testing.assert_array_equal(wider.cut(image, wider.find(image)[0])[..., 0], face)  # 13 * 1.2 is 16 pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_a_photograph_is_cut_as_training_cut_it(model, channels):
  photograph = in_channels(render_image(0, 3, "happy", 0, 300, yaw=0.0), channels)
  detector = HaarDetector(smallest_face=SMALLEST_FACE)
  expected = Framing(48, {"": (0.5, 0.5, 0.1)}, detector)
  classifier = dataclasses.replace(model, crop="detector", shape=(48, 48, channels))
  asked = Predictor(classifier, detector)
  found = asked.cut(photograph, asked.find(photograph)[0])
  np.testing.assert_array_equal(found, expected(photograph, "", "").reshape(48, 48, channels))
  assert not expected.notes()  # a face was found


def test_pictures_with_no_face_and_with_several(model):
  boxes = {10: [], 20: [Box(0, 0, 9, 9, 2.0), Box(8, 8, 5, 5, 1.0)], 30: [Box(1, 2, 20, 20, 4.0)]}
  found = Predictor(model, lambda image: boxes[len(image)]).predict(
    [np.zeros((side, 40), np.uint8) for side in (10, 20, 30)]
  )
  assert len(found) == 3
  np.testing.assert_array_equal(found.image_index, (1, 1, 2))
  np.testing.assert_array_equal(found.score, (2, 1, 4))
  np.testing.assert_array_equal(found.box[2], (1, 2, 20, 20))
  nothing = Predictor(model, lambda image: []).predict([np.zeros((9, 9), np.uint8)])
  assert (nothing.probability.shape, nothing.box.shape, nothing.label) == ((0, 3), (0, 4), [])


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)])
def test_what_is_no_picture_is_refused(model, image):
  with pytest.raises(ValueError, match="expected uint8"):
    Predictor(model, None).predict([image])


@pytest.mark.parametrize("images", [np.zeros((9, 8), np.uint8), np.zeros((9, 8, 3), np.uint8)])
def test_one_picture_is_not_taken_for_several(model, images):
  with pytest.raises(ValueError, match="expected a sequence"):
    Predictor(model, None).predict(images)
  assert len(Predictor(model, None).predict(np.zeros((2, *images.shape), np.uint8))) == 2


def test_pictures_may_be_files(model, tmp_path):
  image = np.asarray(tiny_run.tiny_arrays().image[0])[..., 0]
  cv2.imwrite(str(tmp_path / "face.png"), image)
  predictor = Predictor(model, None)
  read = predictor.predict([tmp_path / "face.png", str(tmp_path / "face.png")])
  np.testing.assert_allclose(read.probability, predictor.predict([image, image]).probability, atol=1e-6)
  with pytest.raises(UserError, match=r"none\.jpg: does not exist"):
    predictor.predict([tmp_path / "none.jpg"])
  with pytest.raises(ValueError, match="'party.jpg': expected a sequence"):
    predictor.predict("party.jpg")


def test_mirror_images_are_averaged(model):
  faces = np.asarray(tiny_run.tiny_arrays().image[:5])
  single, flip = (Predictor(model, None, views).probability(faces) for views in ("single", "flip"))
  mirrored = Predictor(model, None).probability(faces[:, :, ::-1])
  np.testing.assert_allclose(flip, (single + mirrored) / 2, atol=1e-6)
  assert np.abs(flip - single).max() > 1e-3
  with pytest.raises(ValueError, match="views='both': expected one of single, flip"):
    Predictor(model, None, "both")


def test_probabilities_are_scaled_by_the_temperature(model):
  faces = np.asarray(tiny_run.tiny_arrays().image[:5])
  warm = dataclasses.replace(model, temperature=2.0)
  np.testing.assert_allclose(warm.probability(faces), softmax(model.logits(faces) / 2), atol=1e-6)


def test_a_network_of_drawn_faces_says_so(finished_run, model, monkeypatch):
  drawn = dataclasses.replace(model, origin={**model.origin, "dataset": "synthetic_faces"})
  assert drawn.caution == "this network was trained on drawn faces (synthetic_faces): it does not recognise real ones"
  assert dataclasses.replace(model, origin={**model.origin, "dataset": "fer2013"}).caution == ""
  monkeypatch.setattr(trained_model, "load", lambda path: drawn)
  with pytest.warns(UserWarning, match="trained on drawn faces"):
    fer_jax.load(finished_run)


def test_faces_of_another_size_are_refused(model):
  with pytest.raises(ValueError, match=r"uint8 \[N, 16, 16, 1\]"):
    model.logits(np.zeros((2, 16, 17, 1), np.uint8))


def test_softmax_is_that_of_jax_and_survives_large_logits():
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
def test_the_package_loads_a_run_by_name(finished_run, model):
  found = fer_jax.load(str(finished_run), face="whole")
  assert isinstance(found.classifier, TrainedModel)
  with pytest.raises(ValueError, match="expected one of auto, detector, whole"):
    fer_jax.load(str(finished_run), face="hole")


def test_photographs_that_training_did_not_cut_are_taken_whole(finished_run, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(finished_run, folder)
  result = json.loads((folder / "result.json").read_text())
  result["input"]["crop"] = "none"
  (folder / "result.json").write_text(json.dumps(result))
  assert predictor.load(folder).detector is None
  assert predictor.load(folder, face="detector").detector is not None


class TestRefusals:
  def test_a_run_of_several_trainings_names_the_best(self, replicas):
    with pytest.raises(UserError, match=r"is a run of 2 replicas; choose .*/replicas/seed_\d has the highest"):
      trained_model.load(replicas)
    for folder in (replicas / "replicas").glob("seed_*"):
      assert trained_model.load(folder).shape == (16, 16, 1)

  def test_a_folder_that_is_no_run(self, tmp_path):
    with pytest.raises(UserError, match="no run has finished there"):
      trained_model.load(tmp_path)

  @pytest.mark.parametrize("change", [{"input": None}, {"input": {"shape": [16, 16, 1], "crop": "oval"}}])
  def test_a_run_that_does_not_say_how_its_pictures_were_cut(self, finished_run, tmp_path, change):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    result = json.loads((folder / "result.json").read_text()) | change
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match="does not record how its images were cropped.*train again"):
      trained_model.load(folder)

  def test_a_damaged_config(self, finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    for text, message in (("{", "config.json: cannot be read"), ("{}", "not the config.json of a run")):
      (folder / "config.json").write_text(text)
      with pytest.raises(UserError, match=message):
        trained_model.load(folder)

  def test_nothing_is_written_to_a_run_that_is_read(self, finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    step = json.loads((folder / "result.json").read_text())["validation"]["step"]
    metrics = folder / "checkpoints" / str(step) / "metrics" / "metrics"
    metrics.write_text("damaged")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    trained_model.load(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
