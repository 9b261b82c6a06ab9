"""Photographs loaded as face crops: by the detector, at the fixed square, and whole."""

import functools

import cv2
import numpy as np
import pytest

from fer_jax.data import arrays, builders, decoding
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.faces.cascades import HaarDetector
from fer_jax.faces.crop import crop_face, crop_square, resize
from fer_jax.runtime.errors import UserError

SCALE = 0.2


@pytest.fixture(scope="module")
def manual_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("manual")
  layouts.write_tree("kdef", folder / "KDEF", subjects=1, scale=SCALE)
  layouts.write_tree("ck_plus", folder / "CK+", subjects=1, scale=SCALE)
  return folder


@pytest.fixture
def load(tmp_path, manual_dir):
  """Function that prepares a dataset and loads it."""

  def load(name, **arguments):
    builders.prepare(name, str(tmp_path), str(manual_dir))
    return arrays.load(name, str(tmp_path), **arguments)

  return load


def portraits(manual_dir):
  """Returns the images of KDEF in RGB, in the order of their files."""
  paths = sorted((manual_dir / "KDEF").rglob("*.JPG"))
  return [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]


def test_detector_crops_photographs_to_128_pixels(load, manual_dir):
  loaded = load("kdef")
  assert loaded.image.shape == (70, 128, 128, 3)
  assert loaded.crop == "detector"
  detector = HaarDetector(smallest_face=0.3)
  faceless = 0
  for image, shown in zip(portraits(manual_dir), loaded.image, strict=True):
    boxes = detector(image)
    faceless += not boxes
    if boxes:
      np.testing.assert_array_equal(shown, crop_face(image, boxes[0], 128))
  assert faceless < 15
  assert any(f"no face was found in {faceless} of 70 images" in note for note in loaded.notes) == bool(faceless)
  assert set(loaded.subject) == {"F01"} and len(set(loaded.group.tolist())) == 14


def test_fixed_crop_is_the_same_square_of_every_image(load, manual_dir):
  loaded = load("kdef", crop="fixed", image_size=32)
  for image, shown in zip(portraits(manual_dir), loaded.image, strict=True):
    height, width = image.shape[:2]
    expected = crop_square(image, 0.5 * width, 0.56 * height, 0.75 * width, 32)
    np.testing.assert_array_equal(shown, expected)
  assert not any("no face" in note for note in loaded.notes)


def test_without_a_crop_the_whole_image_is_resized(load, manual_dir):
  loaded = load("kdef", crop="none", image_size=24)
  np.testing.assert_array_equal(loaded.image, [resize(image, 24, 24) for image in portraits(manual_dir)])
  assert loaded.crop == "none"


def test_each_dataset_of_a_mixture_has_its_own_fixed_square(load, manual_dir):
  loaded = load("kdef_ck_plus/whole", crop="fixed", image_size=32)
  assert loaded.image.shape == (76, 32, 32, 1)
  last = cv2.imread(str(manual_dir / "CK+/cohn-kanade-images/S005/007/S005_007_00000006.png"), cv2.IMREAD_GRAYSCALE)
  height, width = last.shape
  expected = crop_square(last, 0.5 * width, 0.5 * height, 0.7 * height, 32)
  np.testing.assert_array_equal(loaded.image[-1, ..., 0], expected)
  assert loaded.subject[-1] == "CK-S005"


def test_fixed_square_is_used_and_noted_where_no_face_is_detected(load, monkeypatch):
  monkeypatch.setattr(decoding, "HaarDetector", lambda smallest_face: lambda image: [])
  undetected = load("kdef/frontal", image_size=32)
  (note,) = (note for note in undetected.notes if "no face" in note)
  assert "in 14 of 14 images: fixed square used instead (AF01/AF01AFS.JPG, AF01/AF01ANS.JPG, " in note
  monkeypatch.setattr(decoding, "decode", None)
  again = load("kdef/frontal", image_size=32)
  assert again.notes == undetected.notes
  np.testing.assert_array_equal(again.image, undetected.image)
  monkeypatch.undo()
  np.testing.assert_array_equal(load("kdef/frontal", image_size=32, crop="fixed").image, undetected.image)


def test_crops_and_sizes_have_separate_caches(load, tmp_path):
  for arguments in ({}, {"image_size": 32}, {"image_size": 32, "crop": "fixed"}, {"image_size": 32, "crop": "none"}):
    load("kdef/frontal", **arguments)
  folder = builders.make_builder("kdef/frontal", str(tmp_path)).data_path / "arrays"
  assert sorted(path.name for path in folder.iterdir()) == [
    "128x128x3-detector",
    "32x32x3",
    "32x32x3-detector",
    "32x32x3-fixed",
  ]


def test_datasets_of_face_crops_are_not_cropped(tmp_path):
  layouts.write_tree("ck48", tmp_path / "manual", subjects=1)
  (tmp_path / "fer").mkdir()
  layouts.write_fer2013_csv(tmp_path / "fer" / "fer2013.csv", 7)
  builders.prepare("ck_plus", str(tmp_path), str(tmp_path / "manual"))
  builders.prepare("fer2013", str(tmp_path), str(tmp_path / "fer"))
  for name in ("ck_plus", "fer2013"):
    load = functools.partial(arrays.load, name, str(tmp_path))
    assert (load().image.shape[1:], load().crop) == ((48, 48, 1), "face")
    np.testing.assert_array_equal(load(crop="none").image, load().image)
    for crop in ("fixed", "detector"):
      with pytest.raises(
        UserError, match=f"crop='{crop}' requires photographs, and the images of {name} are face crops"
      ):
        load(crop=crop)
  with pytest.raises(UserError, match="crop='face' is unknown; expected auto, none, fixed, detector"):
    arrays.load("ck_plus", str(tmp_path), crop="face")


def test_error_for_an_unprepared_configuration_contains_the_command(tmp_path):
  with pytest.raises(UserError, match="prepare --dataset=ck_plus/neutral --manual_dir=DIR"):
    arrays.load("ck_plus/neutral", str(tmp_path))
