"""Gathered results against values calculated by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from fer_jax.apps.sweeps.gather import gather
from fer_jax.apps.sweeps.outputs import read_outputs
from fer_jax.apps.sweeps.sweep_result import ClassRecall, SweepResult, parse_sweep
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.typed_json import as_json

from .conftest import Launch

BENCHMARK = {
  "what": "table1",
  "device": "gpu: H200",
  "versions": {"jax": "0.11.2"},
  "commit": "0123456789ab",
  "config": "configs/hsic.py:demo",
  "rows": [{"name": "one, backprop", "seconds_a_step": 0.125}],
}

OLD_SWEEPS = [
  path
  for path in sorted((Path(__file__).parents[3] / "results").glob("*.json"))
  if '"sweep":' in path.read_text(encoding="utf-8")
]
NEW_KEYS = {"begins_with": "init_from", "trainings": "replicas", "members": "candidates", "printed": "reported"}


def with_new_keys(value: Any) -> Any:
  """Returns parsed JSON with the keys of version 2, without values that are None."""
  if isinstance(value, dict):
    return {NEW_KEYS.get(key, key): with_new_keys(item) for key, item in value.items() if item is not None}
  return [with_new_keys(item) for item in value] if isinstance(value, list) else value


def gathered(launch: Launch, variant: str = "") -> SweepResult:
  plan = launch.plan(variant=variant)
  return gather(plan, read_outputs(plan, {}))


class TestSeeds:
  def test_mean_deviation_and_interval_over_three_seeds(self, launch: Launch) -> None:
    launch.run(variant="three")
    row = gathered(launch, "three").candidates[0]
    # 60, 62 and 67 %: mean 63, deviations -3, -1 and 4, so the variance is 26 / 2. Tables of Student's t have
    # 4.303 for 95 % and two degrees of freedom.
    assert row.measured["test accuracy"] == pytest.approx(0.63)
    assert row.std["test accuracy"] == pytest.approx(0.13**0.5 / 10)
    half = 4.303 * (0.13**0.5 / 10) / 3**0.5
    assert row.interval_95["test accuracy"] == pytest.approx((0.63 - half, 0.63 + half), abs=1e-5)
    assert row.interval_95["validation accuracy"] == row.interval_95["test accuracy"]  # equal values
    assert row.interval == "Student t, over 3 seeds"
    assert [run.accuracy for run in row.runs] == [0.60, 0.62, 0.67]
    assert row.seconds == 60 + 61 + 62

  def test_interval_of_one_seed_is_over_its_test_images(self, launch: Launch) -> None:
    launch.run()
    row = gathered(launch).candidates[0]
    # Wilson's interval of 60 in 100, by hand: centre (0.6 + 0.019207) / 1.038415, half width 0.094333.
    assert row.interval_95["test accuracy"] == pytest.approx((0.50200, 0.69060), abs=1e-4)
    assert row.std == {}
    assert row.interval == "Wilson, over 100 test images"
    assert "validation accuracy" not in row.interval_95

  def test_statistics_are_over_the_finished_seeds(self, launch: Launch) -> None:
    launch.run(variant="three")
    (launch.plan(variant="three").runs[2].workdir / "result.json").unlink()
    row = gathered(launch, "three").candidates[0]
    assert row.status == "unfinished"
    assert row.measured["test accuracy"] == pytest.approx(0.61)
    assert row.interval == "Student t, over 2 seeds"


class TestFolds:
  def test_mean_deviation_and_interval_are_over_the_folds(self, launch: Launch) -> None:
    launch.run(blocks1="folds")
    row, single, _ = gathered(launch).candidates
    # As for three seeds with these accuracies.
    half = 4.303 * (0.13**0.5 / 10) / 3**0.5
    assert row.measured["test accuracy"] == pytest.approx(0.63)
    assert row.std == pytest.approx({"test accuracy": 0.13**0.5 / 10, "validation accuracy": 0.13**0.5 / 10})
    assert row.interval_95["test accuracy"] == pytest.approx((0.63 - half, 0.63 + half), abs=1e-5)
    assert row.interval_95["validation accuracy"] == pytest.approx((0.64 - half, 0.64 + half), abs=1e-5)
    assert row.interval == "Student t, over 3 folds by subjects"
    assert [run.replicas for run in (*row.runs, *single.runs)] == ["3 folds by subjects", None]
    assert row.seconds == 150

  def test_logged_quantities_are_means_over_the_folds(self, launch: Launch) -> None:
    launch.run(blocks1="folds")
    folder = launch.plan().runs[0].workdir / "replicas" / "fold_1"
    record = {"kind": "train", "step": 1, "phase": "p", "loss": 1.0, "accuracy": 0.8}
    log = folder / "metrics.jsonl"
    log.write_text(json.dumps(record) + "\n" + "".join(log.read_text().splitlines(True)[1:2]))
    measured = gathered(launch).candidates[0].measured
    assert measured["training accuracy"] == pytest.approx(0.6)  # of 0.5, 0.8 and 0.5
    assert measured["steps to converge"] == pytest.approx(50 / 3)  # of 20, 10 and 20

  def test_recall_of_a_class_is_over_the_sum_of_the_confusion_matrices(self, launch: Launch) -> None:
    launch.run(blocks2="folds")
    happy, sad = gathered(launch).candidates[1].classes
    # Wilson's interval of 80 in 100, by hand: centre (0.8 + 0.019207) / 1.038415, half width 0.077731.
    assert happy.interval_95 == pytest.approx((0.71117, 0.86663), abs=1e-4)
    assert happy == ClassRecall("happy", 0.8, happy.interval_95, 100, 0.9)
    assert (sad.recall, sad.reported) == (109 / 200, None)

  def test_recall_has_no_interval_over_several_seeds(self, launch: Launch) -> None:
    launch.run(variant="three")
    happy, sad = gathered(launch, "three").candidates[0].classes
    assert (happy.recall, happy.images, happy.interval_95) == (0.63, 300, None)
    assert (sad.recall, sad.interval_95) == (None, None)  # no test images


class TestGap:
  def test_gap_is_over_pairs_with_the_same_seed(self, launch: Launch) -> None:
    launch.run(variant="against")
    # Seeds 0, 1 and 2 reach 60, 62 and 67 % with all candidates; these pairs differ by 5, 1 and 3 points.
    for candidate, accuracies in (("1 blocks", (0.55, 0.61, 0.64)), ("2 blocks", (0.60, 0.62, 0.67))):
      for run, accuracy in zip(launch.runs_of(candidate, "against"), accuracies, strict=True):
        launch.change_result(run, accuracy=accuracy)
    lower, reference, equal = gathered(launch, "against").candidates
    assert lower.gap.mean == pytest.approx(0.03)
    half = 4.303 * 0.02 / 3**0.5  # the standard deviation of the differences is 2 points
    assert lower.gap.interval_95 == pytest.approx((0.03 - half, 0.03 + half), abs=1e-5)
    assert reference.gap is None
    assert equal.gap.mean == 0

  def test_gap_of_one_seed_has_no_interval(self, launch: Launch) -> None:
    launch.run(variant="against")
    for run in launch.plan(variant="against").runs:
      if run.seed:
        (run.workdir / "result.json").unlink()
    lower = gathered(launch, "against").candidates[0]
    assert (lower.gap.seeds, lower.gap.interval_95) == (1, None)


class TestChoice:
  def test_choice_is_by_mean_validation_accuracy_then_deviation_then_order(self, launch: Launch) -> None:
    launch.run(variant="choose")  # one block has 60, 62 and 67 %, a mean of 63
    for second, third, chosen in (
      ((0.64, 0.64, 0.64), (0.60, 0.70, 0.61), 2),  # means of 64.0 and 63.7 %
      ((0.63, 0.64, 0.65), (0.64, 0.64, 0.64), 3),  # equal means: smaller deviation
      ((0.65, 0.64, 0.63), (0.63, 0.64, 0.65), 2),  # equal deviations: the first
      ((0.60, 0.61, 0.64), (0.60, 0.61, 0.64), 1),
    ):
      launch.measure("choose", 2, second, test=0.5)
      launch.measure("choose", 3, third, test=0.9 if chosen != 3 else 0.4)  # must not matter
      result = gathered(launch, "choose")
      assert (result.choose, result.chosen) == ("validation accuracy", f"{chosen} blocks")
      assert result.chosen_by_fold is None  # there are no folds
    launch.measure("choose", 2, (-1.0,) * 3, test=0.5)  # there is no validation split
    assert gathered(launch, "choose").chosen is None

  def test_choice_waits_for_all_candidates(self, launch: Launch) -> None:
    launch.run(variant="choose", blocks1="fail")
    assert gathered(launch, "choose").chosen is None
    launch.run(variant="choose")
    assert gathered(launch, "choose").chosen == "1 blocks"
    (launch.plan(variant="choose").runs[-1].workdir / "result.json").unlink()
    assert gathered(launch, "choose").chosen is None

  def test_each_fold_chooses_by_its_own_validation_part(self, launch: Launch) -> None:
    launch.run(variant="choose", blocks1="folds", blocks2="folds", blocks3="folds", demo="folds")
    # Test and validation accuracy of each fold. Two blocks have the best mean, but are the best in one fold only.
    accuracies = {
      "1 blocks": [(0.5, 0.9), (0.2, 0.1), (0.3, 0.1)],
      "2 blocks": [(0.9, 0.8), (0.6, 0.8), (0.9, 0.8)],
      "3 blocks": [(0.1, 0.1), (0.9, 0.1), (0.7, 0.9)],
    }
    for run in launch.plan(variant="choose").runs:
      folds = [
        {"name": f"fold_{n}", "seed": 0, "accuracy": test, "validation_accuracy": validation}
        for n, (test, validation) in enumerate(accuracies[run.candidate])
      ]
      mean = {"step": None, "accuracy": sum(fold["validation_accuracy"] for fold in folds) / 3}
      launch.change_result(run, runs=folds, validation=mean)
    result = gathered(launch, "choose")
    assert result.chosen == "2 blocks"
    by_fold = result.chosen_by_fold
    assert by_fold.accuracy == pytest.approx((0.5 + 0.6 + 0.7) / 3)
    assert by_fold.picks == {f"{n} blocks": 3 for n in (1, 2, 3)}  # once for each of three seeds
    # Nine folds, variance 0.06 / 8; tables of Student's t have 2.306 for 95 % and eight degrees of freedom.
    half = 2.306 * (0.06 / 8) ** 0.5 / 3
    assert by_fold.interval_95 == pytest.approx((0.6 - half, 0.6 + half), abs=1e-4)

  def test_nothing_is_chosen_if_the_sweep_does_not_say_so(self, launch: Launch) -> None:
    result = gathered(launch, "three")
    assert (result.choose, result.chosen) == ("", None)


def test_measured_quantities_of_a_run(launch: Launch) -> None:
  launch.run()
  log = launch.plan().runs[0].workdir / "metrics.jsonl"
  train = [{"kind": "train", "step": s, "phase": "p", "loss": 1.0, "accuracy": s / 100} for s in range(1, 21)]
  evaluations = [(5, 0.5), (10, 0.594), (15, 0.6), (20, 0.595)]
  records = train + [{"kind": "eval", "split": "validation", "step": s, "accuracy": a} for s, a in evaluations]
  log.write_text("".join(json.dumps(record) + "\n" for record in records))
  assert gathered(launch).candidates[0].measured == {
    "test accuracy": 0.60,
    "validation accuracy": 0.60,
    "training accuracy": pytest.approx(0.155),  # of the last ten batches
    "steps to converge": 10,  # 0.594 is 99 % of the best, 0.6
    "parameters": 1234,
    "minutes of training": 1.0,
    "seconds a step": 0.5,
    "seconds an epoch": 30.0,
  }


def test_nothing_is_measured_before_a_run_has_started(launch: Launch) -> None:
  result = gathered(launch)
  assert {row.status for row in result.candidates} == {"not yet run"}
  assert result.status == "unfinished"
  assert set(result.candidates[0].measured.values()) == {None}
  assert result.devices == result.commits == ()


def test_provenance_lists_the_distinct_values_of_the_runs(launch: Launch) -> None:
  launch.run()
  changes = {"device": "gpu", "commit": "ffffffffffff", "versions": {"jax": "0.12.0"}}
  launch.change_result(launch.plan().runs[1], **changes)
  result = gathered(launch)
  assert result.devices == ("cpu", "gpu")
  assert result.commits == ("0123456789ab", "ffffffffffff")
  assert result.versions == {"jax": "0.10.2, 0.12.0"}
  assert (result.seeds, result.datasets, result.seconds) == ((0,), ("synthetic_faces",), 180)
  assert result.candidates[1].reported == {"test accuracy": 0.97, "steps to converge": 2500}
  assert result.candidates[1].value == 2


@pytest.mark.parametrize("variant", ["against", "choose", "lines"])
def test_a_result_is_read_as_it_was_written(launch: Launch, variant: str) -> None:
  launch.run(variant=variant, blocks1="folds", blocks2="folds", demo="folds")
  result = gathered(launch, variant)
  assert parse_sweep(json.loads(json.dumps(as_json(result))), "sweep.json") == result


@pytest.mark.parametrize("path", OLD_SWEEPS, ids=lambda path: path.stem)
def test_results_of_version_1_are_read_completely(path: Path) -> None:
  content = with_new_keys(json.loads(path.read_text(encoding="utf-8")))
  found = with_new_keys(as_json(parse_sweep(json.loads(path.read_text(encoding="utf-8")), str(path))))
  for key in ("rows", "figures"):
    for row, expected in zip(found.pop(key), content.pop(key), strict=True):
      assert row == row | expected
  assert found == found | content


class TestTimings:
  @pytest.fixture
  def timed(self, launch: Launch) -> Launch:
    path = launch.workdir.parent / "table1.json"
    source = Path(launch.source)
    text = source.read_text().replace('swept="blocks",', f'swept="blocks", timings={str(path)!r},')
    source.write_text(text.replace("n, reported,", 'n, reported, "one, backprop" if n == 1 else "other",'))
    launch.run()
    return launch

  def seconds(self, timed: Launch, benchmark: dict[str, Any] | None) -> tuple[list[float | None], str]:
    if benchmark is not None:
      (timed.workdir.parent / "table1.json").write_text(json.dumps(benchmark))
    result = gathered(timed)
    return [row.measured["seconds a step"] for row in result.candidates], result.timed_on

  def test_seconds_come_from_the_benchmark(self, timed: Launch) -> None:
    assert self.seconds(timed, BENCHMARK) == ([0.125, None, None], "gpu: H200")

  def test_seconds_of_evaluation_are_next_to_those_of_training(self, timed: Launch) -> None:
    evaluated = {**BENCHMARK, "rows": [{"name": "one, backprop", "seconds_1500": 19.5}]}
    assert self.seconds(timed, evaluated) == ([0.5, 0.5, 0.5], "gpu: H200")
    result = gathered(timed)
    assert result.timed == ("seconds for 1,500 images",)
    assert [row.measured["seconds for 1,500 images"] for row in result.candidates] == [19.5, None, None]

  def test_temporary_memory_is_in_megabytes(self, timed: Launch) -> None:
    self.seconds(timed, {**BENCHMARK, "rows": [{"name": "one, backprop", "temporary_bytes": 2_500_000}]})
    assert [row.measured["temporary megabytes"] for row in gathered(timed).candidates] == [2.5, None, None]

  def test_rejects_a_row_without_seconds(self, timed: Launch) -> None:
    with pytest.raises(UserError, match="name and seconds_a_step or seconds_1500"):
      self.seconds(timed, {**BENCHMARK, "rows": [{"name": "one, backprop"}]})

  @pytest.mark.parametrize("benchmark", [None, {**BENCHMARK, "config": "configs/hsic.py"}])
  def test_seconds_are_those_of_training_without_a_benchmark_of_these_configs(
    self, timed: Launch, benchmark: dict[str, Any] | None
  ) -> None:
    assert self.seconds(timed, benchmark) == ([0.5, 0.5, 0.5], "")

  @pytest.mark.parametrize("key", ["device", "config", "rows"])
  def test_rejects_a_benchmark_without_a_key(self, timed: Launch, key: str) -> None:
    with pytest.raises(UserError, match=rf"table1.json: .*{key}.*; run the benchmark again"):
      self.seconds(timed, {name: value for name, value in BENCHMARK.items() if name != key})
