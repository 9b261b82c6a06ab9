"""result.json and predictions.npz of a run against scikit-learn and against each other."""

import numpy as np
import pytest
import sklearn.metrics

from fer_jax.data.views import PROTOCOLS
from fer_jax.training.calibration import expected_calibration_error, scale
from fer_jax.training.metrics import METRICS
from fer_jax.training.run_result import read_result
from tests.tiny_run import ROWS, config, run, tiny_arrays

pytestmark = pytest.mark.usefixtures("tiny_data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """Result and predictions of a run that was tested with a flipped view."""
  folder = tmp_path_factory.mktemp("results") / "run"
  run(folder, config(duration="10 steps", views="flip"))
  with np.load(folder / "predictions.npz") as file:
    return read_result(folder / "result.json"), dict(file)


def test_metrics_equal_those_of_the_predictions(finished):
  result, predictions = finished
  label, predicted = predictions["label"], predictions["probability"].argmax(axis=1)
  assert result.metrics.keys() == METRICS.keys()
  assert result.accuracy == result.metrics["accuracy"] == sklearn.metrics.accuracy_score(label, predicted)
  expected = sklearn.metrics.f1_score(label, predicted, average="macro", zero_division=0)
  assert result.metrics["macro_f1"] == pytest.approx(expected)
  np.testing.assert_array_equal(result.confusion_matrix, sklearn.metrics.confusion_matrix(label, predicted))
  assert result.loss == pytest.approx(sklearn.metrics.log_loss(label, predictions["probability"]), rel=1e-4)


def test_views_are_averages_of_probabilities(finished):
  result, predictions = finished
  assert set(result.views) == {"single", "flip"}
  for protocol, view in result.views.items():
    for split, accuracy in (("test", view.test), ("validation", view.validation)):
      label = predictions["label" if split == "test" else "validation_label"]
      assert np.mean(predictions[f"{split}_{protocol}"].argmax(axis=1) == label) == accuracy
  np.testing.assert_array_equal(predictions["test_single"], predictions["probability"])
  assert np.abs(predictions["test_flip"] - predictions["test_single"]).max() > 1e-4


def test_calibration_equals_that_of_the_scaled_probabilities(finished):
  result, predictions = finished
  assert result.calibration is not None
  probability, label = predictions["probability"], predictions["label"]
  single = result.calibration.test["single"]
  assert single.error == pytest.approx(expected_calibration_error(probability, label), abs=1e-6)
  scaled = scale(probability, result.calibration.temperature)
  assert single.error_scaled == pytest.approx(expected_calibration_error(scaled, label), abs=1e-6)
  assert set(result.calibration.test) == {name for name, count in PROTOCOLS.items() if count <= 2}


def test_predictions_are_in_the_order_of_the_split(finished):
  _, predictions = finished
  arrays = tiny_arrays()
  np.testing.assert_array_equal(predictions["index"], arrays.rows("test"))
  np.testing.assert_array_equal(predictions["label"], arrays.label[arrays.rows("test")])
  assert len(predictions["validation_index"]) == ROWS["validation"]
  assert not predictions["seen"].any()


def test_the_worst_mistakes_are_shown_with_their_images(finished):
  _, predictions = finished
  worst = predictions["worst"]
  assert (predictions["probability"].argmax(axis=1) != predictions["label"])[worst].all()
  np.testing.assert_array_equal(predictions["worst_image"], tiny_arrays().image[predictions["index"][worst]])
  assert predictions["sample_image"].shape == (24, 16, 16, 1)


def test_the_result_describes_the_run(finished):
  result, _ = finished
  assert (result.dataset, result.config, result.steps) == ("synthetic_faces", "a config", 10)
  assert result.input.shape == (16, 16, 1)
  assert (result.clock, result.stopped, result.seeds, result.several) == ("wall", "finished", (0,), False)
  assert result.measured["seconds an epoch"] is None or result.measured["seconds an epoch"] > 0
