import subprocess
import sys

import numpy as np
import pytest

from fer_jax.apps import prepare
from fer_jax.data.arrays import Arrays
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.data.builders.synthetic_faces.builder import SyntheticFaces, SyntheticFacesConfig


@pytest.fixture
def manual_dir(tmp_path):
  folder = tmp_path / "manual"
  folder.mkdir()
  layouts.write_fer2013_csv(folder / "fer2013.csv", rows_per_split=8)
  return folder


@pytest.fixture
def few_faces(monkeypatch):
  """Makes the built-in dataset small."""
  config = SyntheticFacesConfig(name="48px", size=48, subjects=(2, 1, 1), repetitions=1)
  monkeypatch.setattr(SyntheticFaces, "BUILDER_CONFIGS", [config])


def run_main(capsys, *flags):
  prepare.main(flags)
  return capsys.readouterr().out


def table_of(output):
  """Returns the printed table as {class: its counts}."""
  lines = output[output.index("class ") :].split("\n\n")[0].splitlines()
  return {line.split()[0]: line.split()[1:] for line in lines}


def test_it_prepares_and_shows_classes_by_split(capsys, manual_dir, tmp_path):
  output = run_main(capsys, "--dataset=fer2013", f"--manual_dir={manual_dir}", f"--data_dir={tmp_path / 'data'}")
  table = table_of(output)
  assert table["class"] == ["train", "validation", "test", "total"]
  # Twenty-four rows take turns through seven classes.
  assert table["angry"] == ["2", "1", "1", "4"]
  assert table["disgust"] == ["1", "2", "1", "4"]
  assert table["total"] == ["8", "8", "8", "24"]
  assert str(manual_dir / "fer2013.csv") in output
  assert "FER+ votes: not found" in output
  assert "warning: fer2013.csv is not the original" in output
  assert f"Prepared data: {tmp_path / 'data' / 'fer2013' / '1.0.0'}" in output
  assert f"main --config=configs/hsic.py --config.data.data_dir={tmp_path / 'data'}\n" in output
  assert (tmp_path / "data" / "fer2013" / "1.0.0" / "arrays" / "48x48x1").is_dir()


def test_a_prepared_dataset_is_shown_again_and_overwrite_prepares_it_anew(capsys, manual_dir, tmp_path):
  flags = ("--dataset=fer2013", f"--data_dir={tmp_path / 'data'}")
  first = run_main(capsys, *flags, f"--manual_dir={manual_dir}")
  again = run_main(capsys, *flags)
  assert "already prepared" not in first
  assert "already prepared" in again
  assert table_of(again) == table_of(first)
  layouts.write_fer2013_csv(manual_dir / "fer2013.csv", rows_per_split=7)
  layouts.write_ferplus_csv(manual_dir / "fer2013new.csv", rows_per_split=7)
  anew = run_main(capsys, *flags, f"--manual_dir={manual_dir}", "--overwrite")
  assert "already prepared" not in anew
  assert table_of(anew)["total"] == ["7", "7", "7", "21"]
  assert "FER+ votes: found" in anew


def test_kaggle_folders_show_two_splits_and_the_warning(capsys, tmp_path):
  layouts.write_kaggle_folders(tmp_path / "manual", per_class=1)
  output = run_main(
    capsys, "--dataset=fer2013", f"--manual_dir={tmp_path / 'manual'}", f"--data_dir={tmp_path / 'data'}"
  )
  assert table_of(output)["class"] == ["train", "test", "total"]
  assert "warning: the public and the private test images cannot be told apart" in output


@pytest.mark.usefixtures("few_faces")
def test_synthetic_faces_need_no_files(capsys, tmp_path):
  output = run_main(capsys, "--dataset=synthetic_faces", f"--data_dir={tmp_path}")
  assert table_of(output)["total"] == ["14", "7", "7", "28"]
  assert "--config=configs/hsic.py:demo" in output


def test_the_audit_counts_duplicates_conflicts_leaks_and_constant_images():
  picture = [0, 1, 2, 3, 4, 0, 1, 0, 4, 5]
  image = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2, 1)
  image[5] = 9
  size = len(picture)
  dataset = Arrays(
    image=image[picture],
    label=np.array([0, 1, 2, 0, 1, 0, 2, 1, 1, 0], np.int32),
    subject=np.full(size, ""),
    group=np.arange(size, dtype=np.int32),
    split=np.array(["train"] * 5 + ["validation"] * 2 + ["test"] * 3),
    class_names=("a", "b", "c"),
  )
  assert prepare.audit(dataset) == [
    "6 distinct images in 10 rows: 3 stand more than once",
    "2 of these groups of duplicates have conflicting labels",
    "2 of the 2 validation images stand in train as well",
    "2 of the 3 test images stand in train as well",
    "1 images are constant (all pixels equal)",
  ]


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--dataset=fer2013"], "error: fer2013 needs --manual_dir=DIR"),
    (["--dataset=fer2014"], "error: dataset 'fer2014' is unknown; known are fer2013, synthetic_faces"),
    (["--dataset=fer2013", "--manual_dir=MANUAL"], "fer2013.csv, row 4: 2 columns, expected 3"),
    (["--dataset=fer2013", "--manual_dir=absent"], "error: --manual_dir=absent does not exist"),
  ],
)
def test_a_mistake_ends_with_one_line_and_status_2(manual_dir, tmp_path, flags, words):
  lines = (manual_dir / "fer2013.csv").read_text().splitlines()
  lines[3] = lines[3].rpartition(",")[0]
  (manual_dir / "fer2013.csv").write_text("\n".join(lines))
  flags = [flag.replace("MANUAL", str(manual_dir)) for flag in flags]
  command = [sys.executable, "-m", "fer_jax.apps.prepare", f"--data_dir={tmp_path / 'data'}", *flags]
  ran = subprocess.run(command, check=False, capture_output=True, text=True)
  assert ran.returncode == 2
  assert words in ran.stderr
  assert len(ran.stderr.splitlines()) == 1
  assert not (tmp_path / "data").exists()


def test_help_says_which_files_a_dataset_needs(capsys):
  with pytest.raises(SystemExit) as caught:
    prepare.main(["--help"])
  assert caught.value.code == 0
  output = capsys.readouterr().out
  for words in ("--manual_dir", "fer2013.csv", "icml_face_data.csv", "built in", "example:"):
    assert words in output
