"""The network shipped with the package: size, predictions, and errors for a missing or damaged file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import fer_jax
from configs import fer2013
from fer_jax.apps import predict
from fer_jax.config.parsing import parse, parse_model
from fer_jax.data.builders.fer2013.raw import CLASS_NAMES
from fer_jax.inference import model_file, predictor, trained_model
from fer_jax.runtime.errors import UserError

GOLDEN = Path(__file__).parent.parent / "golden" / "shipped_logits.json"
LARGEST = 3_000_000  # bytes


def fixed_faces():
  """Returns smooth gradients and patterns, uint8 [4, 48, 48, 1], equal on every machine."""
  rows, columns = np.mgrid[0:48, 0:48]
  faces = [4 * rows + columns, 255 - 2 * rows - 3 * columns, (rows * columns) % 256, 128 + 100 * ((rows // 6) % 2)]
  return np.stack(faces).clip(0, 255).astype(np.uint8)[..., None]


@pytest.fixture(scope="module")
def shipped():
  return trained_model.load()


def test_is_small_and_has_the_classes_of_fer2013(shipped):
  assert model_file.DEFAULT.stat().st_size <= LARGEST
  assert shipped.class_names == CLASS_NAMES
  assert (shipped.shape, shipped.crop, shipped.caution) == ((48, 48, 1), "face", "")


def test_equals_the_network_of_the_config(shipped):
  assert parse_model(shipped.model_config) == parse(fer2013.get_config()).model


def test_records_its_origin(shipped):
  assert shipped.origin["dataset"] == "fer2013"
  assert {"config", "commit", "versions", "accuracy", "step", "bits"} <= set(shipped.origin)
  assert "/" not in json.dumps({key: value for key, value in shipped.origin.items() if key != "config"})


def test_logits_equal_the_stored_ones(shipped):
  np.testing.assert_allclose(shipped.logits(fixed_faces()), json.loads(GOLDEN.read_text()), atol=2e-3)


def test_recognises_a_person_in_a_photograph():
  data = pytest.importorskip("skimage.data")
  assert fer_jax.load().predict([data.astronaut()]).label == ["happy"]


def test_predict_uses_it_without_a_checkpoint(tmp_path):
  data = pytest.importorskip("skimage.data")
  cv2 = pytest.importorskip("cv2")
  cv2.imwrite(str(tmp_path / "astronaut.png"), cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR))
  assert predict.main([str(tmp_path / "astronaut.png"), f"--out={tmp_path / 'rows.csv'}", "--views=flip"]) == 0
  header, row = (tmp_path / "rows.csv").read_text().splitlines()
  assert dict(zip(header.split(","), row.split(","), strict=True))["label"] == "happy"


def test_rejects_a_missing_file(tmp_path, monkeypatch):
  monkeypatch.setattr(model_file, "DEFAULT", tmp_path / "fer2013.safetensors")
  with pytest.raises(UserError, match=r"fer2013\.safetensors: no such file.*install fer_jax again"):
    fer_jax.load()


def test_rejects_a_damaged_file(tmp_path, monkeypatch):
  copy = tmp_path / "fer2013.safetensors"
  shutil.copy(model_file.DEFAULT, copy)
  content = bytearray(copy.read_bytes())
  content[len(content) // 2] ^= 1
  copy.write_bytes(content)
  monkeypatch.setattr(model_file, "DEFAULT", copy)
  with pytest.raises(UserError, match="damaged.*install fer_jax again"):
    predictor.load_predictor()
