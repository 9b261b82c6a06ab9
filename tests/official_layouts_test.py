"""The official layouts of the small datasets, drawn, taken through prepare, audit, training and report."""

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
# One fold over people, of a network that compiles in a second or two.
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
  """A layout to draw, the dataset that it is, and what is to come of it."""

  layout: str
  scale: float  # of photographs so small that no face is found: the fixed place is taken
  dataset: str
  pictures: int
  form: str
  within: str = ""

  @property
  def cropped(self) -> bool:
    return self.form == "cropped"


# As many pictures in as many classes where that can be: these share the programs that they compile.
CASES = (
  Case("jaffe", 0.08, "jaffe", PEOPLE * 7 * 3, "official"),
  Case("ck_plus", 0.035, "ck_plus/neutral", PEOPLE * 6 * 4, "official"),
  Case("oulu_casia", 0.07, "oulu_casia/neutral", PEOPLE * 6 * 4, "original", "OriginalImg/VL/Strong/"),
  Case(
    "oulu_casia_cropped", 0.4, "oulu_casia/neutral", PEOPLE * 6 * 4, "cropped", "PreProcess_Img/VL_Acropped/Strong/"
  ),
)


@dataclasses.dataclass(frozen=True)
class Journey:
  """What a user has at the end: what the programs printed, and the folders that they wrote."""

  case: Case
  printed: dict[str, str]
  data_dir: Path
  workdir: Path
  audits: Path

  def read(self, name: str) -> dict:
    return json.loads((self.workdir / name).read_text())


def printed(program, *arguments: str) -> str:
  """Runs a program in this process; returns what it printed."""
  output = io.StringIO()
  with contextlib.redirect_stdout(output):
    assert program(arguments) in (None, 0)
  return output.getvalue()


def train(arguments: Sequence[str]) -> int:
  verbosity = logging.get_verbosity()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "argv", ["main", *arguments])
    status = training.main()
  logging.set_verbosity(verbosity)
  return status


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.layout)
def journey(request, tmp_path_factory):
  """Draws a layout, and gives the commands of a user, one after the other."""
  case, folder = request.param, tmp_path_factory.mktemp(request.param.layout)
  layouts.write_tree(case.layout, folder / "manual", PEOPLE, scale=case.scale, within=case.within)
  names = (f"--dataset={case.dataset}", f"--data_dir={folder / 'data'}")
  run = (*TINY, f"--config.data.name={case.dataset}", f"--config.data.data_dir={folder / 'data'}")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    said = {"prepare": printed(prepare.main, *names, f"--manual_dir={folder / 'manual'}")}
    said["audit"] = printed(audit.main, *names, f"--out={folder / 'audit'}")
    said["train"] = printed(train, *run, f"--workdir={folder / 'run'}")
    splits = f"--splits={folder / 'run' / 'splits.json'}"
    said["audit of the folds"] = printed(audit.main, *names, splits, f"--out={folder / 'audit' / 'folds'}")
    (folder / "run" / "report" / "index.html").unlink()
    said["report"] = printed(report.main, f"--workdir={folder / 'run'}")
  return Journey(case, said, folder / "data", folder / "run", folder / "audit")


def test_prepare_shows_every_class_the_source_and_what_is_odd(journey):
  text = journey.printed["prepare"]
  flat = " ".join(text.split())
  for name in (*CLASSES, "total"):
    assert f"\n{name} " in text
  assert f" total {journey.case.pictures} {journey.case.pictures} " in flat
  assert f"(form: {journey.case.form}; SHA-256 " in flat
  assert "differ from the published dataset" in flat
  assert ("table 2 of the paper" in flat) == ("oulu" not in journey.case.layout)
  assert "Next: python -m fer_jax.main --config=" in text


def test_faces_that_are_not_found_are_cut_out_at_the_fixed_place_and_a_note_says_so(journey):
  flat = " ".join(journey.printed["prepare"].split())
  count = journey.case.pictures
  assert (f"no face was found in {count} of {count} images: fixed square used instead" in flat) != journey.case.cropped


def test_the_audit_counts_the_pictures_and_writes_its_page(journey):
  content = json.loads((journey.audits / "audit.json").read_text())
  assert content["dataset"] == journey.case.dataset
  assert (journey.audits / "index.html").is_file()
  assert f"Page: {journey.audits / 'index.html'}" in journey.printed["audit"]


def test_nobody_is_in_training_and_test(journey):
  folds = json.loads((journey.audits / "folds" / "audit.json").read_text())["folds"]
  assert len(folds) == PEOPLE
  for fold in folds:
    assert (fold["subject"], fold["group"], fold["image"]) == (0, 0, 0)
  splits = journey.read("splits.json")
  assert (splits["by"], splits["count"]) == ("subjects", PEOPLE)
  assert sorted(set(splits["fold"])) == list(range(PEOPLE))


def test_training_tests_one_person_and_writes_what_a_run_writes(journey):
  result = journey.read("result.json")
  assert result["dataset"] == journey.case.dataset
  assert result["steps"] == STEPS
  assert sum(map(sum, result["confusion_matrix"])) == journey.case.pictures // PEOPLE
  assert len(result["confusion_matrix"]) == len(CLASSES)
  for name in ("config.json", "metrics.jsonl", "checkpoints"):
    assert (journey.workdir / name).exists()
  assert journey.printed["train"].splitlines()[-1] == f"report: {journey.workdir / 'report' / 'index.html'}"


def test_the_report_shows_the_dataset_and_its_classes(journey):
  page = journey.workdir / "report" / "index.html"
  assert journey.printed["report"].strip() == str(page)
  text = page.read_text()
  assert journey.case.dataset in text
  for name in CLASSES:
    assert name in text
