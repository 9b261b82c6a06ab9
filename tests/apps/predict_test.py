"""Tests the predict program: inputs, errors, output rows and annotated copies."""

import csv
import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from fer_jax.apps import predict
from fer_jax.apps.predictions.inputs import list_files
from fer_jax.data.builders.synthetic_faces.images import render_image
from fer_jax.data.images import read_image
from fer_jax.faces.video import Video
from fer_jax.inference.predictor import Predictor, load_predictor
from fer_jax.runtime.errors import UserError
from tests import tiny_run
from tests.faces.video_files import write_video

SHARED = ("file", "frame", "time", "face", "track", "x", "y", "width", "height", "score", "label")
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def loaded_predictor(finished_run):
  return load_predictor(finished_run)


def draw_people(people=1, size=240):
  """Returns a photograph of drawn people next to each other."""
  return np.concatenate([render_image(0, n, "happy", 0, size, yaw=0.0) for n in range(people)], axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Folder of images with two, one and no faces, a video, a damaged image and a text file."""
  folder = tmp_path_factory.mktemp("images")
  (folder / "below").mkdir()
  cv2.imwrite(str(folder / "two.png"), draw_people(2))
  cv2.imwrite(str(folder / "below" / "one.jpg"), cv2.cvtColor(draw_people(), cv2.COLOR_GRAY2BGR))
  cv2.imwrite(str(folder / "wall.png"), np.full((200, 300), 128, np.uint8))
  (folder / "torn.jpg").write_bytes((folder / "below" / "one.jpg").read_bytes()[:900])
  (folder / "notes.txt").write_text("not an image")
  clip = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (240, 240))
  for _ in range(5):
    clip.write(cv2.cvtColor(draw_people(), cv2.COLOR_GRAY2BGR))
  clip.release()
  return folder


def run(finished_run, out, *arguments):
  status = predict.main([f"--checkpoint={finished_run}", f"--out={out}", *map(str, arguments)])
  if out.suffix == ".jsonl":
    return status, [json.loads(line) for line in out.read_text().splitlines()]
  with out.open(newline="") as file:
    return status, list(csv.DictReader(file))


def rows_of(rows, name):
  return [row for row in rows if row["file"].endswith(name)]


@pytest.fixture(scope="module")
def predicted(finished_run, folder, tmp_path_factory):
  return run(finished_run, tmp_path_factory.mktemp("out") / "out.csv", folder)


def test_folder_gives_rows(predicted, folder):
  status, rows = predicted
  assert status == 1  # one file is damaged
  assert tuple(rows[0]) == (*SHARED, *(f"p_{name}" for name in CLASSES), "status")
  files = [row["file"] for row in rows]
  assert files == sorted(files)
  assert len(rows_of(rows, "two.png")) == 2
  assert [row["face"] for row in rows_of(rows, "two.png")] == ["0", "1"]
  (one,) = rows_of(rows, "below/one.jpg")
  assert (one["status"], one["frame"], one["time"], one["track"]) == ("ok", "", "", "")
  assert one["label"] in CLASSES
  assert sum(float(one[f"p_{name}"]) for name in CLASSES) == pytest.approx(1, abs=1e-5)
  assert 60 < float(one["width"]) < 240
  assert not rows_of(rows, "notes.txt")


def test_image_without_a_face_has_a_row(predicted):
  (wall,) = rows_of(predicted[1], "wall.png")
  assert wall["status"] == "no face"
  assert all(value == "" for key, value in wall.items() if key not in ("file", "status"))


def test_damaged_image_has_a_row_with_the_reason(predicted):
  (torn,) = rows_of(predicted[1], "torn.jpg")
  assert torn["status"] == "error: not a readable image: damaged or truncated"
  assert torn["label"] == torn["face"] == ""


def test_video_rows_have_frames_times_and_tracks(predicted):
  rows = rows_of(predicted[1], "clip.avi")
  assert [row["frame"] for row in rows] == list("01234")
  assert [row["time"] for row in rows] == ["0.000", "0.100", "0.200", "0.300", "0.400"]
  assert {row["track"] for row in rows} == {"0"}


def test_rows_equal_the_predictor(predicted, folder, loaded_predictor):
  found = loaded_predictor.predict([read_image(folder / "two.png")])
  for row, box, probability in zip(rows_of(predicted[1], "two.png"), found.box, found.probability, strict=True):
    np.testing.assert_allclose([float(row[k]) for k in ("x", "y", "width", "height")], box, atol=0.06)
    np.testing.assert_allclose([float(row[f"p_{name}"]) for name in CLASSES], probability, atol=2e-6)


def test_json_lines_equal_csv(finished_run, folder, predicted, tmp_path):
  status, rows = run(finished_run, tmp_path / "out.jsonl", folder)
  assert status == 1
  for line, row in zip(rows, predicted[1], strict=True):
    assert (line["file"], line["status"], line["label"] or "") == (row["file"], row["status"], row["label"])
    if line["box"]:
      assert [f"{side:.1f}" for side in line["box"]] == [row[k] for k in ("x", "y", "width", "height")]
      assert [f"{p:.6f}" for p in line["probability"].values()] == [row[f"p_{name}"] for name in CLASSES]
  assert rows_of(rows, "wall.png")[0]["probability"] is None


def test_rows_are_printed_without_an_output_file(finished_run, folder, predicted, capsys):
  assert predict.main([f"--checkpoint={finished_run}", str(folder)]) == 1
  *lines, summary = capsys.readouterr().out.splitlines()
  assert len(lines) == len(predicted[1])
  for line, row in zip(lines, predicted[1], strict=True):
    place, _, result = line.rpartition(": ") if row["label"] else line.partition(": ")
    assert place.startswith(row["file"])
    assert result.startswith(row["label"] or row["status"])
  assert lines[0].endswith(" %") and ", face 0: " in lines[0]
  assert any("clip.avi, 0.40 s, face 0: " in line for line in lines)
  assert summary.startswith("8 images in ")


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_rows_do_not_depend_on_the_batch_size(finished_run, folder, predicted, tmp_path, batch_size):
  _, rows = run(finished_run, tmp_path / "out.csv", folder, f"--batch_size={batch_size}")
  numbers = [f"p_{name}" for name in CLASSES]
  for row, other in zip(rows, predicted[1], strict=True):
    assert {k: v for k, v in row.items() if k not in numbers} == {k: v for k, v in other.items() if k not in numbers}
    for name in numbers:
      assert float(row[name] or 0) == pytest.approx(float(other[name] or 0), abs=5e-6)


def test_whole_images_are_classified_as_in_training(finished_run, loaded_predictor, tmp_path):
  image = np.asarray(tiny_run.tiny_arrays().image[:4])
  for n in range(4):
    cv2.imwrite(str(tmp_path / f"{n}.png"), image[n])
  status, rows = run(finished_run, tmp_path / "out.jsonl", "--detector=whole", tmp_path / "*.png")
  assert status == 0
  expected = Predictor(loaded_predictor.model, None).predict([each[..., 0] for each in image]).probability
  np.testing.assert_allclose([list(row["probability"].values()) for row in rows], expected, atol=1e-6)
  assert [row["box"] for row in rows] == [[0, 0, 16, 16]] * 4


def test_every_processes_every_nth_frame(finished_run, folder, tmp_path):
  _, rows = run(finished_run, tmp_path / "out.csv", folder / "clip.avi", "--every=2")
  assert [row["frame"] for row in rows] == ["0", "2", "4"]


def test_smoothing_reduces_changes_between_frames(finished_run, tmp_path):
  clip = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (240, 240))
  for frame in range(4):
    shade = 255 if frame % 2 else 90
    clip.write(cv2.cvtColor(np.minimum(draw_people(), shade), cv2.COLOR_GRAY2BGR))
  clip.release()
  spread = {}
  for seconds in (0, 2):
    _, rows = run(finished_run, tmp_path / "out.jsonl", tmp_path / "clip.avi", f"--smoothing={seconds}")
    probability = np.array([list(row["probability"].values()) for row in rows if row["probability"]])
    spread[seconds] = np.abs(np.diff(probability, axis=0)).max()
  assert 0 < spread[2] < 0.2 * spread[0]


def test_annotated_copies_show_boxes_and_keep_other_pixels(finished_run, folder, tmp_path):
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
  with Video(tmp_path / "copies" / "clip.avi.mp4") as clip:
    np.testing.assert_allclose([frame.time for frame in clip], [0, 0.1, 0.2, 0.3, 0.4], atol=1e-4)
    assert clip.end == pytest.approx(0.5)


@pytest.mark.parametrize("every", [1, 2])
def test_annotated_copy_keeps_uneven_frame_times(finished_run, tmp_path, every):
  times = [0, 0.04, 0.5, 2.0, 2.04]
  image = cv2.cvtColor(draw_people(), cv2.COLOR_GRAY2RGB)
  path = write_video(tmp_path / "a.mkv", "libx264", Fraction(25), images=[image] * 5, times=times)
  status, rows = run(finished_run, tmp_path / "out.csv", path, f"--annotate={tmp_path / 'copies'}", f"--every={every}")
  assert status == 0
  assert [float(row["time"]) for row in rows] == pytest.approx(times[::every], abs=2e-3)
  with Video(path) as original, Video(tmp_path / "copies" / "a.mkv.mp4") as copy:
    assert [frame.time for frame in copy] == pytest.approx(times[::every], abs=2e-3)
    assert len(list(original)) == 5
    assert copy.end == pytest.approx(original.end, abs=2e-3)


def test_smoothing_starts_anew_after_a_cut(finished_run, tmp_path):
  shots = [cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) for image in (draw_people(), draw_people()[:, ::-1] // 2)]
  shots[1][:100] = 255 - shots[1][:100]
  path = write_video(tmp_path / "cut.mkv", "ffv1", Fraction(10), images=[shots[0]] * 3 + [shots[1]] * 3)
  tracks, labels = {}, {}
  for seconds in (0, 9):
    _, rows = run(finished_run, tmp_path / "out.jsonl", path, f"--smoothing={seconds}")
    tracks[seconds] = [row["track"] for row in rows]
    labels[seconds] = np.array([list(row["probability"].values()) for row in rows if row["probability"]])
  assert tracks[9] == tracks[0] and tracks[9][0] != tracks[9][-1]
  np.testing.assert_allclose(labels[9], labels[0], atol=2e-6)


@pytest.mark.parametrize("colour", [False, True])
def test_explained_copies_are_coloured_only_on_the_face(finished_run, tmp_path, colour):
  image = draw_people()
  cv2.imwrite(str(tmp_path / "one.png"), cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if colour else image)
  run(finished_run, tmp_path / "out.csv", tmp_path / "one.png", f"--annotate={tmp_path / 'copies'}", "--explain")
  copy = cv2.imread(str(tmp_path / "copies" / "one.png.png")).astype(int)
  coloured = np.ptp(copy, axis=2) > 12
  assert 0.05 < coloured.mean() < 0.9
  assert not coloured[:, :4].any()
  # Where the saliency is low, the face is unchanged.
  face = np.abs(copy[..., 0] - image.astype(int))[60:180, 60:180]
  assert np.median(face[~coloured[60:180, 60:180]]) < 4


def test_names_that_are_not_utf8(finished_run, folder, tmp_path):
  name = os.fsdecode(b"caf\xe9")
  shutil.copy(folder / "two.png", tmp_path / f"{name}.png")
  shutil.copy(folder / "clip.avi", tmp_path / f"{name}.avi")
  status, rows = run(finished_run, tmp_path / "out" / "o.jsonl", tmp_path, f"--annotate={tmp_path / 'out'}")
  assert status == 0
  assert {row["status"] for row in rows} == {"ok"}
  assert (tmp_path / "out" / f"{name}.png.png").is_file()
  assert (tmp_path / "out" / f"{name}.avi.mp4").is_file()


class TestFilesWithoutAKnownSuffix:
  @pytest.mark.parametrize("name", ["clip", "clip.dat", "clip.3gp", "clip.m2ts", "clip.h264"])
  def test_video(self, finished_run, folder, tmp_path, name):
    shutil.copy(folder / "clip.avi", tmp_path / name)
    status, rows = run(finished_run, tmp_path / "out.csv", tmp_path / name, f"--annotate={tmp_path / 'copies'}")
    assert (status, len(rows)) == (0, 5)
    assert (tmp_path / "copies" / f"{name}.mp4").is_file()

  def test_image(self, finished_run, folder, tmp_path):
    shutil.copy(folder / "two.png", tmp_path / "two")
    status, rows = run(finished_run, tmp_path / "out.csv", tmp_path / "two", f"--annotate={tmp_path / 'copies'}")
    assert (status, len(rows)) == (0, 2)
    assert (tmp_path / "copies" / "two.png").is_file()

  def test_neither(self, finished_run, folder, tmp_path):
    status, rows = run(finished_run, tmp_path / "out.csv", folder / "notes.txt")
    assert status == 1
    assert rows[0]["status"].startswith("error: not a readable image: none of BMP")
    assert rows[0]["status"].endswith("and not a readable video: unknown format, damaged or truncated")


class TestInputs:
  def test_reads_standard_input_and_numbers_repeated_names(self, folder):
    lines = [f"{folder / 'two.png'}\n", "\n", f"{folder}/missing.png"]
    files = list_files(["-", str(folder / "two.png")], lines).files
    assert [file.name for file in files] == ["two.png", "missing.png", "two.png_2"]

  def test_missing_listed_file_has_a_row(self, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", iter([f"{tmp_path}/missing.png\n", f"{tmp_path}/missing.mp4\n"]))
    status, rows = run(finished_run, tmp_path / "out.csv", "-")
    assert status == 1
    assert [row["status"] for row in rows] == ["error: does not exist"] * 2

  def test_expands_patterns_and_skips_hidden_files(self, folder, tmp_path):
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "[1].png").write_bytes(b"")
    assert [file.name for file in list_files([f"{folder}/**/*.jpg"], ()).files] == ["one.jpg", "torn.jpg"]
    assert [file.name for file in list_files([str(tmp_path), f"{tmp_path}/[1].png"], ()).files] == [
      "[1].png",
      "[1].png_2",
    ]

  def test_counts_skipped_files(self, folder):
    assert list_files([str(folder)], ()).skipped == {".txt": 1}

  @pytest.mark.parametrize(
    ("argument", "message"),
    [
      ("nowhere.png", "no such file"),
      ("no*where.png", "no file matches"),
      (".", "no image or video"),
      ("-", "contains no path"),
    ],
  )
  def test_rejects_arguments_without_files(self, tmp_path, monkeypatch, argument, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
      list_files([argument], ())

  @pytest.mark.skipif(os.geteuid() == 0, reason="root can read every folder")
  def test_unreadable_folder_has_a_row(self, finished_run, folder, tmp_path):
    shutil.copy(folder / "two.png", tmp_path / "two.png")
    (tmp_path / "closed").mkdir(mode=0)
    status, rows = run(finished_run, tmp_path / "out.csv", tmp_path)
    assert status == 1
    assert rows[0]["status"] == "error: a folder without permission to read it"

  def test_counts_links_to_folders(self, folder, tmp_path):
    shutil.copy(folder / "two.png", tmp_path / "two.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "turns.png").symlink_to(tmp_path / "turns.png")
    found = list_files([str(tmp_path)], ())
    assert [file.name for file in found.files] == ["turns.png", "two.png"]
    assert found.skipped == {"links to folders": 1}

  def test_names_that_begin_with_a_tilde(self, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nobody_at_all.png").write_bytes(b"")
    assert list_files(["~nobody_at_all.png"], ()).files[0].name == "~nobody_at_all.png"
    with pytest.raises(UserError, match="no such file"):
      list_files(["a" * 300], ())


class TestErrors:
  def test_rejects_an_output_folder_before_loading(self, finished_run, folder, tmp_path, monkeypatch):
    (tmp_path / "out.csv").mkdir()
    monkeypatch.setattr(predict, "load_predictor", None)
    with pytest.raises(UserError, match="is a folder"):
      run(finished_run, tmp_path / "out.csv", folder)

  def test_tilde_in_the_output_path_is_expanded(self, finished_run, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    predict.main([f"--checkpoint={finished_run}", "--out=~/out.csv", str(folder / "two.png")])
    assert [path.name for path in tmp_path.iterdir()] == ["home"]

  def test_circular_link_has_a_row(self, finished_run, folder, tmp_path):
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
  def test_rejects_invalid_options(self, finished_run, folder, tmp_path, monkeypatch, option, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
      predict.main([f"--checkpoint={finished_run}", "--out=out.csv", str(folder), option])
    assert not list(tmp_path.iterdir())

  def test_annotated_copies_cannot_overwrite_inputs(self, finished_run, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), draw_people())
    cv2.imwrite(str(tmp_path / "a.png.png"), draw_people())
    with pytest.raises(UserError, match=r"a.png.png is one of the inputs"):
      run(finished_run, tmp_path / "out.csv", tmp_path, f"--annotate={tmp_path}")

  def test_rejects_a_folder_without_a_run(self, folder, tmp_path):
    with pytest.raises(UserError, match="no run has finished there"):
      run(tmp_path, tmp_path / "out.csv", folder)

  def test_unwritable_output_raises(self, finished_run, folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
      run(finished_run, tmp_path / "file" / "out.csv", folder)

  def test_partial_output_is_removed(self, finished_run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, "cut", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run(finished_run, tmp_path / "out.csv", folder)
    assert not list(tmp_path.iterdir())


def test_failed_detection_has_a_row(finished_run, folder, tmp_path, monkeypatch):
  find = Predictor.find

  def fail(self, image):
    if image.shape[1] == 480:
      raise cv2.error("out of\nmemory")
    return find(self, image)

  monkeypatch.setattr(Predictor, "find", fail)
  status, rows = run(finished_run, tmp_path / "out.csv", folder)
  assert status == 1
  assert rows_of(rows, "two.png")[0]["status"] == "error: face detection failed on 480x240 pixels: out of memory"
  assert rows_of(rows, "one.jpg")[0]["status"] == "ok"


def test_too_large_image_has_a_row(finished_run, folder, tmp_path):
  _, rows = run(finished_run, tmp_path / "out.csv", folder / "two.png", "--megapixels=0.1")
  assert rows[0]["status"].startswith("error: 480x240 pixels, above the limit")


def test_truncated_video_has_a_row(finished_run, folder, tmp_path):
  data = (folder / "clip.avi").read_bytes()
  (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
  status, rows = run(finished_run, tmp_path / "out.csv", tmp_path / "cut.avi")
  assert status == 1
  assert rows[-1]["status"].startswith("error: ")


@pytest.mark.slow
def test_exit_status(finished_run, folder, tmp_path):
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
