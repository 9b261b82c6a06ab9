"""Averages of finished runs: values against NumPy, choices by validation, and rejected runs."""

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
from fer_jax.training.run_result import Deduplicated, Validation, ViewResult, read_result
from tests.fake_results import run_result

CLASSES = ("happy", "sad", "surprise")
TEST, VALIDATION = 40, 30
LABEL = {"test": np.arange(TEST, dtype=np.int32) % 3, "validation": np.arange(VALIDATION, dtype=np.int32) % 3}
SEEN = np.arange(TEST) < 4


def probabilities(split: str, seed: int, skill: float) -> np.ndarray:
  """Returns random probabilities that are closer to the label for a higher skill."""
  random = np.random.default_rng([seed, len(split)])
  right = np.eye(3)[LABEL[split]]
  found = skill * right + (1 - skill) * random.dirichlet(np.ones(3), size=len(right))
  return (found / found.sum(1, keepdims=True)).astype(np.float32)


def write_run(workdir: Path, seed: int, skill: float = 0.35, protocols: Sequence[str] = ("single", "flip")) -> None:
  """Writes the files of a finished run that an ensemble reads."""
  workdir.mkdir(parents=True)
  result = run_result(
    accuracy=0.5,
    class_names=CLASSES,
    commit=f"{seed:012x}",
    config="configs/ca_resnet.py:small",
    device="gpu: H200",
    seconds=10.0 + seed,
    seeds=(seed,),
    steps=200,
  )
  (workdir / "result.json").write_text(json.dumps(result.to_json()))
  (workdir / "metrics.jsonl").write_text("")
  found = {
    f"{split}_{protocol}": probabilities(split, seed + 100 * number, skill)
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
  """Changes values in the result.json of a run; None removes a key."""
  path = workdir / "result.json"
  record = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def change_arrays(workdir: Path, **changes: Any) -> None:
  """Changes arrays in the predictions.npz of a run; None removes one."""
  with np.load(workdir / "predictions.npz") as file:
    found = dict(file) | changes
  np.savez(workdir / "predictions.npz", **{key: value for key, value in found.items() if value is not None})


def mean_of(seeds: Sequence[int], split: str, skill: float = 0.35) -> np.ndarray:
  return np.mean([probabilities(split, seed, skill).astype(np.float64) for seed in seeds], axis=0)


def loss(probability: np.ndarray, split: str) -> float:
  return float(-np.log([row[true] for row, true in zip(probability, LABEL[split], strict=True)]).mean())


def accuracy(probability: np.ndarray, split: str) -> float:
  return float(np.mean(probability.argmax(1) == LABEL[split]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  """Returns a folder with five runs, named 0 to 4 after their seeds."""
  for seed in range(5):
    write_run(tmp_path / str(seed), seed)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def runs(seeds: Sequence[int]) -> list[Path]:
  return [Path(str(seed)) for seed in seeds]


class TestAverage:
  def test_all_values_are_those_of_the_mean_probability(self, folder: Path) -> None:
    main(["--out=out.json", "--views=single", "0", "1", "2"])
    record = json.loads((folder / "out.json").read_text())
    mean, label = mean_of([0, 1, 2], "test"), LABEL["test"]
    assert record["accuracy"] == accuracy(mean, "test")
    assert record["accuracy"] not in (0, 1)
    assert record["loss"] == pytest.approx(loss(mean, "test"))
    assert record["confusion_matrix"] == confusion_matrix(label, mean.argmax(1)).tolist()
    scores = np.transpose(precision_recall_fscore_support(label, mean.argmax(1)))
    for row, name, expected in zip(record["per_class"], CLASSES, scores, strict=True):
      assert row["class"] == name
      assert [row[key] for key in ("precision", "recall", "f1", "support")] == pytest.approx(expected.tolist())
    assert record["validation"] == {"accuracy": accuracy(mean_of([0, 1, 2], "validation"), "validation"), "step": None}
    assert [network["name"] for network in record["members"]] == ["0", "1", "2"]
    for seed, network in enumerate(record["members"]):
      for split in LABEL:
        assert network[split] == accuracy(probabilities(split, seed, 0.35), split)
      assert network["weight"] == pytest.approx(1 / 3)

  def test_an_image_counts_as_seen_if_it_is_in_the_training_set_of_any_network(self, folder: Path) -> None:
    unseen, right = ~SEEN, mean_of([0, 1], "test").argmax(1) == LABEL["test"]
    found = write_ensemble(runs([0, 1]), folder / "out.json", "single").deduplicated
    assert found == Deduplicated(accuracy=pytest.approx(right[unseen].mean()), images=36, seen=4)
    assert write_ensemble(runs([0, 2]), folder / "out.json").deduplicated.seen == 2
    change_arrays(folder / "0", seen=np.ones(TEST, bool))
    found = write_ensemble(runs([0, 1]), folder / "out.json").deduplicated
    assert found == Deduplicated(accuracy=None, images=0, seen=TEST)

  def test_provenance_of_the_result(self, folder: Path) -> None:
    change(folder / "3", config="configs/ca_resnet.py:best", device="cpu")
    result = write_ensemble(runs([1, 3]), folder / "out.json", choose="1")
    assert json.loads((folder / "out.json").read_text()) == result.to_json()
    assert result.config == "apps.ensemble --views=flip --choose=1 configs/ca_resnet.py:small configs/ca_resnet.py:best"
    # Time and steps include networks that were not chosen; parameters and seeds are those of the chosen ones.
    assert (result.seconds, result.steps, result.parameters) == (24.0, 400, 1000)
    (used,) = (network for network in result.networks if network.weight)
    assert result.seeds == used.seeds
    assert result.validation == Validation(used.validation, None)
    assert result.device == "gpu: H200, cpu"
    assert result.commits == tuple(f"{seed:012x}" for seed in (1, 3))
    assert result.commit and result.versions["numpy"] == np.__version__
    assert (result.dataset, result.class_names) == ("fer2013", CLASSES)

  def test_tables_show_it_as_a_run(self, folder: Path) -> None:
    result = write_ensemble(runs([0, 1]), folder / "results" / "both.json")
    page = tables.render(
      "<!-- results:accuracy rows=both -->\n<!-- /results -->", tables.load_results(folder / "results")
    )
    (row,) = (line for line in page.splitlines() if "both |" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["both", "`apps.ensemble --views=flip configs/ca_resnet.py:small`", "fer2013"]
    assert cells[3].startswith(f"{100 * result.accuracy:.2f} % (")
    assert cells[4:7] == ["21", "400", "gpu: H200"]

  def test_a_result_of_version_1_is_read(self, folder: Path) -> None:
    result = write_ensemble(runs([0, 1]), folder / "out.json")
    new = {"version", "metrics", "measured", "time", "clock", "stopped", "peak_memory_bytes", "notes", "runs"}
    content = {key: value for key, value in result.to_json().items() if key not in new}
    (folder / "old.json").write_text(json.dumps(content))
    assert read_result(folder / "old.json").to_json() == read_result(folder / "out.json").to_json() | {"metrics": {}}

  def test_networks_and_ensemble_are_printed(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out=out.json", "--choose=1", "--views=single", "0", "1"])
    record = json.loads((folder / "out.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["network", "weight", "validation", "test"]
    for line, network in zip(lines[1:3], record["members"], strict=True):
      weight = "1.00" if network["weight"] else "-"
      shares = [f"{100 * network[split]:.2f} %" for split in ("validation", "test")]
      assert line.split() == [network["name"], weight, *" ".join(shares).split()]
    assert lines[3].split()[0] == "ensemble"
    assert f"{100 * record['accuracy']:.2f} %" in lines[3]
    assert "without the 2 test images that also appear in training" in lines[4]
    assert lines[5] == "Written: out.json"
    assert len({len(line) for line in lines[:4]}) == 1


class TestViews:
  def test_the_largest_common_protocol_is_used(self, folder: Path) -> None:
    write_run(folder / "more", 5, protocols=("single", "flip", "ten_crop"))
    result = write_ensemble([Path("0"), Path("more")], folder / "out.json")
    assert result.protocol == "flip"
    both = (probabilities("test", 100, 0.35).astype(np.float64) + probabilities("test", 105, 0.35)) / 2
    assert result.accuracy == accuracy(both, "test")
    assert write_ensemble([Path("more")], folder / "out.json").protocol == "ten_crop"

  def test_all_common_protocols_are_evaluated(self, folder: Path) -> None:
    result = write_ensemble(runs([0, 1]), folder / "out.json", "single")
    assert list(result.views) == ["single", "flip"]
    for protocol, offset in (("single", 0), ("flip", 100)):
      seeds = [offset, offset + 1]
      right = mean_of(seeds, "test").argmax(1) == LABEL["test"]
      assert result.views[protocol] == ViewResult(
        validation=accuracy(mean_of(seeds, "validation"), "validation"),
        test=pytest.approx(right.mean()),
        deduplicated=pytest.approx(right[~SEEN].mean()),
        loss=pytest.approx(loss(mean_of(seeds, "test"), "test")),
      )
    assert result.accuracy == result.views["single"].test

  def test_a_single_common_protocol_is_not_repeated(self, folder: Path) -> None:
    write_run(folder / "one", 6, protocols=("single",))
    result = write_ensemble([Path("0"), Path("one")], folder / "out.json")
    assert (result.protocol, result.views) == ("single", {})


def _greedy(networks: Sequence[np.ndarray], label: np.ndarray, rounds: int) -> list[int]:
  """Returns the forward selection as described in the paper: the mean of every candidate is computed anew."""

  def merit(taken: Sequence[int]) -> tuple[float, float]:
    mean = sum(networks[number] for number in taken) / len(taken)
    share = sum(int(np.argmax(row) == true) for row, true in zip(mean, label, strict=True)) / len(label)
    # Rounded, because equal values summed in a different order differ in the last bits.
    return share, round(float(np.mean([np.log(row[true]) for row, true in zip(mean, label, strict=True)])), 9)

  bags: list[list[int]] = [[]]
  for _ in range(rounds):
    tried = [[*bags[-1], number] for number in range(len(networks))]
    bags.append(max(tried, key=merit))
  return max(bags[1:], key=merit)


class TestChoice:
  @pytest.mark.parametrize("seed", range(4))
  def test_forward_selection_is_that_of_the_paper(self, seed: int) -> None:
    networks = [probabilities("validation", 10 * seed + number, 0.3).astype(np.float64) for number in range(6)]
    found = forward_selection(networks, LABEL["validation"], rounds=12)
    assert found == _greedy(networks, LABEL["validation"], 12)

  def test_a_network_can_be_selected_twice(self) -> None:
    # Each alone and their mean are right once; two of the first and one of the second are right twice.
    first, second = np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([[0.0, 1.0], [0.1, 0.9]])
    assert forward_selection([first, second], np.array([0, 1]), rounds=3) == [0, 0, 1]

  def test_the_best_prefix_is_returned(self) -> None:
    right, wrong = np.array([[0.75, 0.25]]), np.array([[0.25, 0.75]])
    assert forward_selection([wrong, right], np.array([0]), rounds=4) == [1]

  def test_best_weights_networks_by_how_often_they_are_selected(self, folder: Path) -> None:
    result = write_ensemble(runs(range(5)), folder / "out.json", "single", "best")
    networks = [probabilities("validation", seed, 0.35).astype(np.float64) for seed in range(5)]
    taken = _greedy(networks, LABEL["validation"], 50)
    weights = [network.weight for network in result.networks]
    assert weights == pytest.approx([taken.count(k) / len(taken) for k in range(5)])
    assert result.accuracy == accuracy(mean_of(taken, "test"), "test")
    assert result.validation.accuracy == accuracy(mean_of(taken, "validation"), "validation")
    assert result.views["flip"].loss == pytest.approx(loss(mean_of([100 + k for k in taken], "test"), "test"))
    assert result.validation.accuracy >= max(network.validation for network in result.networks)

  def test_a_number_selects_the_best_on_validation(self, folder: Path) -> None:
    for seed in (0, 3):
      shutil.rmtree(folder / str(seed))
      write_run(folder / str(seed), seed, skill=0.45)
    result = write_ensemble(runs(range(5)), folder / "out.json", "single", "2")
    assert [bool(network.weight) for network in result.networks] == [True, False, False, True, False]
    assert result.seeds == (0, 3)
    assert result.accuracy == accuracy(mean_of([0, 3], "test", 0.45), "test")

  def test_equal_accuracies_are_ordered_by_loss(self, folder: Path) -> None:
    blunt = probabilities("validation", 1, 0.35)
    sharp = blunt**2 / np.sum(blunt**2, axis=1, keepdims=True)
    assert loss(sharp, "validation") < loss(blunt, "validation")
    for seed, values in ((2, blunt), (3, sharp)):
      change_arrays(folder / str(seed), validation_single=values)
    first, second = write_ensemble(runs([2, 3]), folder / "out.json", "single", "1").networks
    assert first.validation == second.validation
    assert (first.weight, second.weight) == (0, 1)

  @pytest.mark.parametrize("choose", ["2", "best"])
  def test_the_test_split_does_not_affect_the_choice(self, folder: Path, choose: str) -> None:
    before = write_ensemble(runs(range(5)), folder / "out.json", choose=choose).networks
    for seed in range(5):
      perfect = np.eye(3, dtype=np.float32)[LABEL["test"]]
      change_arrays(folder / str(seed), test_flip=perfect if seed % 2 else 1 - perfect)
    after = write_ensemble(runs(range(5)), folder / "out.json", choose=choose).networks
    assert [network.weight for network in before] == [network.weight for network in after]
    assert before != after


class TestReplicas:
  @pytest.fixture
  def several(self, folder: Path) -> Path:
    write_run(folder / "several", 9)
    for seed in (1, 2):
      shutil.copytree(folder / str(seed), folder / "several" / "replicas" / f"seed_{seed}")
    change(folder / "several", seconds=15.0, accuracy=0.4)
    return folder / "several"

  def test_each_replica_of_a_run_is_one_network(self, folder: Path, several: Path) -> None:
    result = write_ensemble([Path("several"), Path("0")], folder / "out.json", "single")
    assert [network.name for network in result.networks] == ["several/seed_1", "several/seed_2", "0"]
    assert result.accuracy == accuracy(mean_of([0, 1, 2], "test"), "test")
    assert result.seeds == (0, 1, 2)
    assert result.seconds == 25.0  # replicas share the time of their run

  def test_rejects_a_run_together_with_its_replica(self, folder: Path, several: Path) -> None:
    with pytest.raises(UserError, match="seed_2: given twice"):
      write_ensemble([several, several / "replicas" / "seed_2"], folder / "out.json")

  def test_rejects_an_unfinished_run(self, folder: Path, several: Path) -> None:
    (several / "result.json").unlink()
    with pytest.raises(UserError, match="several: has no result.json, so no run has finished there"):
      write_ensemble([several], folder / "out.json")

  def test_rejects_folds(self, folder: Path, several: Path) -> None:
    change_arrays(several / "replicas" / "seed_2", index=np.arange(TEST) + 500)
    with pytest.raises(UserError, match="seed_2: expected the test images of .*seed_1, found others; .* not folds"):
      write_ensemble([several], folder / "out.json")

  def test_runs_with_equal_folder_names_are_named_by_their_path(self, folder: Path) -> None:
    shutil.copytree(folder / "1", folder / "there" / "0")
    result = write_ensemble([Path("0"), Path("there/0")], folder / "out.json")
    assert [network.name for network in result.networks] == ["0", "there/0"]


Change = Callable[[Path], object]
# Case -> change of run 1, further flags, error message.
REJECTED: dict[str, tuple[Change, list[str], str]] = {
  "no run": (shutil.rmtree, [], "1: has no result.json, so no run has finished there"),
  "another file": (
    lambda run: change(run, seconds=None, steps=None),
    [],
    "1/result.json: seconds: missing; finish the run again",
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
  "zero": (lambda run: None, ["--choose=0"], "--choose=0: expected a number of networks, 1 or more, or best"),
  "a word": (lambda run: None, ["--choose=worst"], "--choose=worst: expected a number of networks"),
  "twice": (lambda run: None, ["0/"], "0: given twice; give each run once"),
  "twice by another path": (lambda run: None, ["1/../0"], "1/../0: given twice; give each run once"),
  "own result": (lambda run: None, ["--out=1/result.json"], "--out=1/result.json: expected a new file"),
  "a folder": (lambda run: run.with_name("sub").mkdir(), ["--out=sub"], "sub: cannot be written"),
  "under a file": (lambda run: None, ["--out=0/result.json/x.json"], "x.json: cannot be written"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects_in_one_line_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
  change_run, flags, message = REJECTED[case]
  change_run(folder / "1")
  files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
  with pytest.raises(SystemExit) as ended:
    run(lambda: main(["--out=out.json", "0", "1", *flags]))
  output = capsys.readouterr()
  assert ended.value.code == 2
  assert message in output.err
  assert output.err.startswith("error: ")
  assert output.err.count("\n") == 1
  assert output.out == ""
  assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files


def test_rejects_runs_without_validation_images(folder: Path) -> None:
  empty = {"validation_index": np.arange(0), "validation_label": np.arange(0, dtype=np.int32)}
  change_arrays(folder / "0", validation_single=np.zeros((0, 3)), validation_flip=np.zeros((0, 3)), **empty)
  with pytest.raises(UserError, match="0: has no validation images"):
    write_ensemble([folder / "0"], folder / "out.json")
