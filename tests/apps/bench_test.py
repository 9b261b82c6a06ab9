import json

import pytest

from fer_jax.apps import bench
from fer_jax.apps.benchmarks import table1
from fer_jax.apps.benchmarks.benchmark import Benchmark
from fer_jax.objectives.local_units import GROUPS
from fer_jax.runtime.errors import UserError


def run(what, config, tmp_path, *flags):
  out = tmp_path / "out" / "bench.json"
  bench.main([f"--what={what}", f"--config={config}", "--rounds=2", f"--out={out}", *flags])
  return json.loads(out.read_text())


def test_objectives_are_compared_with_back_propagation(config, tmp_path, capsys):
  found = run("objectives", config, tmp_path)
  backprop, checkpointed, accumulated, *local = found["rows"]
  assert (backprop["name"], backprop["time_ratio"], backprop["memory_ratio"]) == ("backprop", 1.0, 1.0)
  assert [checkpointed["name"], accumulated["name"]] == ["backprop, checkpoint", "backprop, accumulation=4"]
  forms = ["as configured", *(f"group={group}" for group in GROUPS), "unit=block"]
  assert [row["name"] for row in local] == [f"hsic_bottleneck, {form}" for form in forms]
  for row in local:
    assert row["time_ratio"] == pytest.approx(row["seconds_a_step"] / backprop["seconds_a_step"])
    assert row["memory_ratio"] == pytest.approx(row["temporary_bytes"] / backprop["temporary_bytes"])
  printed = capsys.readouterr().out
  assert all(row["name"] in printed for row in found["rows"])
  assert found["headline"] == local[0]["name"]
  assert found["time_ratio"] == local[0]["time_ratio"]
  assert found["device"]
  assert found["commit"]


@pytest.mark.slow
def test_parts_of_a_step_add_up_to_the_whole_step(config, tmp_path):
  *parts, whole = run("parts", config, tmp_path)["rows"]
  assert whole["name"] == "whole step"
  assert whole["backprop_share"] == 1
  for side in ("hsic", "backprop"):
    assert sum(part[f"{side}_seconds"] for part in parts) == pytest.approx(whole[f"{side}_seconds"])
  assert next(part for part in parts if "inner products" in part["name"])["backprop_seconds"] == 0


@pytest.mark.slow
def test_table1_compares_standard_networks_with_the_dense_one(config, tmp_path, monkeypatch):
  monkeypatch.setattr(table1, "PRINTED", {"alexnet": table1.PRINTED["alexnet"]})
  ours, backprop, standard = run("table1", f"{config}:small", tmp_path)["rows"]
  assert [row["name"] for row in (ours, backprop, standard)] == [table1.OURS, table1.BACKPROP, "alexnet, backprop"]
  assert ours["parameters"] == backprop["parameters"] < standard["parameters"]
  assert standard["time_ratio"] == pytest.approx(standard["seconds_a_step"] / ours["seconds_a_step"])
  assert standard["paper_time_ratio"] == pytest.approx(0.243178 / 0.049286)
  assert "paper_time_ratio" not in backprop


def test_pipeline_measures_indices_and_rows(config, tmp_path, capsys):
  found = run("pipeline", config, tmp_path)
  assert [row["name"] for row in found["rows"]] == ["indices", "uint8 rows"]
  assert found["images_per_second"] == found["rows"][0]["images_per_second"] > 0
  assert "images_per_second" in capsys.readouterr().out


def test_rejects_a_config_without_hsic_bottleneck_before_writing(config, tmp_path):
  with pytest.raises(UserError, match="no phase whose objective is hsic_bottleneck"):
    run("objectives", f"{config}:backprop", tmp_path)
  assert not (tmp_path / "out").exists()


def test_rejects_zero_rounds(config, tmp_path):
  with pytest.raises(UserError, match="--rounds=0: expected 1 or more"):
    run("pipeline", config, tmp_path, "--rounds=0")


@pytest.mark.parametrize(
  ("flag", "what"), [("target=l4", "gpu"), ("yunet=model.onnx", "detectors"), ("examples=9", "streaming")]
)
def test_a_flag_reaches_its_benchmark_and_no_other(monkeypatch, capsys, flag, what):
  def benchmark(config, rounds, **flags):
    return Benchmark("x", [{"name": "x", "given": len(flags)}])

  monkeypatch.setitem(bench.BENCHMARKS, what, benchmark)
  bench.main([f"--what={what}", f"--{flag}"])
  assert "given 1" in capsys.readouterr().out
  with pytest.raises(UserError, match=f"only valid with --what={what}; leave it out"):
    bench.main(["--what=memory", f"--{flag}"])
