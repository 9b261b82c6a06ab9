"""Tests of accuracies with their intervals, and of the formats of quantities."""

from statistics import mean, stdev

import pytest

from fer_jax.apps.formatting import accuracy_estimate, device_of, duration, memory, runs_text, short_commit, spread
from fer_jax.training.intervals import wilson_interval
from fer_jax.training.run_result import FoldsResult
from tests.training.run_result_test import result


def test_accuracy_of_one_replica_has_the_wilson_interval() -> None:
  estimate = accuracy_estimate(result(accuracy=0.75, confusion_matrix=((3, 1), (0, 0))))
  assert (estimate.value, estimate.interval) == (0.75, wilson_interval(3, 4))
  assert estimate.meaning == "Wilson, over 4 test images"


def test_accuracy_without_a_count_of_images_has_no_interval() -> None:
  estimate = accuracy_estimate(result(accuracy=0.5, confusion_matrix=()))
  assert (estimate.value, estimate.interval) == (0.5, None)


def test_accuracy_of_several_replicas_has_the_interval_of_the_result() -> None:
  several = result(accuracy=0.65, std=0.0707, interval_95=(0.55, 0.75), runs=result().runs * 2, seeds=(0, 1))
  estimate = accuracy_estimate(several)
  assert (estimate.value, estimate.interval) == (0.65, (0.55, 0.75))
  assert estimate.meaning == "mean of 2 seeds, standard deviation 7.07 %"


@pytest.mark.parametrize(
  ("by", "count", "text"),
  [
    ("subjects", 3, "3 folds by subjects"),
    ("images", 10, "3 of 10 folds by images"),
    ("one_subject_out", 3, "3 folds of one subject each"),
    (None, 0, "3 runs"),
  ],
)
def test_runs_text_names_seeds_or_folds(by: str | None, count: int, text: str) -> None:
  assert runs_text(3, result(folds=by and FoldsResult(by, count, 0))) == text


def test_spread_is_mean_and_standard_deviation_of_the_values_that_are_not_none() -> None:
  shares = [0.5, 0.75]
  assert spread([0.5, None, 0.75], as_percent=True) == f"{100 * mean(shares):.2f} ± {100 * stdev(shares):.2f} %"
  assert spread([1000, 3000]) == "2,000 ± 1,414"
  assert spread([1000, 1000]) == "1,000"
  assert spread([None]) == ""


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0.0493, "0.0493 s"),
    (42.06, "42.1 s"),
    (59.97, "1 min 00 s"),
    (363.4, "6 min 03 s"),
    (3599.6, "1 h 00 min"),
  ],
)
def test_duration_carries_rounded_seconds_over_to_minutes_and_hours(seconds: float, text: str) -> None:
  assert duration(seconds) == text


@pytest.mark.parametrize(
  ("size", "text"), [(512, "512 B"), (1023 * 1024, "1023 KiB"), (3_251_000_000, "3.03 GiB"), (None, "not yet measured")]
)
def test_memory_is_in_binary_units(size: int | None, text: str) -> None:
  assert memory(size) == text


@pytest.mark.parametrize(
  ("commit", "text"),
  [
    ("0123456789abcdef", "012345678"),
    ("0123456789abcdef-dirty", "012345678-dirty"),
    ("v1.0", "v1.0"),
    (None, "unknown"),
  ],
)
def test_short_commit_keeps_the_dirty_suffix(commit: str | None, text: str) -> None:
  assert short_commit(commit) == text


def test_device_names_the_number_of_processes_if_there_are_several() -> None:
  cpu = "4 x cpu (EPYC, 2 cores)"
  assert device_of(result(device=cpu, processes=2)) == "4 x cpu (EPYC, 2 cores), 2 processes"
  assert device_of(result(device=cpu, processes=1)) == device_of(result(device=cpu)) == cpu
