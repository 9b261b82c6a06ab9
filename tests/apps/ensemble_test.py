"""Averages of finished runs: figures against NumPy, choices by validation, and what is refused."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fer_jax.apps import tables
from fer_jax.apps.ensemble import forward_selection, main, write_ensemble
from fer_jax.runtime.errors import UserError, run

CLASSES = ["happy", "sad", "surprise"]
TEST, VALIDATION = 40, 30
LABEL = {"test": np.arange(TEST, dtype=np.int32) % 3, "validation": np.arange(VALIDATION, dtype=np.int32) % 3}
SEEN = np.arange(TEST) < 4


def answers(split: str, seed: int, skill: float) -> np.ndarray:
  """Probabilities that lean towards the label, the more the greater the skill."""
  random = np.random.default_rng([seed, len(split)])
  right = np.eye(3)[LABEL[split]]
  found = skill * right + (1 - skill) * random.dirichlet(np.ones(3), size=len(right))
  return (found / found.sum(1, keepdims=True)).astype(np.float32)


def write_run(workdir: Path, seed: int, skill: float = 0.35, protocols: Sequence[str] = ("single", "flip")) -> None:
  """Writes what is read of a finished training."""
  workdir.mkdir(parents=True)
  result = {
    "accuracy": 0.5,
    "class_names": CLASSES,
    "commit": f"{seed:012x}",
    "config": "configs/ca_resnet.py:small",
    "dataset": "fer2013",
    "device": "gpu: H200",
    "parameters": 1000,
    "seconds": 10.0 + seed,
    "seeds": [seed],
    "steps": 200,
  }
  (workdir / "result.json").write_text(json.dumps(result))
  (workdir / "metrics.jsonl").write_text("")
  found = {
    f"{split}_{protocol}": answers(split, seed + 100 * number, skill)
    for number, protocol in enumerate(protocols)
    for split in LABEL
  }
  np.savez(
    workdir / "predictions.npz",
    index=np.arange(TEST) + VALIDATION,
    label=LABEL["test"],
    probability=found["test_single"],
    seen=SEEN & (np.arange(TEST) % 2 == seed % 2),
    validation_index=np.arange(VALIDATION),
    validation_label=LABEL["validation"],
    **found,
  )


def change(workdir: Path, **changes: Any) -> None:
  """Puts other values into a run's result.json; None takes a key away."""
  path = workdir / "result.json"
  record = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def change_arrays(workdir: Path, **changes: Any) -> None:
  with np.load(workdir / "predictions.npz") as file:
    found = dict(file) | changes
  np.savez(workdir / "predictions.npz", **{key: value for key, value in found.items() if value is not None})


def mean_of(seeds: Sequence[int], split: str, skill: float = 0.35) -> np.ndarray:
  return np.mean([answers(split, seed, skill).astype(np.float64) for seed in seeds], axis=0)


def loss(probability: np.ndarray, split: str) -> float:
  return float(-np.log([row[true] for row, true in zip(probability, LABEL[split], strict=True)]).mean())


def accuracy(probability: np.ndarray, split: str) -> float:
  return float(np.mean(probability.argmax(1) == LABEL[split]))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  """Five runs, named 0 to 4 by their seeds."""
  for seed in range(5):
    write_run(tmp_path / str(seed), seed)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def runs(seeds: Sequence[int]) -> list[Path]:
  return [Path(str(seed)) for seed in seeds]


class TestAverage:
  def test_every_figure_is_that_of_the_mean_probability(self, place: Path) -> None:
    main(["--out=out.json", "--views=single", "0", "1", "2"])
    record = json.loads((place / "out.json").read_text())
    mean, label = mean_of([0, 1, 2], "test"), LABEL["test"]
    assert record["accuracy"] == accuracy(mean, "test")
    assert record["accuracy"] not in (0, 1)
    assert record["loss"] == pytest.approx(loss(mean, "test"))
    assert record["confusion_matrix"] == confusion_matrix(label, mean.argmax(1)).tolist()
    scores = np.transpose(precision_recall_fscore_support(label, mean.argmax(1)))
    for row, name, expected in zip(record["per_class"], CLASSES, scores, strict=True):
      assert [row[key] for key in ("class", "precision", "recall", "f1", "support")] == [
        *(name, *(pytest.approx(value) for value in expected))
      ]
    assert record["validation"] == {"accuracy": accuracy(mean_of([0, 1, 2], "validation"), "validation"), "step": None}
    assert [member["name"] for member in record["members"]] == ["0", "1", "2"]
    for seed, member in enumerate(record["members"]):
      for split in LABEL:
        assert member[split] == accuracy(answers(split, seed, 0.35), split)
      assert member["weight"] == pytest.approx(1 / 3)

  def test_an_image_counts_as_seen_where_any_network_has_seen_it(self, place: Path) -> None:
    fresh, right = ~SEEN, mean_of([0, 1], "test").argmax(1) == LABEL["test"]
    found = write_ensemble(runs([0, 1]), place / "out.json", "single")["deduplicated"]
    assert found == {"accuracy": pytest.approx(right[fresh].mean()), "images": 36, "seen": 4}
    assert write_ensemble(runs([0, 2]), place / "out.json")["deduplicated"]["seen"] == 2
    change_arrays(place / "0", seen=np.ones(TEST, bool))
    found = write_ensemble(runs([0, 1]), place / "out.json")["deduplicated"]
    assert found == {"accuracy": None, "images": 0, "seen": TEST}

  def test_the_record_says_where_it_comes_from(self, place: Path) -> None:
    change(place / "3", config="configs/ca_resnet.py:best", device="cpu")
    record = write_ensemble(runs([1, 3]), place / "out.json", choose="1")
    assert json.loads((place / "out.json").read_text()) == record
    assert record["config"] == (
      "apps.ensemble --views=flip --choose=1 configs/ca_resnet.py:small configs/ca_resnet.py:best"
    )
    # What was trained to be chosen from has cost its time, too; what is used has its parameters and its seed.
    assert (record["seconds"], record["steps"], record["parameters"]) == (24.0, 400, 1000)
    used = [member for member in record["members"] if member["weight"]]
    assert record["seeds"] == used[0]["seeds"]
    assert record["validation"]["accuracy"] == used[0]["validation"]
    assert record["device"] == "gpu: H200, cpu"
    assert record["commits"] == [f"{seed:012x}" for seed in (1, 3)]
    assert record["commit"] and record["versions"]["numpy"] == np.__version__
    assert (record["dataset"], record["class_names"]) == ("fer2013", CLASSES)

  def test_the_tables_show_it_as_a_run(self, place: Path) -> None:
    record = write_ensemble(runs([0, 1]), place / "results" / "both.json")
    page = tables.render(
      "<!-- results:accuracy rows=both -->\n<!-- /results -->", tables.load_results(place / "results")
    )
    (row,) = (line for line in page.splitlines() if "both |" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["both", "`apps.ensemble --views=flip configs/ca_resnet.py:small`", "fer2013"]
    assert cells[3].startswith(f"{100 * record['accuracy']:.2f} % (")
    assert cells[4:7] == ["21", "400", "gpu: H200"]

  def test_the_members_and_the_ensemble_are_printed(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out=out.json", "--choose=1", "--views=single", "0", "1"])
    record = json.loads((place / "out.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["network", "weight", "validation", "test"]
    for line, member in zip(lines[1:3], record["members"], strict=True):
      weight = "1.00" if member["weight"] else "-"
      shares = [f"{100 * member[split]:.2f} %" for split in ("validation", "test")]
      assert line.split() == [member["name"], weight, *" ".join(shares).split()]
    assert lines[3].split()[0] == "ensemble"
    assert f"{100 * record['accuracy']:.2f} %" in lines[3]
    assert "without the 2 test images that also appear in training" in lines[4]
    assert lines[5] == "Written: out.json"
    assert len({len(line) for line in lines[:4]}) == 1


class TestViews:
  def test_the_largest_that_all_have_is_read(self, place: Path) -> None:
    write_run(place / "more", 5, protocols=("single", "flip", "ten_crop"))
    record = write_ensemble([Path("0"), Path("more")], place / "out.json")
    assert record["protocol"] == "flip"
    both = (answers("test", 100, 0.35).astype(np.float64) + answers("test", 105, 0.35)) / 2
    assert record["accuracy"] == accuracy(both, "test")
    assert write_ensemble([Path("more")], place / "out.json")["protocol"] == "ten_crop"

  def test_those_that_all_have_are_set_beside_each_other(self, place: Path) -> None:
    record = write_ensemble(runs([0, 1]), place / "out.json", "single")
    assert list(record["views"]) == ["single", "flip"]
    for protocol, offset in (("single", 0), ("flip", 100)):
      seeds = [offset, offset + 1]
      right = mean_of(seeds, "test").argmax(1) == LABEL["test"]
      assert record["views"][protocol] == {
        "validation": accuracy(mean_of(seeds, "validation"), "validation"),
        "test": pytest.approx(right.mean()),
        "deduplicated": pytest.approx(right[~SEEN].mean()),
        "loss": pytest.approx(loss(mean_of(seeds, "test"), "test")),
      }
    assert record["accuracy"] == record["views"]["single"]["test"]

  def test_of_one_alone_there_is_nothing_to_set(self, place: Path) -> None:
    write_run(place / "one", 6, protocols=("single",))
    record = write_ensemble([Path("0"), Path("one")], place / "out.json")
    assert (record["protocol"], record["views"]) == ("single", {})


def _greedy(networks: Sequence[np.ndarray], label: np.ndarray, rounds: int) -> list[int]:
  """The forward selection as the paper says it: every candidate's mean made anew."""

  def merit(taken: Sequence[int]) -> tuple[float, float]:
    mean = sum(networks[number] for number in taken) / len(taken)
    share = sum(int(np.argmax(row) == true) for row, true in zip(mean, label, strict=True)) / len(label)
    # Rounded, or else the order in which floats are added would decide between equals.
    return share, round(float(np.mean([np.log(row[true]) for row, true in zip(mean, label, strict=True)])), 9)

  bags: list[list[int]] = [[]]
  for _ in range(rounds):
    tried = [[*bags[-1], number] for number in range(len(networks))]
    bags.append(max(tried, key=merit))
  return max(bags[1:], key=merit)


class TestChoice:
  @pytest.mark.parametrize("seed", range(4))
  def test_the_forward_selection_is_caruana_s(self, seed: int) -> None:
    networks = [answers("validation", 10 * seed + number, 0.3).astype(np.float64) for number in range(6)]
    found = forward_selection(networks, LABEL["validation"], rounds=12)
    assert found == _greedy(networks, LABEL["validation"], 12)

  def test_a_network_may_be_taken_twice(self) -> None:
    # Each alone is right once, and so is their mean; two of the first and one of the second are right twice.
    first, second = np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([[0.0, 1.0], [0.1, 0.9]])
    assert forward_selection([first, second], np.array([0, 1]), rounds=3) == [0, 0, 1]

  def test_the_best_beginning_is_kept(self) -> None:
    right, wrong = np.array([[0.75, 0.25]]), np.array([[0.25, 0.75]])
    assert forward_selection([wrong, right], np.array([0]), rounds=4) == [1]

  def test_best_weighs_the_networks_by_how_often_each_is_taken(self, place: Path) -> None:
    record = write_ensemble(runs(range(5)), place / "out.json", "single", "best")
    networks = [answers("validation", seed, 0.35).astype(np.float64) for seed in range(5)]
    taken = _greedy(networks, LABEL["validation"], 50)
    assert [m["weight"] for m in record["members"]] == pytest.approx([taken.count(k) / len(taken) for k in range(5)])
    assert record["accuracy"] == accuracy(mean_of(taken, "test"), "test")
    assert record["validation"]["accuracy"] == accuracy(mean_of(taken, "validation"), "validation")
    assert record["views"]["flip"]["loss"] == pytest.approx(loss(mean_of([100 + k for k in taken], "test"), "test"))
    assert record["validation"]["accuracy"] >= max(member["validation"] for member in record["members"])

  def test_a_number_takes_those_that_do_best_on_validation(self, place: Path) -> None:
    for seed in (0, 3):
      shutil.rmtree(place / str(seed))
      write_run(place / str(seed), seed, skill=0.45)
    record = write_ensemble(runs(range(5)), place / "out.json", "single", "2")
    assert [bool(member["weight"]) for member in record["members"]] == [True, False, False, True, False]
    assert record["seeds"] == [0, 3]
    assert record["accuracy"] == accuracy(mean_of([0, 3], "test", 0.45), "test")

  def test_of_equal_accuracies_the_lower_loss_is_taken(self, place: Path) -> None:
    blunt = answers("validation", 1, 0.35)
    sharp = blunt**2 / np.sum(blunt**2, axis=1, keepdims=True)
    assert loss(sharp, "validation") < loss(blunt, "validation")
    for seed, of in ((2, blunt), (3, sharp)):
      change_arrays(place / str(seed), validation_single=of)
    record = write_ensemble(runs([2, 3]), place / "out.json", "single", "1")
    first, second = record["members"]
    assert first["validation"] == second["validation"]
    assert (first["weight"], second["weight"]) == (0, 1)

  @pytest.mark.parametrize("choose", ["2", "best"])
  def test_test_rows_decide_nothing(self, place: Path, choose: str) -> None:
    before = write_ensemble(runs(range(5)), place / "out.json", choose=choose)["members"]
    for seed in range(5):
      perfect = np.eye(3, dtype=np.float32)[LABEL["test"]]
      change_arrays(place / str(seed), test_flip=perfect if seed % 2 else 1 - perfect)
    after = write_ensemble(runs(range(5)), place / "out.json", choose=choose)["members"]
    assert [member["weight"] for member in before] == [member["weight"] for member in after]
    assert before != after


class TestSeveralTrainings:
  @pytest.fixture
  def several(self, place: Path) -> Path:
    write_run(place / "several", 9)
    for seed in (1, 2):
      shutil.copytree(place / str(seed), place / "several" / "replicas" / f"seed_{seed}")
    change(place / "several", seconds=15.0, accuracy=0.4)
    return place / "several"

  def test_a_run_counts_as_all_of_them(self, place: Path, several: Path) -> None:
    record = write_ensemble([Path("several"), Path("0")], place / "out.json", "single")
    assert [member["name"] for member in record["members"]] == ["several/seed_1", "several/seed_2", "0"]
    assert record["accuracy"] == accuracy(mean_of([0, 1, 2], "test"), "test")
    assert record["seeds"] == [0, 1, 2]
    assert record["seconds"] == 25.0  # side by side they share their time

  def test_of_one_training_and_its_run_both_cannot_be_given(self, place: Path, several: Path) -> None:
    with pytest.raises(UserError, match="seed_2: given twice"):
      write_ensemble([several, several / "replicas" / "seed_2"], place / "out.json")

  def test_one_that_has_not_ended_is_named(self, place: Path, several: Path) -> None:
    (several / "result.json").unlink()
    with pytest.raises(UserError, match="several: has no result.json, so no run has finished there"):
      write_ensemble([several], place / "out.json")

  def test_folds_cannot_be_averaged(self, place: Path, several: Path) -> None:
    change_arrays(several / "replicas" / "seed_2", index=np.arange(TEST) + 500)
    with pytest.raises(UserError, match="seed_2: expected the test images of .*seed_1, found others; .* not folds"):
      write_ensemble([several], place / "out.json")

  def test_equal_last_parts_are_told_apart(self, place: Path) -> None:
    shutil.copytree(place / "1", place / "there" / "0")
    record = write_ensemble([Path("0"), Path("there/0")], place / "out.json")
    assert [member["name"] for member in record["members"]] == ["0", "there/0"]


Break = Callable[[Path], None]
REFUSED: dict[str, tuple[Break, list[str], str]] = {
  "no run": (shutil.rmtree, [], "1: has no result.json, so no run has finished there"),
  "another file": (
    lambda run: change(run, seconds=None, steps=None),
    [],
    "1/result.json: expected the result of a run, but it has no seconds, steps",
  ),
  "no predictions": (lambda run: (run / "predictions.npz").unlink(), [], "1/predictions.npz: expected a run's pred"),
  "damaged": (lambda run: (run / "predictions.npz").write_bytes(b"PK\3\4 no more"), [], "cannot read them"),
  "older version": (
    lambda run: change_arrays(run, seen=None, validation_single=None),
    [],
    "1/predictions.npz: has no seen, validation_single: written by an older version; train the run again",
  ),
  "dataset": (lambda run: change(run, dataset="kdef"), [], "1: expected the dataset of 0, fer2013, found kdef"),
  "classes": (lambda run: change(run, class_names=["a", "b", "c"]), [], "1: expected the class_names of 0, "),
  "test labels": (lambda run: change_arrays(run, label=LABEL["test"][::-1]), [], "1: expected the test labels of 0"),
  "validation": (
    lambda run: change_arrays(run, validation_index=np.arange(VALIDATION) + 1),
    [],
    "1: expected the validation images of 0, found others",
  ),
  "validation labels": (
    lambda run: change_arrays(run, validation_label=LABEL["validation"][::-1]),
    [],
    "1: expected the validation labels of 0",
  ),
  "views": (
    lambda run: change_arrays(run, test_flip=None),
    ["--views=flip"],
    "1: was not evaluated with --views=flip, only with single; give another --views, or train it with --config.views",
  ),
  "too few": (lambda run: None, ["--choose=3"], "--choose=3: expected at most 2, the networks given"),
  "no number": (lambda run: None, ["--choose=0"], "--choose=0: expected a number of networks, 1 or more, or best"),
  "a word": (lambda run: None, ["--choose=worst"], "--choose=worst: expected a number of networks"),
  "twice": (lambda run: None, ["0/"], "0: given twice; give each run once"),
  "twice by another way": (lambda run: None, ["1/../0"], "1/../0: given twice; give each run once"),
  "own result": (lambda run: None, ["--out=1/result.json"], "--out=1/result.json: expected a new file"),
  "a folder": (lambda run: run.with_name("sub").mkdir(), ["--out=sub"], "sub: cannot be written"),
  "under a file": (lambda run: None, ["--out=0/result.json/x.json"], "x.json: cannot be written"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_averaged_is_refused_in_one_line(
  place: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
  harm, flags, message = REFUSED[case]
  harm(place / "1")
  files = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
  with pytest.raises(SystemExit) as ended:
    run(lambda: main(["--out=out.json", "0", "1", *flags]))
  said = capsys.readouterr()
  assert ended.value.code == 2
  assert message in said.err
  assert said.err.startswith("error: ")
  assert said.err.count("\n") == 1
  assert said.out == ""
  assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == files


def test_without_validation_images_nothing_is_compared(place: Path) -> None:
  empty = {"validation_index": np.arange(0), "validation_label": np.arange(0, dtype=np.int32)}
  change_arrays(place / "0", validation_single=np.zeros((0, 3)), validation_flip=np.zeros((0, 3)), **empty)
  with pytest.raises(UserError, match="0: has no validation images"):
    write_ensemble([place / "0"], place / "out.json")
