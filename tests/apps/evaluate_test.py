"""Evaluation of a trained network on other datasets, and the whole path of a user's own images."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from fer_jax.apps import evaluate, predict, prepare
from fer_jax.data import builders
from fer_jax.data.builders.synthetic_faces.images import render_image
from fer_jax.faces.detection import Box
from fer_jax.inference.predictor import Predictor, load_predictor
from fer_jax.inference.trained_model import softmax
from fer_jax.runtime.errors import UserError
from fer_jax.training import train
from tests import tiny_run
from tests.apps.html_page import Page

EXPRESSIONS = ("happy", "sad", "surprise")


class Brightness:
  """Fake of a trained network: bright images are happy, dark ones sad."""

  class_names = ("angry", "sad", "happy")
  shape = (8, 8, 1)
  margin, caution, crop = 0.0, "", "face"
  origin = SimpleNamespace(get=lambda key: "bright")

  def probability(self, faces, batch_size=64, views="single"):
    light = faces.mean((1, 2, 3), dtype=np.float32)[:, None] / 32 - 4
    return softmax(np.concatenate([np.full_like(light, -9), -light, light], axis=1))


def write_images(folder, classes):
  """Writes images of a grey value each: {class: values}."""
  for name, values in classes.items():
    (folder / name).mkdir(parents=True)
    for number, value in enumerate(values):
      cv2.imwrite(str(folder / name / f"{number}.png"), np.full((20, 20), value, np.uint8))


def prepared(tmp_path, classes, **options):
  write_images(tmp_path / "own", classes)
  builders.prepare("image_folder/own", str(tmp_path / "data"), str(tmp_path / "own"), **options)
  return str(tmp_path / "data")


def test_classes_are_matched_by_name_and_others_are_counted(tmp_path):
  data = prepared(tmp_path, {"Happiness": [200, 220, 90], "sad": [60, 70], "contempt": [50, 50]})
  found = evaluate.evaluate(Predictor(Brightness(), None), "image_folder/own", data)
  assert found.images == 5
  assert found.metrics["accuracy"] == pytest.approx(0.8)
  assert found.confusion_matrix == ((0, 0, 0), (0, 2, 0), (0, 1, 2))
  assert found.notes == ("2 images of contempt are left out: the network has no such class",)
  assert found.interval_95[0] < 0.8 < found.interval_95[1]
  assert (found.detector, found.without_face) == ("whole", None)


def test_photographs_are_cropped_to_the_largest_face(tmp_path):
  data = prepared(tmp_path, {"happy": [200, 200], "sad": [60, 61]}, framing="photograph")
  seen = []

  def detector(image):
    seen.append(image.shape)
    return [] if image[0, 0] == 61 else [Box(5, 5, 10, 10, 1.0), Box(0, 0, 2, 2, 1.0)]

  found = evaluate.evaluate(Predictor(Brightness(), detector), "image_folder/own", data)
  assert len(seen) == 4
  assert (found.images, found.without_face, found.metrics["accuracy"]) == (4, 1, 1.0)
  assert found.notes == ("no face was found in 1 of 4 photographs, which are evaluated whole",)


def test_errors(tmp_path):
  predictor = Predictor(Brightness(), None)
  with pytest.raises(
    UserError,
    match="own is not prepared in .*: run `python -m fer_jax.apps.prepare --dataset=image_folder/own --manual_dir",
  ):
    evaluate.evaluate(predictor, "image_folder/own", str(tmp_path))
  data = prepared(tmp_path, {"cats": [60], "dogs": [70]})
  with pytest.raises(UserError, match="knows none of the classes cats, dogs; expected some of angry, sad, happy"):
    evaluate.evaluate(predictor, "image_folder/own", data)
  with pytest.raises(UserError, match="--split=test: image_folder/own has no such split; expected one of train"):
    evaluate.evaluate(predictor, "image_folder/own", data, "test")


def test_own_images_from_the_folder_to_a_prediction(tmp_path, capsys):
  """Prepares drawn faces of eight people, trains on subject folds, evaluates and predicts."""
  for expression in EXPRESSIONS:
    (tmp_path / "own" / expression).mkdir(parents=True)
    for person in range(8):
      for shot in range(3):
        image = render_image(0, person, expression, shot, 48, yaw=0.0)
        cv2.imwrite(str(tmp_path / "own" / expression / f"p{person}_{shot}.png"), image)
  data = f"--data_dir={tmp_path / 'data'}"
  prepare.main(["--dataset=image_folder/own", f"--manual_dir={tmp_path / 'own'}", r"--subjects=^(p\d+)_", data])
  printed = capsys.readouterr().out
  assert "72 images of 3 classes and 8 subjects" in printed
  assert "Next: python -m fer_jax.main --config=configs/hsic.py:demo --config.data.name=image_folder/own" in printed
  assert "--config.folds.by=subjects --config.folds.count=4" in printed
  prepare.main(["--dataset=image_folder/own", f"--manual_dir={tmp_path}", data])
  assert f"warning: --manual_dir={tmp_path} was not read" in capsys.readouterr().out

  config = tiny_run.config(
    **{
      "data.name": "image_folder/own",
      "data.data_dir": str(tmp_path / "data"),
      "data.image_size": 24,
      "folds.by": "subjects",
      "folds.count": 4,
      "replicas": 2,
    }
  )
  result = train.train_and_evaluate(config, tmp_path / "run", "a config")
  assert [len(result.runs), result.folds.by, result.folds.count] == [2, "subjects", 4]
  assert result.class_names == EXPRESSIONS

  fold = tmp_path / "run" / "replicas" / "fold_0"
  evaluate.main([f"--checkpoint={fold}", "--dataset=image_folder/own", data, f"--out={tmp_path / 'evaluation'}"])
  lines = capsys.readouterr().out.splitlines()
  written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
  assert f"accuracy {100 * written['metrics']['accuracy']:.2f} %" in "\n".join(lines)
  assert np.sum(written["confusion_matrix"]) == 72
  page = Page(tmp_path / "evaluation" / "index.html")
  assert "image_folder/own" in page.text and "Confusion matrix" in page.text
  # The same images, classified one by one.
  images = [tmp_path / "own" / name / f"p{person}_0.png" for name in EXPRESSIONS for person in range(8)]
  found = load_predictor(fold, detector="whole").predict(images)
  predict.main([f"--checkpoint={fold}", "--detector=whole", f"--out={tmp_path / 'rows.jsonl'}", *map(str, images)])
  rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
  assert [row["label"] for row in rows] == found.label
