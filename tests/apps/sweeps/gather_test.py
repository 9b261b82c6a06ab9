"""What is gathered, against figures worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from fer_jax.apps.sweeps.gather import gather, read_trainings
from fer_jax.runtime.errors import UserError

from .conftest import Launch

BENCH = {
  "device": "gpu: H200",
  "config": "configs/hsic.py:demo",
  "rows": [{"name": "one, backprop", "seconds_a_step": 0.125}],
}


def gathered(launch: Launch, variant: str = "") -> dict[str, Any]:
  plan = launch.plan(variant=variant)
  return gather(plan, read_trainings(plan, {}))


class TestSeeds:
  def test_mean_deviation_and_interval_over_three(self, launch: Launch) -> None:
    launch.run(variant="three")
    row = gathered(launch, "three")["rows"][0]
    # 60, 62 and 67 %: mean 63, deviations -3, -1 and 4, so the variance is 26 / 2. Tables of Student's t have
    # 4.303 for 95 % and two degrees of freedom.
    assert row["measured"]["test accuracy"] == pytest.approx(0.63)
    assert row["std"]["test accuracy"] == pytest.approx(0.13**0.5 / 10)
    half = 4.303 * (0.13**0.5 / 10) / 3**0.5
    assert row["interval_95"]["test accuracy"] == pytest.approx([0.63 - half, 0.63 + half], abs=1e-5)
    assert row["interval_95"]["validation accuracy"] == row["interval_95"]["test accuracy"]  # the same values
    assert row["interval"] == "Student t, over 3 seeds"
    assert [run["accuracy"] for run in row["runs"]] == [0.60, 0.62, 0.67]
    assert row["seconds"] == 60 + 61 + 62

  def test_one_has_the_interval_over_its_images(self, launch: Launch) -> None:
    launch.run()
    row = gathered(launch)["rows"][0]
    # Wilson's interval of 60 in 100, by hand: centre (0.6 + 0.019207) / 1.038415, half width 0.094333.
    assert row["interval_95"]["test accuracy"] == pytest.approx([0.50200, 0.69060], abs=1e-4)
    assert row["std"] == {}
    assert row["interval"] == "Wilson, over 100 test images"
    assert "validation accuracy" not in row["interval_95"]

  def test_those_that_are_there_count(self, launch: Launch) -> None:
    launch.run(variant="three")
    (launch.plan(variant="three").runs[2].workdir / "result.json").unlink()
    row = gathered(launch, "three")["rows"][0]
    assert row["status"] == "unfinished"
    assert row["measured"]["test accuracy"] == pytest.approx(0.61)
    assert row["interval"] == "Student t, over 2 seeds"


class TestFolds:
  def test_mean_deviation_and_interval_are_over_the_folds(self, launch: Launch) -> None:
    launch.run(blocks1="folds")
    row, alone, _ = gathered(launch)["rows"]
    # As of three seeds with these accuracies.
    half = 4.303 * (0.13**0.5 / 10) / 3**0.5
    assert row["measured"]["test accuracy"] == pytest.approx(0.63)
    assert row["std"] == pytest.approx({"test accuracy": 0.13**0.5 / 10, "validation accuracy": 0.13**0.5 / 10})
    assert row["interval_95"]["test accuracy"] == pytest.approx([0.63 - half, 0.63 + half], abs=1e-5)
    assert row["interval_95"]["validation accuracy"] == pytest.approx([0.64 - half, 0.64 + half], abs=1e-5)
    assert row["interval"] == "Student t, over 3 folds by subjects"
    assert [run["trainings"] for run in (*row["runs"], *alone["runs"])] == ["3 folds by subjects", None]
    assert row["seconds"] == 150

  def test_what_is_logged_is_the_mean_over_the_folds(self, launch: Launch) -> None:
    launch.run(blocks1="folds")
    folder = launch.plan().runs[0].workdir / "replicas" / "fold_1"
    record = {"kind": "train", "step": 1, "phase": "p", "loss": 1.0, "accuracy": 0.8}
    log = folder / "metrics.jsonl"
    log.write_text(json.dumps(record) + "\n" + "".join(log.read_text().splitlines(True)[1:2]))
    measured = gathered(launch)["rows"][0]["measured"]
    assert measured["training accuracy"] == pytest.approx(0.6)  # of 0.5, 0.8 and 0.5
    assert measured["steps to converge"] == pytest.approx(50 / 3)  # of 20, 10 and 20

  def test_recall_by_class_is_of_the_sum_of_their_confusions(self, launch: Launch) -> None:
    launch.run(blocks2="folds")
    happy, sad = gathered(launch)["rows"][1]["classes"]
    # Wilson's interval of 80 in 100, by hand: centre (0.8 + 0.019207) / 1.038415, half width 0.077731.
    assert happy == {
      "class": "happy",
      "recall": 0.8,
      "interval_95": pytest.approx([0.71117, 0.86663], abs=1e-4),
      "images": 100,
      "printed": 0.9,
    }
    assert (sad["recall"], sad["printed"]) == (109 / 200, None)

  def test_of_several_seeds_a_class_has_no_interval(self, launch: Launch) -> None:
    launch.run(variant="three")
    happy, sad = gathered(launch, "three")["rows"][0]["classes"]
    assert (happy["recall"], happy["images"], happy["interval_95"]) == (0.63, 300, None)
    assert (sad["recall"], sad["interval_95"]) == (None, None)  # no such image was tested on


class TestGap:
  def test_is_of_pairs_with_the_same_seed(self, launch: Launch) -> None:
    launch.run(variant="against")
    # Seeds 0, 1 and 2 reach 60, 62 and 67 % in all members; here the pairs are made to differ by 5, 1 and 3 points.
    for blocks, accuracies in (("1", (0.55, 0.61, 0.64)), ("2", (0.60, 0.62, 0.67))):
      for run, accuracy in zip(
        [r for r in launch.plan(variant="against").runs if r.member == f"{blocks} blocks"], accuracies, strict=True
      ):
        path = run.workdir / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "accuracy": accuracy}))
    less, reference, same = gathered(launch, "against")["rows"]
    assert less["gap"]["mean"] == pytest.approx(0.03)
    half = 4.303 * 0.02 / 3**0.5  # the differences' standard deviation is 2 points
    assert less["gap"]["interval_95"] == pytest.approx([0.03 - half, 0.03 + half], abs=1e-5)
    assert reference["gap"] is None
    assert same["gap"]["mean"] == 0

  def test_of_one_seed_has_no_interval(self, launch: Launch) -> None:
    launch.run(variant="against")
    for run in launch.plan(variant="against").runs:
      if run.seed:
        (run.workdir / "result.json").unlink()
    less = gathered(launch, "against")["rows"][0]
    assert (less["gap"]["seeds"], less["gap"]["interval_95"]) == (1, None)


class TestChoosing:
  def test_goes_by_mean_validation_accuracy_then_by_spread_then_by_order(self, launch: Launch) -> None:
    launch.run(variant="choose")  # one block has 60, 62 and 67 %, a mean of 63
    for second, third, chosen in (
      ((0.64, 0.64, 0.64), (0.60, 0.70, 0.61), 2),  # means of 64.0 and 63.7 %
      ((0.63, 0.64, 0.65), (0.64, 0.64, 0.64), 3),  # the same mean: less spread
      ((0.65, 0.64, 0.63), (0.63, 0.64, 0.65), 2),  # the same spread: the first
      ((0.60, 0.61, 0.64), (0.60, 0.61, 0.64), 1),
    ):
      launch.measure("choose", 2, second, test=0.5)
      launch.measure("choose", 3, third, test=0.9 if chosen != 3 else 0.4)  # which has no say
      content = gathered(launch, "choose")
      assert (content["choose"], content["chosen"]) == ("validation accuracy", f"{chosen} blocks")
      assert content["chosen_by_fold"] is None  # there are no folds
    launch.measure("choose", 2, (None,) * 3, test=0.5)  # no validation split
    assert gathered(launch, "choose")["chosen"] is None

  def test_waits_for_all_members(self, launch: Launch) -> None:
    launch.run(variant="choose", blocks1="fail")
    assert gathered(launch, "choose")["chosen"] is None
    launch.run(variant="choose")
    assert gathered(launch, "choose")["chosen"] == "1 blocks"
    (launch.plan(variant="choose").runs[-1].workdir / "result.json").unlink()
    assert gathered(launch, "choose")["chosen"] is None

  def test_each_fold_may_choose_by_its_own_validation_part(self, launch: Launch) -> None:
    launch.run(variant="choose", blocks1="folds", blocks2="folds", blocks3="folds", demo="folds")
    runs = launch.plan(variant="choose").runs
    for run in runs:
      # Test and validation accuracy of each fold. Two blocks have the best mean, and one fold alone of their own.
      of = {
        "1 blocks": [(0.5, 0.9), (0.2, 0.1), (0.3, 0.1)],
        "2 blocks": [(0.9, 0.8), (0.6, 0.8), (0.9, 0.8)],
        "3 blocks": [(0.1, 0.1), (0.9, 0.1), (0.7, 0.9)],
      }[run.member]
      path = run.workdir / "result.json"
      folds = [{"name": f"fold_{n}", "accuracy": t, "validation_accuracy": v} for n, (t, v) in enumerate(of)]
      mean = {"step": None, "accuracy": sum(v for _, v in of) / 3}
      path.write_text(json.dumps({**json.loads(path.read_text()), "runs": folds, "validation": mean}))
    content = gathered(launch, "choose")
    assert content["chosen"] == "2 blocks"
    by_fold = content["chosen_by_fold"]
    assert by_fold["test accuracy"] == pytest.approx((0.5 + 0.6 + 0.7) / 3)
    assert by_fold["picks"] == {f"{n} blocks": 3 for n in (1, 2, 3)}  # once in each of three seeds
    # Nine folds, variance 0.06 / 8; tables of Student's t have 2.306 for 95 % and eight degrees of freedom.
    half = 2.306 * (0.06 / 8) ** 0.5 / 3
    assert by_fold["interval_95"] == pytest.approx([0.6 - half, 0.6 + half], abs=1e-4)

  def test_otherwise_nothing_is_chosen(self, launch: Launch) -> None:
    content = gathered(launch, "three")
    assert (content["choose"], content["chosen"]) == ("", None)


def test_what_a_run_measured(launch: Launch) -> None:
  launch.run()
  log = launch.plan().runs[0].workdir / "metrics.jsonl"
  train = [{"kind": "train", "step": s, "phase": "p", "loss": 1.0, "accuracy": s / 100} for s in range(1, 21)]
  evaluations = [(5, 0.5), (10, 0.594), (15, 0.6), (20, 0.595)]
  records = train + [{"kind": "eval", "split": "validation", "step": s, "accuracy": a} for s, a in evaluations]
  log.write_text("".join(json.dumps(record) + "\n" for record in records))
  row = gathered(launch)["rows"][0]
  assert row["measured"] == {
    "test accuracy": 0.60,
    "validation accuracy": 0.60,
    "training accuracy": pytest.approx(0.155),  # of the last ten batches
    "steps to converge": 10,  # 0.594 is 99 % of the best, 0.6
    "parameters": 1234,
    "seconds a step": 0.5,
    "seconds an epoch": 30.0,
  }


def test_nothing_is_measured_before_anything_runs(launch: Launch) -> None:
  content = gathered(launch)
  assert {row["status"] for row in content["rows"]} == {"not yet run"}
  assert content["status"] == "unfinished"
  assert set(content["rows"][0]["measured"].values()) == {None}
  assert content["devices"] == content["commits"] == []


def test_where_it_comes_from(launch: Launch) -> None:
  launch.run()
  path = launch.plan().runs[1].workdir / "result.json"
  result = json.loads(path.read_text())
  path.write_text(json.dumps(result | {"device": "gpu", "commit": "ffffffffffff", "versions": {"jax": "0.12.0"}}))
  content = gathered(launch)
  assert content["devices"] == ["cpu", "gpu"]
  assert content["commits"] == ["0123456789ab", "ffffffffffff"]
  assert content["versions"] == {"jax": "0.10.2, 0.12.0"}
  assert (content["seeds"], content["datasets"], content["seconds"]) == ([0], ["synthetic_faces"], 180)
  assert content["rows"][1]["reported"] == {"test accuracy": 0.97, "steps to converge": 2500}
  assert content["rows"][1]["value"] == 2


class TestTimings:
  @pytest.fixture
  def timed(self, launch: Launch) -> Launch:
    path = launch.workdir.parent / "table1.json"
    source = Path(launch.source)
    text = source.read_text().replace('swept="blocks",', f'swept="blocks", timings={str(path)!r},')
    source.write_text(text.replace("n, reported,", 'n, reported, "one, backprop" if n == 1 else "other",'))
    launch.run()
    return launch

  def seconds(self, timed: Launch, bench: dict[str, Any] | None) -> tuple[list[float | None], str]:
    if bench is not None:
      (timed.workdir.parent / "table1.json").write_text(json.dumps(bench))
    content = gathered(timed)
    return [row["measured"]["seconds a step"] for row in content["rows"]], content["timed_on"]

  def test_seconds_come_from_the_benchmark(self, timed: Launch) -> None:
    assert self.seconds(timed, BENCH) == ([0.125, None, None], "gpu: H200")

  def test_seconds_of_evaluation_stand_beside_those_of_the_trainings(self, timed: Launch) -> None:
    evaluated = {**BENCH, "rows": [{"name": "one, backprop", "seconds_1500": 19.5}]}
    assert self.seconds(timed, evaluated) == ([0.5, 0.5, 0.5], "gpu: H200")
    content = gathered(timed)
    assert content["timed"] == ["seconds for 1,500 images"]
    assert [row["measured"]["seconds for 1,500 images"] for row in content["rows"]] == [19.5, None, None]

  def test_a_row_without_seconds_is_named(self, timed: Launch) -> None:
    with pytest.raises(UserError, match="name and seconds_a_step or seconds_1500"):
      self.seconds(timed, {**BENCH, "rows": [{"name": "one, backprop"}]})

  @pytest.mark.parametrize("bench", [None, {**BENCH, "config": "configs/hsic.py"}])
  def test_without_one_of_these_configs_they_are_the_trainings(
    self, timed: Launch, bench: dict[str, Any] | None
  ) -> None:
    assert self.seconds(timed, bench) == ([0.5, 0.5, 0.5], "")

  @pytest.mark.parametrize("key", ["device", "config", "rows"])
  def test_a_benchmark_of_another_kind_is_named(self, timed: Launch, key: str) -> None:
    with pytest.raises(UserError, match=r"table1.json: expected a benchmark's config, device and rows"):
      self.seconds(timed, {name: value for name, value in BENCH.items() if name != key})
