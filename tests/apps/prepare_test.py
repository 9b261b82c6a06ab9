import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax.apps import prepare
from fer_jax.config.command_line import load_config
from fer_jax.data import builders
from fer_jax.data.builders.kdef_ck_plus.builder import DrawnKdefCkPlus
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
  """Reduces the built-in dataset."""
  config = SyntheticFacesConfig(name="48px", size=48, subjects=(2, 1, 1), repetitions=1)
  monkeypatch.setattr(SyntheticFaces, "BUILDER_CONFIGS", [config])


def run_main(capsys, *flags):
  prepare.main(flags)
  return capsys.readouterr().out


def table_of(output):
  """Returns the printed table as a dict from class to counts."""
  lines = output[output.index("class ") :].split("\n\n")[0].splitlines()
  return {line.split()[0]: line.split()[1:] for line in lines}


def test_prepares_and_prints_classes_by_split(capsys, manual_dir, tmp_path):
  output = run_main(capsys, "--dataset=fer2013", f"--manual_dir={manual_dir}", f"--data_dir={tmp_path / 'data'}")
  table = table_of(output)
  assert table["class"] == ["train", "validation", "test", "total"]
  # The 24 rows cycle through seven classes.
  assert table["angry"] == ["2", "1", "1", "4"]
  assert table["disgust"] == ["1", "2", "1", "4"]
  assert table["total"] == ["8", "8", "8", "24"]
  assert str(manual_dir / "fer2013.csv") in output
  assert "FER+ votes: not found" in output
  assert "warning: fer2013.csv is not the original" in output
  assert f"Prepared data: {tmp_path / 'data' / 'fer2013' / '1.0.0'}" in output
  assert (
    f"main --config=configs/hsic.py --config.data.name=fer2013 --config.data.data_dir={tmp_path / 'data'}\n" in output
  )
  assert (tmp_path / "data" / "fer2013" / "1.0.0" / "arrays" / "48x48x1").is_dir()


def test_prepared_dataset_is_prepared_again_only_with_overwrite(capsys, manual_dir, tmp_path):
  flags = ("--dataset=fer2013", f"--data_dir={tmp_path / 'data'}")
  first = run_main(capsys, *flags, f"--manual_dir={manual_dir}")
  again = run_main(capsys, *flags)
  assert "already prepared" not in first
  assert "already prepared" in again
  assert table_of(again) == table_of(first)
  layouts.write_fer2013_csv(manual_dir / "fer2013.csv", rows_per_split=7)
  layouts.write_ferplus_csv(manual_dir / "fer2013new.csv", rows_per_split=7)
  prepared_again = run_main(capsys, *flags, f"--manual_dir={manual_dir}", "--overwrite")
  assert "already prepared" not in prepared_again
  assert table_of(prepared_again)["total"] == ["7", "7", "7", "21"]
  assert "FER+ votes: found" in prepared_again


def test_kaggle_folders_have_two_splits_and_a_warning(capsys, tmp_path):
  layouts.write_kaggle_folders(tmp_path / "manual", per_class=1)
  output = run_main(
    capsys, "--dataset=fer2013", f"--manual_dir={tmp_path / 'manual'}", f"--data_dir={tmp_path / 'data'}"
  )
  assert table_of(output)["class"] == ["train", "test", "total"]
  assert "warning: this form of FER2013 does not distinguish public from private test images" in output


@pytest.mark.usefixtures("few_faces")
def test_synthetic_faces_need_no_files(capsys, tmp_path):
  output = run_main(capsys, "--dataset=synthetic_faces", f"--data_dir={tmp_path}")
  assert table_of(output)["total"] == ["14", "7", "7", "28"]
  assert "--config=configs/hsic.py:demo" in output


@pytest.fixture
def trees(tmp_path):
  """Folder trees of KDEF and CK+, with one person and one invalid file each."""
  folder = tmp_path / "trees"
  layouts.write_tree("kdef", folder / "KDEF", subjects=1, scale=0.1)
  layouts.write_tree("ck_plus", folder / "CK+", subjects=1, scale=0.1)
  (folder / "KDEF" / "AF01" / "AF01V.JPG").write_bytes(b"x")
  (folder / "CK+" / "cohn-kanade-images" / "S005" / "001" / "S005_001_00000006.png").write_bytes(b"")
  return folder


def unwrap(text):
  """Joins wrapped lines."""
  return " ".join(text.split())


def test_prints_source_rejected_files_and_comparison_with_the_paper(capsys, trees, tmp_path):
  output = run_main(capsys, "--dataset=kdef_ck_plus", f"--manual_dir={trees}", f"--data_dir={tmp_path / 'data'}")
  assert table_of(output) == {
    "class": ["train", "total"],
    **{name: ["10", "10"] for name in ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")},
    "total": ["70", "70"],
  }
  comparison = output[output.index("paper's table 3") :].splitlines()
  assert unwrap(comparison[1]).startswith("angry 10 740 KDEF has 10, the paper has 700; CK+ has 0, the")
  assert unwrap(comparison[8]) == "total 70 5170"
  text = unwrap(output)
  assert f"source: {trees} (form: KDEF and CK+; SHA-256 " in text
  assert "8 sequences of 1 people; 7 have a label, 1 have none" in text
  assert "AF01ANFL.JPG): AF01/AF01V.JPG" in text
  assert "(empty (0 bytes)): cohn-kanade-images/S005/001/S005_001_00000006.png" in text
  assert "5 left out to make every class a multiple of ten" in text


@pytest.mark.parametrize(
  ("dataset", "command"),
  [
    ("kdef", "configs/resnet.py --config.data.name=kdef --config"),
    ("kdef/frontal", "configs/resnet.py --config.data.name=kdef/frontal --config"),
    ("kdef_ck_plus", "configs/resnet.py --config.data.name=kdef_ck_plus --config.data.data_dir"),
    ("ck_plus", "configs/obsr.py:ck_plus,small,scratch --config.data.name=ck_plus --config.data.data_dir"),
    ("ck_plus/neutral", "configs/obsr.py:ck_plus,small,scratch --config.data.name=ck_plus/neutral --config"),
  ],
)
def test_next_command_trains_on_the_dataset(capsys, trees, tmp_path, dataset, command):
  output = run_main(capsys, f"--dataset={dataset}", f"--manual_dir={trees}", f"--data_dir={tmp_path / 'data'}")
  assert f"Next: python -m fer_jax.main --config={command}" in output
  assert "comparison" not in output and ("table 3" in output) == (dataset == "kdef_ck_plus")


def test_next_command_of_a_built_in_dataset(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(DrawnKdefCkPlus, "PEOPLE", 1)
  monkeypatch.setattr(DrawnKdefCkPlus, "SCALE", 0.1)
  output = run_main(capsys, "--dataset=drawn_kdef_ck_plus", f"--data_dir={tmp_path}")
  assert "--config=configs/resnet.py:demo --config.data.name=drawn_kdef_ck_plus --config.data.data_dir" in output


@pytest.mark.parametrize("dataset", builders.names())
def test_suggested_config_loads(dataset, monkeypatch):
  monkeypatch.chdir(Path(__file__).resolve().parents[2])
  assert load_config(builders.suggested_config(dataset)).data.name


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--dataset=fer2013"], "error: fer2013 needs --manual_dir=DIR"),
    (
      ["--dataset=fer2014"],
      "error: dataset 'fer2014' is unknown; expected one of ck_plus, drawn_jaffe, drawn_kdef_ck_plus, ",
    ),
    (
      ["--dataset=ck_plus/first", "--manual_dir=MANUAL"],
      "expected one of the configurations of ck_plus: default, neutral, last",
    ),
    (["--dataset=kdef", "--manual_dir=MANUAL"], "does not contain KDEF; expected session folders such as AF01/"),
    (["--dataset=fer2013", "--manual_dir=MANUAL"], "fer2013.csv, row 4: 2 columns, expected 3"),
    (["--dataset=fer2013", "--manual_dir=absent"], "error: --manual_dir=absent does not exist"),
  ],
)
def test_errors_end_with_one_line_and_status_2(manual_dir, tmp_path, flags, message):
  lines = (manual_dir / "fer2013.csv").read_text().splitlines()
  lines[3] = lines[3].rpartition(",")[0]
  (manual_dir / "fer2013.csv").write_text("\n".join(lines))
  flags = [flag.replace("MANUAL", str(manual_dir)) for flag in flags]
  command = [sys.executable, "-m", "fer_jax.apps.prepare", f"--data_dir={tmp_path / 'data'}", *flags]
  process = subprocess.run(command, check=False, capture_output=True, text=True)
  assert process.returncode == 2
  assert message in process.stderr
  assert len(process.stderr.splitlines()) == 1
  assert not (tmp_path / "data").exists()


def test_help_lists_required_files(capsys):
  with pytest.raises(SystemExit) as caught:
    prepare.main(["--help"])
  assert caught.value.code == 0
  output = capsys.readouterr().out
  for text in (
    "--manual_dir",
    "fer2013.csv",
    "icml_face_data.csv",
    "built in",
    "example:",
    "ck_plus/neutral",
    "kdef/frontal",
  ):
    assert text in output
