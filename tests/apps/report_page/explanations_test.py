"""Tests of the report with explanations: heat maps of the predicted and the true class next to each mistake."""

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
from tests.apps.fake_run import NAMES, localizing_model, write_folds, write_run
from tests.apps.html_page import Page

CELL = 8  # pixels of one of the 6x6 positions of the fake networks' feature maps


@pytest.fixture
def loaded_folders(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
  """Replaces trained networks by fake ones, with evidence in row k for fold k; returns the list of loaded folders."""
  loaded: list[Path] = []

  def load(folder: Path) -> trained_model.TrainedModel:
    loaded.append(folder)
    return localizing_model(int(re.sub(r"\D", "", folder.name) or 3))

  monkeypatch.setattr(trained_model, "load", load)
  return loaded


def mistake_images(page: Path) -> list[tuple[str, np.ndarray]]:
  """Returns the alternative text and the RGB pixels of each image among the mistakes."""
  section = re.search(r'<section id="mistakes">.*?</section>', page.read_text(), flags=re.DOTALL)
  assert section
  items = re.findall(r"<li>.*?</li>", section[0])
  found = re.findall(r'src="data:image/png;base64,([^"]*)"[^>]*alt="([^"]*)"', "".join(items))
  return [
    (alternative, cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
    for data, alternative in found
  ]


def hottest_cell(image: np.ndarray) -> tuple[int, int] | None:
  """Returns the row and column of the most saturated of 6x6 cells; None for a grey image."""
  saturation = image.max(axis=-1).astype(int) - image.min(axis=-1)
  cells = saturation.reshape(6, CELL, 6, CELL).sum(axis=(1, 3))
  row, column = np.unravel_index(cells.argmax(), cells.shape)
  return (int(row), int(column)) if cells.any() else None


def expected_cell(row: int, label: int) -> tuple[int, int] | None:
  """Returns the position of a class's evidence in a fake network; None for the last class, which has none."""
  return (row, label) if label < 6 else None


def check_explanations(page: Path, saved: dict[str, np.ndarray], row_of: Callable[[int], int]) -> None:
  """Checks that each mistake is between heat maps of its predicted and true class, of the replica that made it."""
  images = mistake_images(page)
  assert len(images) == 3 * len(saved["worst"])
  for i, position in enumerate(saved["worst"].tolist()):
    true, predicted = int(saved["label"][position]), int(saved["probability"][position].argmax())
    (left, predicted_map), (middle, face), (right, true_map) = images[3 * i : 3 * i + 3]
    assert left == f"evidence for {NAMES[predicted]}"
    assert right == f"evidence for {NAMES[true]}"
    assert middle == f"{NAMES[true]} \N{RIGHTWARDS ARROW} {NAMES[predicted]}"
    np.testing.assert_array_equal(face[..., :1], saved["worst_image"][i])
    assert hottest_cell(predicted_map) == expected_cell(row_of(position), predicted)
    assert hottest_cell(true_map) == expected_cell(row_of(position), true)


def predictions(workdir: Path) -> dict[str, np.ndarray]:
  with np.load(workdir / "predictions.npz") as file:
    return dict(file)


def test_mistakes_have_heat_maps_only_with_explain(workdir: Path, loaded_folders: list[Path]) -> None:
  write_run(workdir)
  page = workdir / "report" / "index.html"
  main([f"--workdir={workdir}"])
  assert loaded_folders == []
  assert "evidence for" not in page.read_text()
  assert len(mistake_images(page)) == 24
  main([f"--workdir={workdir}", "--explain"])
  assert loaded_folders == [workdir]
  check_explanations(page, predictions(workdir), lambda _: 3)
  parsed = Page(page)  # checks that the elements are nested
  assert REFERENCE in parsed.text
  assert "strongest position" in parsed.text
  assert "extension of the paper's single layer" in parsed.text


def test_mistake_is_explained_by_the_replica_that_made_it(workdir: Path, loaded_folders: list[Path]) -> None:
  result = write_folds(workdir, best=(0.55, 0.6))
  # The order of the replicas differs from that of the folders, as for fold_10 and fold_9; both made mistakes.
  result["runs"].reverse()
  (workdir / "result.json").write_text(json.dumps(result))
  saved = predictions(workdir)
  saved["replica"][saved["worst"]] = np.arange(len(saved["worst"])) % 2
  np.savez(workdir / "predictions.npz", **saved)
  page = write_report(workdir, explained=True)
  assert sorted(folder.name for folder in loaded_folders) == ["fold_0", "fold_1"]
  check_explanations(page, saved, lambda position: 1 - int(saved["replica"][position]))
  for number in range(2):
    own = workdir / "replicas" / f"fold_{number}"
    check_explanations(own / "report" / "index.html", predictions(own), lambda _, number=number: number)  # type: ignore[misc]


def test_finished_replicas_are_explained_while_others_run(workdir: Path, loaded_folders: list[Path]) -> None:
  write_folds(workdir, best=(0.55, 0.6), finished=1)
  write_report(workdir, explained=True)
  own = workdir / "replicas" / "fold_0"
  assert loaded_folders == [own]
  check_explanations(own / "report" / "index.html", predictions(own), lambda _: 0)
  assert "evidence for" not in (workdir / "report" / "index.html").read_text()


def test_rejects_a_run_with_a_missing_replica_folder(workdir: Path, loaded_folders: list[Path]) -> None:
  write_folds(workdir)
  shutil.rmtree(workdir / "replicas" / "fold_2")
  with pytest.raises(UserError, match=r"replicas: expected the folders of all replicas, but fold_2 is missing"):
    write_report(workdir, explained=True)
  assert not list(workdir.rglob("index.html"))


def test_rejects_predictions_of_another_run(workdir: Path, loaded_folders: list[Path]) -> None:
  write_run(workdir)
  saved = predictions(workdir)
  np.savez(workdir / "predictions.npz", **{**saved, "worst_image": saved["worst_image"][:, :40]})
  with pytest.raises(
    UserError, match=r"run: the checkpoint and predictions.npz are not from the same run \(faces are"
  ) as caught:
    write_report(workdir, explained=True)
  assert "\n" not in str(caught.value)
  assert not (workdir / "report").exists()


@pytest.mark.parametrize("folder", [".", "replicas/fold_1"])
def test_rejects_a_finished_run_without_predictions(workdir: Path, loaded_folders: list[Path], folder: str) -> None:
  write_folds(workdir)
  missing = workdir / folder / "predictions.npz"
  missing.unlink()
  with pytest.raises(UserError, match=re.escape(f"{missing}: expected")) as caught:
    main([f"--workdir={workdir}", "--explain"])
  assert "\n" not in str(caught.value)
  assert loaded_folders == [] and not list(workdir.rglob("index.html"))


@pytest.mark.parametrize("finished", [True, False])
def test_rejects_a_run_without_checkpoint_and_writes_no_page(workdir: Path, finished: bool) -> None:
  write_folds(workdir / "folds", finished=3 if finished else 0)
  write_run(workdir / "one", finished=finished)
  for name in ("folds", "one"):
    with pytest.raises(UserError, match="checkpoint" if finished else "no run has finished") as caught:
      write_report(workdir / name, explained=True)
    assert "\n" not in str(caught.value)
  assert not list(workdir.rglob("index.html"))
