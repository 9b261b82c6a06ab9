"""Intervals against scipy, and how quantities are written."""

import pytest

from fer_jax.apps.formatting import accuracy_estimate, device_of, duration, memory, short_commit


def test_accuracy_without_a_count_of_images_has_no_interval() -> None:
  estimate = accuracy_estimate({"accuracy": 0.5})
  assert estimate is not None
  assert estimate.interval is None


@pytest.mark.parametrize(
  ("seconds", "said"),
  [
    (0.0493, "0.0493 s"),
    (42.06, "42.1 s"),
    (59.97, "1 min 00 s"),
    (363.4, "6 min 03 s"),
    (3599.6, "1 h 00 min"),
  ],
)
def test_durations_carry_over(seconds: float, said: str) -> None:
  assert duration(seconds) == said


@pytest.mark.parametrize(
  ("size", "said"), [(512, "512 B"), (1023 * 1024, "1023 KiB"), (3_251_000_000, "3.03 GiB"), (None, "not yet measured")]
)
def test_memory_is_in_binary_units(size: int | None, said: str) -> None:
  assert memory(size) == said


@pytest.mark.parametrize(
  ("commit", "said"),
  [
    ("0123456789abcdef", "012345678"),
    ("0123456789abcdef-dirty", "012345678-dirty"),
    ("v1.0", "v1.0"),
    (None, "unknown"),
  ],
)
def test_a_commit_is_shortened_but_keeps_its_mark(commit: str | None, said: str) -> None:
  assert short_commit(commit) == said


def test_a_device_is_one_of_several_processes_or_says_nothing_of_them() -> None:
  cpu = {"device": "4 x cpu (EPYC, 2 cores)"}
  assert device_of({**cpu, "processes": 2}) == "4 x cpu (EPYC, 2 cores), 2 processes"
  assert device_of({**cpu, "processes": 1}) == device_of(cpu) == "4 x cpu (EPYC, 2 cores)"
  assert device_of({}) == "not stated"
