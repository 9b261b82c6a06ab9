"""Predicting from the command line: every kind of input, every kind of trouble, the rows and the copies."""

import csv
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fer_jax.apps import predict
from fer_jax.apps.predictions import inputs
from fer_jax.apps.predictions.gallery import Gallery
from fer_jax.data.builders.synthetic_faces.images import render_image
from fer_jax.data.images import read
from fer_jax.inference import predictor
from fer_jax.inference.predictor import Predictor
from fer_jax.runtime.errors import UserError
from tests import tiny_run

SHARED = ("file", "frame", "time", "face", "track", "x", "y", "width", "height", "score", "label")
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def model(finished_run):
  return predictor.load(finished_run)


def scene(people=1, size=240):
  """A photograph of drawn people side by side."""
  return np.concatenate([render_image(0, n, "happy", 0, size, yaw=0.0) for n in range(max(1, people))], axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two faces, none, a clip of one, something that is no found, a damaged found, and a stranger."""
  folder = tmp_path_factory.mktemp("images")
  (folder / "below").mkdir()
  cv2.imwrite(str(folder / "two.png"), scene(2))
  cv2.imwrite(str(folder / "below" / "one.jpg"), cv2.cvtColor(scene(), cv2.COLOR_GRAY2BGR))
  cv2.imwrite(str(folder / "wall.png"), np.full((200, 300), 128, np.uint8))
  (folder / "torn.jpg").write_bytes((folder / "below" / "one.jpg").read_bytes()[:900])
  (folder / "notes.txt").write_text("not a found")
  clip = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (240, 240))
  for _ in range(5):
    clip.write(cv2.cvtColor(scene(), cv2.COLOR_GRAY2BGR))
  clip.release()
  return folder


def run(finished_run, out, *arguments):
  status = predict.main([f"--checkpoint={finished_run}", f"--out={out}", *map(str, arguments)])
  if out.suffix == ".jsonl":
    return status, [json.loads(line) for line in out.read_text().splitlines()]
  with out.open(newline="") as file:
    return status, list(csv.DictReader(file))


def of(rows, name):
  return [row for row in rows if row["file"].endswith(name)]


@pytest.fixture(scope="module")
def predicted(finished_run, folder, tmp_path_factory):
  return run(finished_run, tmp_path_factory.mktemp("out") / "out.csv", folder)


def test_a_folder_becomes_rows(predicted, folder):
  status, rows = predicted
  assert status == 1  # one file is damaged
  assert tuple(rows[0]) == (*SHARED, *(f"p_{name}" for name in CLASSES), "status")
  files = [row["file"] for row in rows]
  assert files == sorted(files)
  assert len(of(rows, "two.png")) == 2
  assert [row["face"] for row in of(rows, "two.png")] == ["0", "1"]
  (one,) = of(rows, "below/one.jpg")
  assert (one["status"], one["frame"], one["time"], one["track"]) == ("ok", "", "", "")
  assert one["label"] in CLASSES
  assert sum(float(one[f"p_{name}"]) for name in CLASSES) == pytest.approx(1, abs=1e-5)
  assert 60 < float(one["width"]) < 240
  assert not of(rows, "notes.txt")


def test_a_picture_without_a_face_says_so(predicted):
  (wall,) = of(predicted[1], "wall.png")
  assert wall["status"] == "no face"
  assert all(value == "" for key, value in wall.items() if key not in ("file", "status"))


def test_a_damaged_picture_says_why(predicted):
  (torn,) = of(predicted[1], "torn.jpg")
  assert torn["status"] == "error: not a readable image: damaged or truncated"
  assert torn["label"] == torn["face"] == ""


def test_a_video_is_followed(predicted):
  rows = of(predicted[1], "clip.avi")
  assert [row["frame"] for row in rows] == list("01234")
  assert [row["time"] for row in rows] == ["0.000", "0.100", "0.200", "0.300", "0.400"]
  assert {row["track"] for row in rows} == {"0"}


def test_rows_are_what_the_predictor_says(predicted, folder, model):
  found = model.predict([read(folder / "two.png")])
  for row, box, probability in zip(of(predicted[1], "two.png"), found.box, found.probability, strict=True):
    np.testing.assert_allclose([float(row[k]) for k in ("x", "y", "width", "height")], box, atol=0.06)
    np.testing.assert_allclose([float(row[f"p_{name}"]) for name in CLASSES], probability, atol=2e-6)


def test_json_lines_hold_the_same(finished_run, folder, predicted, tmp_path):
  status, rows = run(finished_run, tmp_path / "out.jsonl", folder)
  assert status == 1
  for line, row in zip(rows, predicted[1], strict=True):
    assert (line["file"], line["status"], line["label"] or "") == (row["file"], row["status"], row["label"])
    if line["box"]:
      assert [f"{side:.1f}" for side in line["box"]] == [row[k] for k in ("x", "y", "width", "height")]
      assert [f"{p:.6f}" for p in line["probability"].values()] == [row[f"p_{name}"] for name in CLASSES]
  assert of(rows, "wall.png")[0]["probability"] is None


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_batch_size_changes_nothing(finished_run, folder, predicted, tmp_path, batch_size):
  _, rows = run(finished_run, tmp_path / "out.csv", folder, f"--batch_size={batch_size}")
  numbers = [f"p_{name}" for name in CLASSES]
  for row, other in zip(rows, predicted[1], strict=True):
    assert {k: v for k, v in row.items() if k not in numbers} == {k: v for k, v in other.items() if k not in numbers}
    for name in numbers:
      assert float(row[name] or 0) == pytest.approx(float(other[name] or 0), abs=5e-6)


def test_a_training_image_given_whole_is_classified_as_in_training(finished_run, model, tmp_path):
  image = np.asarray(tiny_run.tiny_arrays().image[:4])
  for n in range(4):
    cv2.imwrite(str(tmp_path / f"{n}.png"), image[n])
  status, rows = run(finished_run, tmp_path / "out.jsonl", "--face=whole", tmp_path / "*.png")
  assert status == 0
  expected = Predictor(model.classifier, None).predict([each[..., 0] for each in image]).probability
  np.testing.assert_allclose([list(row["probability"].values()) for row in rows], expected, atol=1e-6)
  assert [row["box"] for row in rows] == [[0, 0, 16, 16]] * 4


def test_every_second_frame(finished_run, folder, tmp_path):
  _, rows = run(finished_run, tmp_path / "out.csv", folder / "clip.avi", "--every=2")
  assert [row["frame"] for row in rows] == ["0", "2", "4"]


def test_frames_are_smoothed_unless_that_is_refused(finished_run, tmp_path):
  clip = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (240, 240))
  for frame in range(4):
    shade = 255 if frame % 2 else 90
    clip.write(cv2.cvtColor(np.minimum(scene(), shade), cv2.COLOR_GRAY2BGR))
  clip.release()
  spread = {}
  for seconds in (0, 2):
    _, rows = run(finished_run, tmp_path / "out.jsonl", tmp_path / "clip.avi", f"--smoothing={seconds}")
    probability = np.array([list(row["probability"].values()) for row in rows if row["probability"]])
    spread[seconds] = np.abs(np.diff(probability, axis=0)).max()
  assert 0 < spread[2] < 0.2 * spread[0]


def test_annotated_copies_keep_the_pictures_and_show_what_was_found(finished_run, folder, tmp_path):
  run(finished_run, tmp_path / "out.csv", folder, f"--annotate={tmp_path / 'copies'}")
  copies = sorted(str(path.relative_to(tmp_path / "copies")) for path in (tmp_path / "copies").rglob("*.*"))
  assert copies == ["below/one.jpg.png", "clip.avi.mp4", "two.png.png", "wall.png.png"]
  two = cv2.imread(str(tmp_path / "copies" / "two.png.png"))
  assert two.shape == (240, 480, 3)
  green = (two[..., 1].astype(int) - two[..., 2]) > 100
  assert 200 < green.sum() < 20_000
  np.testing.assert_array_equal(two[~green.any(axis=1), 0], two[~green.any(axis=1), 0][:, [1, 1, 1]])
  wall = cv2.imread(str(tmp_path / "copies" / "wall.png.png"))
  assert (wall == 128).all()
  clip = cv2.VideoCapture(str(tmp_path / "copies" / "clip.avi.mp4"))
  assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 5


@pytest.mark.parametrize("colour", [False, True])
def test_explained_copies_show_colours_on_the_face_alone(finished_run, tmp_path, colour):
  image = scene()
  cv2.imwrite(str(tmp_path / "one.png"), cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if colour else image)
  run(finished_run, tmp_path / "out.csv", tmp_path / "one.png", f"--annotate={tmp_path / 'copies'}", "--explain")
  copy = cv2.imread(str(tmp_path / "copies" / "one.png.png")).astype(int)
  coloured = np.ptp(copy, axis=2) > 12
  assert 0.05 < coloured.mean() < 0.9
  assert not coloured[:, :4].any()
  # Where the map is cold, the face is as it was.
  face = np.abs(copy[..., 0] - image.astype(int))[60:180, 60:180]
  assert np.median(face[~coloured[60:180, 60:180]]) < 4


class TestCopies:
  @pytest.mark.parametrize(("height", "width"), [(47, 63), (48, 63), (1, 40)])
  def test_a_video_of_odd_size_loses_nothing(self, tmp_path, height, width):
    with Gallery(tmp_path) as gallery:
      gallery.add_frame("a", np.zeros((height, width, 3), np.uint8), 10.0)
    found, frame = cv2.VideoCapture(str(tmp_path / "a.mp4")).read()
    assert found and frame.shape == (height + height % 2, width + width % 2, 3)

  @pytest.mark.parametrize("rate", [239.867, 29.97, 1000.0])
  def test_every_rate_can_be_written(self, tmp_path, rate):
    with Gallery(tmp_path) as gallery:
      for _ in range(3):
        gallery.add_frame("a", np.zeros((32, 32, 3), np.uint8), rate)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]

  def test_after_an_error_no_part_of_a_video_stays(self, tmp_path):
    with pytest.raises(ZeroDivisionError), Gallery(tmp_path) as gallery:
      gallery.add_frame("a", np.zeros((32, 32, 3), np.uint8), 10.0)
      raise ZeroDivisionError
    assert not list(tmp_path.iterdir())

  def test_a_video_that_was_not_written_whole_is_an_error(self, tmp_path, monkeypatch):
    gallery = Gallery(tmp_path)
    gallery.add_frame("a", np.zeros((32, 32, 3), np.uint8), 10.0)
    monkeypatch.setattr(gallery._film, "_frames", 99)
    with pytest.raises(UserError, match="it has 1 of 99 frames; is the disk full"):
      gallery.__exit__(None)
    assert not list(tmp_path.iterdir())

  def test_names_that_are_no_utf8(self, finished_run, folder, tmp_path):
    name = os.fsdecode(b"caf\xe9")
    shutil.copy(folder / "two.png", tmp_path / f"{name}.png")
    shutil.copy(folder / "clip.avi", tmp_path / f"{name}.avi")
    status, rows = run(finished_run, tmp_path / "out" / "o.jsonl", tmp_path, f"--annotate={tmp_path / 'out'}")
    assert status == 1
    assert [row["status"] for row in rows][1:] == ["ok", "ok"]
    assert "not UTF-8" in rows[0]["status"]
    assert (tmp_path / "out" / f"{name}.png.png").is_file()


class TestInputs:
  def test_a_list_on_standard_input_and_names_given_twice(self, folder):
    lines = [f"{folder / 'two.png'}\n", "\n", f"{folder}/missing.png"]
    files = inputs.listing(["-", str(folder / "two.png")], lines).files
    assert [file.name for file in files] == ["two.png", "missing.png", "two.png_2"]

  def test_a_missing_file_of_a_list_is_a_row(self, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", iter([f"{tmp_path}/missing.png\n", f"{tmp_path}/missing.mp4\n"]))
    status, rows = run(finished_run, tmp_path / "out.csv", "-")
    assert status == 1
    assert [row["status"] for row in rows] == ["error: does not exist"] * 2

  def test_a_pattern_is_expanded_and_hidden_files_are_left_alone(self, folder, tmp_path):
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "[1].png").write_bytes(b"")
    assert [file.name for file in inputs.listing([f"{folder}/**/*.jpg"], ()).files] == ["one.jpg", "torn.jpg"]
    assert [file.name for file in inputs.listing([str(tmp_path), f"{tmp_path}/[1].png"], ()).files] == [
      "[1].png",
      "[1].png_2",
    ]

  def test_what_a_folder_holds_beside_pictures_is_counted(self, folder):
    assert inputs.listing([str(folder)], ()).passed_over == {".txt": 1}

  @pytest.mark.parametrize(
    ("argument", "message"),
    [
      ("nowhere.png", "no such file"),
      ("no*where.png", "no file matches"),
      (".", "no image or video"),
      ("-", "contains no path"),
    ],
  )
  def test_what_names_nothing_is_an_error(self, tmp_path, monkeypatch, argument, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
      inputs.listing([argument], ())

  @pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
  def test_a_folder_that_may_not_be_looked_into_is_a_row(self, finished_run, folder, tmp_path):
    shutil.copy(folder / "two.png", tmp_path / "two.png")
    (tmp_path / "closed").mkdir(mode=0)
    status, rows = run(finished_run, tmp_path / "out.csv", tmp_path)
    assert status == 1
    assert rows[0]["status"] == "error: a folder without permission to read it"

  def test_links_to_folders_are_counted(self, folder, tmp_path):
    shutil.copy(folder / "two.png", tmp_path / "two.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "turns.png").symlink_to(tmp_path / "turns.png")
    found = inputs.listing([str(tmp_path)], ())
    assert [file.name for file in found.files] == ["turns.png", "two.png"]
    assert found.passed_over == {"links to folders": 1}

  def test_names_that_begin_like_somebodys_home(self, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nobody_at_all.png").write_bytes(b"")
    assert inputs.listing(["~nobody_at_all.png"], ()).files[0].name == "~nobody_at_all.png"
    with pytest.raises(UserError, match="no such file"):
      inputs.listing(["a" * 300], ())


class TestRefusals:
  def test_an_output_that_is_a_folder_is_seen_at_once(self, finished_run, folder, tmp_path, monkeypatch):
    (tmp_path / "out.csv").mkdir()
    monkeypatch.setattr(predictor, "load", None)
    with pytest.raises(UserError, match="is a folder"):
      run(finished_run, tmp_path / "out.csv", folder)

  def test_a_home_is_the_home(self, finished_run, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    predict.main([f"--checkpoint={finished_run}", "--out=~/out.csv", str(folder / "two.png")])
    assert [path.name for path in tmp_path.iterdir()] == ["home"]

  def test_links_that_loop_are_rows(self, finished_run, folder, tmp_path):
    (tmp_path / "turns.png").symlink_to(tmp_path / "turns.png")
    arguments = (tmp_path / "out.csv", tmp_path, f"--annotate={tmp_path / 'copies'}")
    assert run(finished_run, *arguments)[1][0]["status"].startswith("error: ")

  @pytest.mark.parametrize(
    ("option", "message"),
    [
      ("--batch_size=0", "--batch_size=0: expected 1 or more"),
      ("--every=0", "--every=0: expected 1 or more"),
      ("--smoothing=-1", "expected 0 or more"),
      ("--smoothing=nan", "expected 0 or more"),
      ("--megapixels=0", "above 0"),
      ("--smallest_face=0", "expected a fraction"),
      ("--explain", "expected --annotate=DIR"),
      ("--out=out.txt", "ends in .csv or .jsonl"),
      ("--yunet=model.onnx", "does not exist"),
    ],
  )
  def test_bad_options(self, finished_run, folder, tmp_path, monkeypatch, option, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
      predict.main([f"--checkpoint={finished_run}", "--out=out.csv", str(folder), option])
    assert not list(tmp_path.iterdir())

  def test_copies_never_replace_inputs(self, finished_run, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), scene())
    cv2.imwrite(str(tmp_path / "a.png.png"), scene())
    with pytest.raises(UserError, match=r"a.png.png is one of the inputs"):
      run(finished_run, tmp_path / "out.csv", tmp_path, f"--annotate={tmp_path}")

  def test_a_run_that_is_none(self, folder, tmp_path):
    with pytest.raises(UserError, match="no run has finished there"):
      run(tmp_path, tmp_path / "out.csv", folder)

  def test_an_output_that_cannot_be_written(self, finished_run, folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
      run(finished_run, tmp_path / "file" / "out.csv", folder)

  def test_nothing_half_written_stays(self, finished_run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, "cut", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run(finished_run, tmp_path / "out.csv", folder)
    assert not list(tmp_path.iterdir())


def test_a_detector_that_fails_costs_one_row(finished_run, folder, tmp_path, monkeypatch):
  find = Predictor.find

  def fail(self, image):
    if image.shape[1] == 480:
      raise cv2.error("out of\nmemory")
    return find(self, image)

  monkeypatch.setattr(Predictor, "find", fail)
  status, rows = run(finished_run, tmp_path / "out.csv", folder)
  assert status == 1
  assert of(rows, "two.png")[0]["status"] == "error: face detection failed on 480x240 pixels: out of memory"
  assert of(rows, "one.jpg")[0]["status"] == "ok"


def test_a_larger_picture_than_allowed_is_a_row(finished_run, folder, tmp_path):
  _, rows = run(finished_run, tmp_path / "out.csv", folder / "two.png", "--megapixels=0.1")
  assert rows[0]["status"].startswith("error: 480x240 pixels, above the limit")


def test_a_video_that_is_cut_short_says_so(finished_run, folder, tmp_path):
  data = (folder / "clip.avi").read_bytes()
  (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
  status, rows = run(finished_run, tmp_path / "out.csv", tmp_path / "cut.avi")
  assert status == 1
  assert rows[-1]["status"].startswith("error: ")


@pytest.mark.slow
def test_the_program_ends_with_the_status(finished_run, folder, tmp_path):
  command = [
    sys.executable,
    "-m",
    "fer_jax.apps.predict",
    f"--checkpoint={finished_run}",
    f"--out={tmp_path / 'o.csv'}",
  ]
  done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
  assert done.returncode == 1
  assert "8 images" in done.stdout and "1 unreadable files" in done.stdout
  wrong = subprocess.run([*command, "nowhere"], capture_output=True, text=True, check=False)
  assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
