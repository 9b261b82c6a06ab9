"""Result of a benchmark: its fields, and how the results folder stores them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fer_jax.runtime import typed_json

VERSION = 2  # version 1 had no key "version"


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
  """Result of a benchmark, as written by `apps.bench` and by the tests of faults and of JAX versions.

  Attributes:
    version: Version of the format.
    what: Name of the benchmark.
    device, versions, commit, seeds: Provenance, as in the result of a run.
    config: Config file and variant; None if there is none.
    rounds: Repetitions of each measurement; None if not applicable.
    headline: Name of the most important row; None if there is none.
    rows: Values of each candidate by column, with the key `name`.
  """

  version: int = VERSION
  what: str
  device: str
  versions: Mapping[str, str]
  commit: str
  seeds: tuple[int, ...] = ()
  config: str | None = None
  rounds: int | None = None
  headline: str | None = None
  rows: tuple[Mapping[str, Any], ...]

  def to_json(self) -> dict[str, Any]:
    """Returns the content of the file; it repeats the headline's values at the top level, where scripts read them."""
    headline = next((row for row in self.rows if row["name"] == self.headline), {})
    return typed_json.as_json(self) | {key: value for key, value in headline.items() if key != "name"}


def parse_benchmark(content: Any, path: str) -> BenchmarkResult:
  """Returns the result that the content of a file describes; see `typed_json.parse`, also for the errors."""
  advice = "run the benchmark again with this version of fer_jax"
  return typed_json.parse(BenchmarkResult, content, path, "the result of a benchmark", advice)
