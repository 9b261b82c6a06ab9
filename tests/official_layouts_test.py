"""Synthetic copies of the small datasets in their official layouts: prepare, audit, training and report."""

import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from absl import logging

from fer_jax import main as training
from fer_jax.apps import audit, prepare, report
from fer_jax.data.builders.synthetic_faces import layouts

ROOT = Path(__file__).resolve().parent.parent
CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
PEOPLE = 3
STEPS = 3
# One fold over people, with a network that compiles in a second or two.
TINY = (
  "--config=configs/resnet.py:depth=8,folds=3,subjects,single",
  "--config.data.image_size=32",
  "--config.model.width=4",
  "--config.batch_size=8",
  f"--config.duration={STEPS} steps",
  "--config.log_every=1 steps",
)


@dataclasses.dataclass(frozen=True)
class Case:
  """A synthetic layout, its dataset, and the expected numbers."""

  layout: str
  scale: float  # photographs are so small that no face is found: the fixed square is used
  dataset: str
  images: int
  form: str
  within: str = ""

  @property
  def cropped(self) -> bool:
    return self.form == "cropped"


# Equal numbers of images and classes where possible, so that the cases share compiled programs.
CASES = (
  Case("jaffe", 0.08, "jaffe", PEOPLE * 7 * 3, "official"),
  Case("ck_plus", 0.035, "ck_plus/neutral", PEOPLE * 6 * 4, "official"),
  Case("oulu_casia", 0.07, "oulu_casia/neutral", PEOPLE * 6 * 4, "original", "OriginalImg/VL/Strong/"),
  Case(
    "oulu_casia_cropped", 0.4, "oulu_casia/neutral", PEOPLE * 6 * 4, "cropped", "PreProcess_Img/VL_Acropped/Strong/"
  ),
)


@dataclasses.dataclass(frozen=True)
class CommandOutput:
  """Output of the commands: printed text, and the folders that they wrote."""

  case: Case
  printed: dict[str, str]
  data_dir: Path
  workdir: Path
  audits: Path

  def read(self, name: str) -> dict:
    return json.loads((self.workdir / name).read_text())


def printed(program, *arguments: str) -> str:
  """Runs a program in this process; returns its standard output."""
  stream = io.StringIO()
  with contextlib.redirect_stdout(stream):
    assert program(arguments) in (None, 0)
  return stream.getvalue()


def train(arguments: Sequence[str]) -> int:
  verbosity = logging.get_verbosity()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "argv", ["main", *arguments])
    status = training.main()
  logging.set_verbosity(verbosity)
  return status


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.layout)
def output(request, tmp_path_factory):
  """Renders a layout and runs the commands of a user on it, in order."""
  case, folder = request.param, tmp_path_factory.mktemp(request.param.layout)
  layouts.write_tree(case.layout, folder / "manual", PEOPLE, scale=case.scale, within=case.within)
  names = (f"--dataset={case.dataset}", f"--data_dir={folder / 'data'}")
  run = (*TINY, f"--config.data.name={case.dataset}", f"--config.data.data_dir={folder / 'data'}")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    printed_text = {"prepare": printed(prepare.main, *names, f"--manual_dir={folder / 'manual'}")}
    printed_text["audit"] = printed(audit.main, *names, f"--out={folder / 'audit'}")
    printed_text["train"] = printed(train, *run, f"--workdir={folder / 'run'}")
    splits = f"--splits={folder / 'run' / 'splits.json'}"
    printed_text["audit of the folds"] = printed(audit.main, *names, splits, f"--out={folder / 'audit' / 'folds'}")
    (folder / "run" / "report" / "index.html").unlink()
    printed_text["report"] = printed(report.main, f"--workdir={folder / 'run'}")
  return CommandOutput(case, printed_text, folder / "data", folder / "run", folder / "audit")


def test_prepare_shows_classes_source_and_differences(output):
  text = output.printed["prepare"]
  flat = " ".join(text.split())
  for name in (*CLASSES, "total"):
    assert f"\n{name} " in text
  assert f" total {output.case.images} {output.case.images} " in flat
  assert f"(form: {output.case.form}; SHA-256 " in flat
  assert "differ from the published dataset" in flat
  assert ("table 2 of the paper" in flat) == ("oulu" not in output.case.layout)
  assert "Next: python -m fer_jax.main --config=" in text


def test_prepare_notes_that_fixed_squares_were_used(output):
  flat = " ".join(output.printed["prepare"].split())
  count = output.case.images
  assert (f"no face was found in {count} of {count} images: fixed square used instead" in flat) != output.case.cropped


def test_audit_counts_images_and_writes_its_page(output):
  content = json.loads((output.audits / "audit.json").read_text())
  assert content["dataset"] == output.case.dataset
  assert (output.audits / "index.html").is_file()
  assert f"Page: {output.audits / 'index.html'}" in output.printed["audit"]


def test_no_person_is_in_training_and_test(output):
  folds = json.loads((output.audits / "folds" / "audit.json").read_text())["folds"]
  assert len(folds) == PEOPLE
  for fold in folds:
    assert (fold["subject"], fold["group"], fold["image"]) == (0, 0, 0)
  splits = output.read("splits.json")
  assert (splits["by"], splits["count"]) == ("subjects", PEOPLE)
  assert sorted(set(splits["fold"])) == list(range(PEOPLE))


def test_training_tests_one_person_and_writes_all_files(output):
  result = output.read("result.json")
  assert result["dataset"] == output.case.dataset
  assert result["steps"] == STEPS
  assert sum(map(sum, result["confusion_matrix"])) == output.case.images // PEOPLE
  assert len(result["confusion_matrix"]) == len(CLASSES)
  for name in ("config.json", "metrics.jsonl", "checkpoints"):
    assert (output.workdir / name).exists()
  assert output.printed["train"].splitlines()[-1] == f"report: {output.workdir / 'report' / 'index.html'}"


def test_report_shows_the_dataset_and_its_classes(output):
  page = output.workdir / "report" / "index.html"
  assert output.printed["report"].strip() == str(page)
  text = page.read_text()
  assert output.case.dataset in text
  for name in CLASSES:
    assert name in text
