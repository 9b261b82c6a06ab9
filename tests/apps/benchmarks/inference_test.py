"""Tests the inference benchmark on small networks."""

import time

import jax
import numpy as np
import pytest

from fer_jax.apps.benchmarks import inference as benchmark
from fer_jax.apps.benchmarks.benchmark import load_settings, random_variables
from fer_jax.apps.benchmarks.steps import interleaved_seconds
from fer_jax.models import MODELS

TINY = """
from configs import resnet
def get_config(variant=""):
  config = resnet.get_config("demo")
  config.model.width = 8 if variant else 12
  config.data.image_size = 8 if variant else 0
  return config
"""


@pytest.fixture
def found(write_config, monkeypatch):
  """Rows by name of two networks: "wide", the headline, and "xception", which is also compressed."""
  config = write_config(TINY)
  monkeypatch.setattr(benchmark, "NETWORKS", {"xception": f"{config}:small", "wide": config})
  monkeypatch.setattr(benchmark, "BATCH", 4)
  headline, rows = benchmark.inference(config, 2)
  assert headline == "wide"
  return {row["name"]: row for row in rows}


def test_rows_are_relative_to_the_headline_and_to_float32(found):
  forms = ("bfloat16 weights", "int8 weights")
  compressed = {name: [f"{name}, {form}" for form in forms] for name in ("wide", "xception")}
  assert list(found) == ["wide", *compressed["wide"], "xception", *compressed["xception"]]
  for name, row in found.items():
    whole = found[name.partition(",")[0]]
    assert row["latency_ratio"] == pytest.approx(row["latency_ms"] / found["wide"]["latency_ms"])
    assert row["seconds_ratio"] == pytest.approx(row["seconds_1500"] / found["wide"]["seconds_1500"])
    assert row["seconds_1500"] == pytest.approx(1500 / row["images_per_second"])
    assert row["latency_p95_ms"] >= row["latency_ms"] > 0
    assert (row["latency_calls"], row["batch_runs"]) == (20, 1)
    assert row["image_size"] == {"wide": 48, "xception": 8}[whole["name"]]
    assert row["parameters"] == whole["parameters"] == whole["weight_bytes"] / 4
    if row is not whole:
      assert row["latency_over_float32"] == pytest.approx(row["latency_ms"] / whole["latency_ms"])
      assert row["seconds_over_float32"] == pytest.approx(row["seconds_1500"] / whole["seconds_1500"])
      assert row["bytes_over_float32"] == pytest.approx(row["weight_bytes"] / whole["weight_bytes"])
  assert 1 > found["wide, bfloat16 weights"]["bytes_over_float32"] > found["wide, int8 weights"]["bytes_over_float32"]
  assert "latency_over_float32" not in found["wide"]
  # Figures of the paper are only in the row of the network that they belong to.
  assert found["xception"]["paper_seconds_ratio"] == pytest.approx(114.75 / 19.94)
  assert found["xception"]["paper_parameters"] == 33_452_455
  assert not [key for name in ("wide", "xception, int8 weights") for key in found[name] if key.startswith("paper")]


def test_slow_programs_have_fewer_turns(monkeypatch):
  now, order = [0.0], []
  monkeypatch.setattr(time, "perf_counter", lambda: now[0])

  def run_of(name, *seconds):
    taken = iter(seconds)

    def run():
      order.append(name)
      now[0] += next(taken)

    return run

  def measure(runs, rounds):
    seconds = interleaved_seconds(runs, rounds, limit=2.0)
    return {name: benchmark._without_warmup(each) for name, each in seconds.items()}

  runs = {"quick": run_of("quick", 0.5, 0.25, 0.125), "slow": run_of("slow", 9.0)}
  assert measure(runs, 3) == {"quick": [0.25, 0.125], "slow": [9.0]}
  assert order == ["quick", "slow", "quick", "quick"]
  runs = {"quick": run_of("quick", 8.0, 1.0, 0.5, 4.0, 1.0, 1.0), "slow": run_of("slow", 9.0, 1.0, 1.0)}
  assert interleaved_seconds(runs, 2, calls=2, limit=2.0) == {"quick": [1.0, 0.5, 1.0, 1.0], "slow": [1.0, 1.0]}


def test_every_model_is_measured_at_its_published_size():
  settings = {name: load_settings(config) for name, config in benchmark.NETWORKS.items()}
  assert {type(each.model) for each in settings.values()} == set(MODELS.values())
  assert {*benchmark.COMPRESSED} <= benchmark.NETWORKS.keys()
  candidates = benchmark._candidates("configs/obsr.py", load_settings("configs/obsr.py"))
  assert next(iter(candidates)) == "bilinear"
  assert candidates.keys() == benchmark.NETWORKS.keys()
  assert (candidates["bilinear"].image_size, candidates["resnet34"].image_size) == (224, 48)
  small = "configs/obsr.py:small"
  assert next(iter(benchmark._candidates(small, load_settings(small)))) == small


def test_random_weights_keep_activations_finite():
  network = load_settings("configs/baselines.py:mini_xception").model.build(7, np.dtype("float32"), None)
  params, stats = random_variables(network, (2, 48, 48, 1))
  image = jax.random.normal(jax.random.key(0), (2, 48, 48, 1))
  logits = jax.jit(network.apply)(params, stats, image)[0].logits
  assert np.isfinite(logits).all()
  assert np.abs(logits[0] - logits[1]).max() > 1e-3
