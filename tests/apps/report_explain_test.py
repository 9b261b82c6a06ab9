"""The report with explanations: each mistake between what speaks for the class said and for the true one."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_jax.apps.report import main, write_report
from fer_jax.inference import trained_model
from fer_jax.inference.saliency import REFERENCE
from fer_jax.runtime.errors import UserError

from .fake_run import NAMES, seer, write_folds, write_run
from .report_test import Page

PLACE = 8  # pixels of one of the 6x6 places that the stand-ins see


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
  return tmp_path / "run"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
  """Puts stand-ins in the place of trained networks, fold k's seeing row k; returns the folders that were loaded."""
  loaded: list[Path] = []

  def load(folder: Path) -> trained_model.TrainedModel:
    loaded.append(folder)
    return seer(int(re.sub(r"\D", "", folder.name) or 3))

  monkeypatch.setattr(trained_model, "load", load)
  return loaded


def pictures(page: Path) -> list[tuple[str, np.ndarray]]:
  """The text and the pixels, RGB, of each picture among the mistakes."""
  section = re.search(r'<section id="mistakes">.*?</section>', page.read_text(), flags=re.DOTALL)
  assert section
  images = re.findall(r"<li>.*?</li>", section[0])
  found = re.findall(r'src="data:image/png;base64,([^"]*)"[^>]*alt="([^"]*)"', "".join(images))
  return [
    (alternative, cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
    for data, alternative in found
  ]


def hot(picture: np.ndarray) -> tuple[int, int] | None:
  """The row and the column of the place with the most colour; None where there is none."""
  colour = picture.max(axis=-1).astype(int) - picture.min(axis=-1)
  places = colour.reshape(6, PLACE, 6, PLACE).sum(axis=(1, 3))
  row, column = np.unravel_index(places.argmax(), places.shape)
  return (int(row), int(column)) if places.any() else None


def expected(row: int, label: int) -> tuple[int, int] | None:
  return (row, label) if label < 6 else None


def check(page: Path, saved: dict[str, np.ndarray], row_of: Callable[[int], int]) -> None:
  """Sees that each mistake stands between the maps of the class said and of the true one, of its own training."""
  shown = pictures(page)
  assert len(shown) == 3 * len(saved["worst"])
  for i, position in enumerate(saved["worst"].tolist()):
    true, said = int(saved["label"][position]), int(saved["probability"][position].argmax())
    (left, predicted), (middle, face), (right, truth) = shown[3 * i : 3 * i + 3]
    assert left == f"evidence for {NAMES[said]}"
    assert right == f"evidence for {NAMES[true]}"
    assert middle == f"{NAMES[true]} \N{RIGHTWARDS ARROW} {NAMES[said]}"
    np.testing.assert_array_equal(face[..., :1], saved["worst_image"][i])
    assert hot(predicted) == expected(row_of(position), said)
    assert hot(truth) == expected(row_of(position), true)


def predictions(workdir: Path) -> dict[str, np.ndarray]:
  with np.load(workdir / "predictions.npz") as file:
    return dict(file)


def test_each_mistake_stands_between_its_maps_if_asked_for(workdir: Path, loads: list[Path]) -> None:
  write_run(workdir)
  page = workdir / "report" / "index.html"
  main([f"--workdir={workdir}"])
  assert loads == []
  assert "evidence for" not in page.read_text()
  assert len(pictures(page)) == 24
  main([f"--workdir={workdir}", "--explain"])
  assert loads == [workdir]
  check(page, predictions(workdir), lambda _: 3)
  read = Page(page)  # which sees that its elements nest
  assert REFERENCE in read.text
  assert "strongest position" in read.text
  assert "extension of the paper's single layer" in read.text


def test_a_mistake_is_explained_by_its_own_training(workdir: Path, loads: list[Path]) -> None:
  result = write_folds(workdir, best=(0.55, 0.6))
  # In an order that is not that of the folders, as with fold_10 and fold_9; and mistakes of both trainings.
  result["runs"].reverse()
  (workdir / "result.json").write_text(json.dumps(result))
  saved = predictions(workdir)
  saved["replica"][saved["worst"]] = np.arange(len(saved["worst"])) % 2
  np.savez(workdir / "predictions.npz", **saved)
  page = write_report(workdir, explained=True)
  assert sorted(folder.name for folder in loads) == ["fold_0", "fold_1"]
  check(page, saved, lambda position: 1 - int(saved["replica"][position]))
  for number in range(2):
    own = workdir / "replicas" / f"fold_{number}"
    check(own / "report" / "index.html", predictions(own), lambda _, number=number: number)  # type: ignore[misc]


def test_trainings_that_have_ended_are_explained_before_the_others_do(workdir: Path, loads: list[Path]) -> None:
  write_folds(workdir, best=(0.55, 0.6), ended=1)
  write_report(workdir, explained=True)
  own = workdir / "replicas" / "fold_0"
  assert loads == [own]
  check(own / "report" / "index.html", predictions(own), lambda _: 0)
  assert "evidence for" not in (workdir / "report" / "index.html").read_text()


def test_a_training_whose_folder_is_gone_is_named(workdir: Path, loads: list[Path]) -> None:
  write_folds(workdir)
  shutil.rmtree(workdir / "replicas" / "fold_2")
  with pytest.raises(UserError, match=r"replicas: expected the folders of all replicas, but fold_2 is missing"):
    write_report(workdir, explained=True)
  assert not list(workdir.rglob("index.html"))


def test_predictions_of_another_run_are_refused(workdir: Path, loads: list[Path]) -> None:
  write_run(workdir)
  saved = predictions(workdir)
  np.savez(workdir / "predictions.npz", **{**saved, "worst_image": saved["worst_image"][:, :40]})
  with pytest.raises(
    UserError, match=r"run: the checkpoint and predictions.npz are not from the same run \(faces are"
  ) as caught:
    write_report(workdir, explained=True)
  assert "\n" not in str(caught.value)
  assert not (workdir / "report").exists()


@pytest.mark.parametrize("where", [".", "replicas/fold_1"])
def test_a_finished_run_without_its_predictions_cannot_be_explained(
  workdir: Path, loads: list[Path], where: str
) -> None:
  write_folds(workdir)
  missing = workdir / where / "predictions.npz"
  missing.unlink()
  with pytest.raises(UserError, match=re.escape(f"{missing}: expected")) as caught:
    main([f"--workdir={workdir}", "--explain"])
  assert "\n" not in str(caught.value)
  assert loads == [] and not list(workdir.rglob("index.html"))


@pytest.mark.parametrize("ended", [True, False])
def test_a_run_without_a_checkpoint_is_refused_and_no_page_written(workdir: Path, ended: bool) -> None:
  write_folds(workdir / "folds", ended=3 if ended else 0)
  write_run(workdir / "one", ended=ended)
  for name in ("folds", "one"):
    with pytest.raises(UserError, match="checkpoint" if ended else "no run has finished") as caught:
      write_report(workdir / name, explained=True)
    assert "\n" not in str(caught.value)
  assert not list(workdir.rglob("index.html"))
