"""The benchmark of networks in use, on networks of a handful of filters."""

import jax
import numpy as np
import pytest

from fer_jax.apps.benchmarks import inference as benchmark
from fer_jax.apps.benchmarks.benchmark import random_variables, settings_of
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
  """The rows by name of two networks, the second being the headline and the first one of those with smaller weights."""
  config = write_config(TINY)
  monkeypatch.setattr(benchmark, "NETWORKS", {"xception": f"{config}:small", "wide": config})
  monkeypatch.setattr(benchmark, "BATCH", 4)
  headline, rows = benchmark.inference(config, 2)
  assert headline == "wide"
  return {row["name"]: row for row in rows}


def test_every_network_is_set_against_the_headline_and_its_smaller_forms_against_itself(found):
  forms = ("bfloat16 weights", "int8 weights")
  of = {name: [f"{name}, {form}" for form in forms] for name in ("wide", "xception")}
  assert list(found) == ["wide", *of["wide"], "xception", *of["xception"]]
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
  # What the paper prints stands beside the network that it prints it of.
  assert found["xception"]["paper_seconds_ratio"] == pytest.approx(114.75 / 19.94)
  assert found["xception"]["paper_parameters"] == 33_452_455
  assert not [key for name in ("wide", "xception, int8 weights") for key in found[name] if key.startswith("paper")]


def test_a_program_that_takes_long_takes_fewer_turns(monkeypatch):
  now, order = [0.0], []
  monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])

  def run_of(name, *seconds):
    taken = iter(seconds)

    def run():
      order.append(name)
      now[0] += next(taken)

    return run

  runs = {"quick": run_of("quick", 0.5, 0.25, 0.125), "slow": run_of("slow", 9.0)}
  assert benchmark._by_turns(runs, 3, enough=2.0) == {"quick": [0.25, 0.125], "slow": [9.0]}
  assert order == ["quick", "slow", "quick", "quick"]
  runs = {"quick": run_of("quick", 8.0, 1.0, 0.5, 4.0, 1.0, 1.0), "slow": run_of("slow", 9.0, 1.0, 1.0)}
  assert benchmark._by_turns(runs, 2, enough=2.0, calls=2) == {"quick": [1.0, 0.5, 1.0, 1.0], "slow": [1.0, 1.0]}


def test_every_model_has_a_row_at_its_published_size():
  settings = {name: settings_of(config) for name, config in benchmark.NETWORKS.items()}
  assert {type(each.model) for each in settings.values()} == set(MODELS.values())
  assert {*benchmark.SHRUNK} <= benchmark.NETWORKS.keys()
  candidates = benchmark._candidates("configs/obsr.py", settings_of("configs/obsr.py"))
  assert next(iter(candidates)) == "bilinear"
  assert candidates.keys() == benchmark.NETWORKS.keys()
  assert (candidates["bilinear"].image_size, candidates["resnet34"].image_size) == (224, 48)
  small = "configs/obsr.py:small"
  assert next(iter(benchmark._candidates(small, settings_of(small)))) == small


def test_random_weights_keep_activations_finite():
  network = settings_of("configs/baselines.py:mini_xception").model.build(7, np.dtype("float32"), None)
  params, stats = random_variables(network, (2, 48, 48, 1))
  image = jax.random.normal(jax.random.key(0), (2, 48, 48, 1))
  logits = jax.jit(network.apply)(params, stats, image)[0].logits
  assert np.isfinite(logits).all()
  assert np.abs(logits[0] - logits[1]).max() > 1e-3
