"""Results of runs: written and read unchanged, results of earlier versions, and damaged files."""

import json
from pathlib import Path

import pytest

from fer_jax.runtime.errors import UserError
from fer_jax.training.run_result import (
  VERSION,
  ClassMetrics,
  Deduplicated,
  ReplicaResult,
  RunResult,
  Strategy,
  Validation,
  ViewResult,
  parse_result,
  read_result,
)

RESULTS = Path(__file__).parents[2] / "results"
OLD = [path for path in sorted(RESULTS.glob("*.json")) if "confusion_matrix" in path.read_text(encoding="utf-8")]


def result(**changes):
  view = ViewResult(0.5, 0.75, None, 1.5, std=0.1)
  fields = {
    "accuracy": 0.75,
    "loss": 1.5,
    "metrics": {"accuracy": 0.75},
    "confusion_matrix": ((3, 1), (0, 0)),
    "class_names": ("a", "b"),
    "per_class": (ClassMetrics("a", 1.0, 0.75, 0.8, 4), ClassMetrics("b", 0.0, 0.0, 0.0, 0)),
    "validation": Validation(0.5, 10),
    "measured": {"test accuracy": 0.75, "seconds a step": None},
    "seconds": 12.5,
    "time": {"train": 10.0},
    "stopped": "finished",
    "steps": 20,
    "parameters": 100,
    "peak_memory_bytes": 2**20,
    "dataset": "tiny",
    "notes": ("a note",),
    "seeds": (0, 1),
    "config": "configs/hsic.py:demo",
    "device": "cpu",
    "versions": {"jax": "0.10.1"},
    "commit": "unknown",
    "runs": (ReplicaResult(0, 0.75, deduplicated=Deduplicated(None, 0, 4), views={"flip": view}),),
    "deduplicated": Deduplicated(None, 0, 4),
    "views": {"flip": view},
  }
  return RunResult(**fields | changes)


@pytest.mark.parametrize(
  "changes",
  [{}, {"std": 0.1, "interval_95": (0.6, 0.9), "strategy": Strategy("loop", 1, "as configured"), "fold": 3}],
  ids=["one replica", "several replicas"],
)
def test_round_trip(tmp_path, changes):
  expected = result(**changes)
  path = tmp_path / "result.json"
  path.write_text(json.dumps(expected.to_json()))
  assert read_result(path) == expected
  assert expected.several == ("std" in changes)


def test_omits_fields_that_do_not_apply():
  content = result().to_json()
  assert content["version"] == VERSION
  assert not {"std", "strategy", "folds", "fold", "calibration"} & content.keys()
  assert content["deduplicated"] == {"accuracy": None, "images": 0, "seen": 4}
  assert content["per_class"][0]["class"] == "a"


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_reads_results_of_version_1(path):
  content = json.loads(path.read_text(encoding="utf-8"))
  found = read_result(path)
  again = found.to_json()
  for key in content.keys() - {"mean", "runs"}:
    assert again.get(key) == content[key]
  assert [each.accuracy for each in found.runs] == [each["accuracy"] for each in content["runs"]]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"accuracy": "high"}, "accuracy: expected float, found 'high'"),
    ({"per_class": [{"class": "a"}]}, r"per_class\[0\].precision: missing"),
    ({"validation": 0.5}, "validation: expected an object, found 0.5"),
    ({"seeds": [True]}, r"seeds\[0\]: expected int, found True"),
    ({"version": VERSION + 1}, f"version {VERSION + 1} of the result is newer than {VERSION}"),
  ],
)
def test_rejects_wrong_values(change, message):
  with pytest.raises(UserError, match=f"^file.json: {message}"):
    parse_result(result().to_json() | change, "file.json")


def test_rejects_missing_keys():
  content = result().to_json()
  del content["steps"]
  with pytest.raises(UserError, match=r"^file.json: steps: missing; finish the run again"):
    parse_result(content, "file.json")


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_rejects_other_content(tmp_path, text):
  path = tmp_path / "result.json"
  path.write_text(text)
  with pytest.raises(UserError, match=r"result\.json: expected the result of a run"):
    read_result(path)
