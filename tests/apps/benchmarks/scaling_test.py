"""Tests the counting of exchanged bytes in compiled programs, and the predictions from them."""

import jax
import jax.numpy as jnp
import pytest

from fer_jax.apps.benchmarks import scaling as benchmark
from fer_jax.apps.benchmarks import traffic as traffic_lib
from fer_jax.apps.benchmarks.benchmark import load_settings
from fer_jax.apps.benchmarks.scaling import Link
from fer_jax.apps.benchmarks.traffic import Collective, Traffic
from fer_jax.runtime.errors import UserError


def text_of(function, *shapes):
  mapped = jax.pmap(function, axis_name="devices", devices=jax.devices()[:2])
  arguments = [jax.ShapeDtypeStruct((2, *shape), jnp.float32) for shape in shapes]
  return mapped.lower(*arguments).compile().as_text()


def test_parses_collectives_and_their_bytes():
  def exchange(a, b):
    both = jax.lax.psum({"a": a, "b": b.astype(jnp.bfloat16)}, "devices")
    return both, jax.lax.all_gather(jnp.sin(a), "devices", tiled=True)

  found = traffic_lib.parse_collectives(text_of(exchange, (3, 5), (7,)))
  result_bytes = {
    kind: sum(each.result for each in found if each.kind == kind) for kind in ("all-reduce", "all-gather")
  }
  # A CPU may convert bfloat16 to float32 before the sum.
  assert result_bytes["all-reduce"] in (3 * 5 * 4 + 7 * 2, 3 * 5 * 4 + 7 * 4)
  assert result_bytes["all-gather"] == 2 * 3 * 5 * 4


def test_merged_collectives_are_one_with_the_sum_of_bytes():
  program = "  %x = (f32[2,3]{1,0}, bf16[4]{0}, pred[5]{0}, s8[]) all-reduce(f32[2,3] %a, bf16[4] %b), to_apply=%sum"
  assert traffic_lib.parse_collectives(f"HloModule m\n{program}\n  %y = f32[9] add(%all-reduce, %z)") == [
    Collective("all-reduce", 24 + 8 + 5 + 1)
  ]


def test_rejects_asynchronous_collectives():
  with pytest.raises(ValueError, match="all-gather-start: expected a program compiled for a CPU"):
    traffic_lib.parse_collectives("  %x = (f32[2], f32[4]) all-gather-start(f32[2] %a), dimensions={0}")


@pytest.mark.parametrize(
  ("kind", "bytes_sent"),
  [
    ("all-reduce", 2 * 3 / 4 * 80),  # a quarter, three times, in two passes
    ("all-gather", 3 / 4 * 80),
    ("reduce-scatter", 3 * 80),  # the result is a quarter
    ("all-to-all", 3 / 4 * 80),
    ("collective-permute", 80),
  ],
)
def test_bytes_sent_in_a_ring_of_four(kind, bytes_sent):
  assert traffic_lib.bytes_sent(Collective(kind, 80), 4) == bytes_sent


def test_traffic_fit_recovers_coefficients_and_reports_errors():
  counted = {batch: Traffic(100, 6 * batch + 0.5 * batch**2, 9) for batch in (16, 32, 64)}
  model = traffic_lib.fit_traffic(counted)
  assert (model.linear, model.square, model.error) == pytest.approx((6, 0.5, 0))
  assert model.at(512) == pytest.approx(Traffic(100, 6 * 512 + 0.5 * 512**2, 9))
  assert traffic_lib.fit_traffic({**counted, 32: Traffic(100, 352, 9)}).error == pytest.approx(1)
  assert traffic_lib.fit_traffic({**counted, 32: counted[32]._replace(reduced=50)}).error == pytest.approx(1)


def test_communication_time_has_two_stages(monkeypatch):
  monkeypatch.setattr(benchmark, "NVLINK", Link(100.0, 0.5))
  traffic, network = Traffic(reduced=800, gathered=1600, collectives=3), Link(10.0, 2.0)
  # Within a node: (2 * 800 + 1600) * 7 / 8 bytes, three latencies.
  assert benchmark.communication_seconds(traffic, 8, network) == pytest.approx(28 + 1.5)
  # On two nodes, in addition an eighth of it, half of which comes from the other node.
  assert benchmark.communication_seconds(traffic, 16, network) == pytest.approx(28 + 1.5 + 400 / 2 / 10 + 6)
  assert benchmark.communication_seconds(traffic, 2, network) == pytest.approx(3200 / 2 / 100 + 1.5)


def test_efficiency_without_and_with_full_overlap():
  assert benchmark.efficiency(one=8.0, part=8.0, communication=2.0, scale=1.0) == pytest.approx((0.8, 1.0))
  # Four devices share the batch; a quarter of the batch takes more than a quarter of the time.
  assert benchmark.efficiency(one=8.0, part=2.5, communication=4.0, scale=0.25) == pytest.approx((2 / 6.5, 0.5))


# HSIC config with a global batch of 8: four layers of 4 channels and 6x6 cells, and the image; Gram matrices; targets.
GATHERED = 4 * (8 * (4 * 36 * 4 + 36) + 5 * 8 * 8 + 8 * 7)


def test_counts_the_compiled_step(config):
  settings = load_settings(config)
  traffic = traffic_lib.step_traffic(settings, jax.devices()[:4], 8)
  assert traffic.gathered == GATHERED
  network = settings.model.build(7, jnp.dtype("float32"), None)
  params, _ = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 48, 48, 1), jnp.float32))
  parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
  # Gradients, plus only batch statistics, loss and number of hits.
  assert 4 * parameters < traffic.reduced < 4 * parameters + 600
  assert traffic.collectives > 11  # the gathers alone: rows and products of five, targets


@pytest.mark.slow
def test_counts_the_bottleneck_and_back_propagation(config, monkeypatch):
  monkeypatch.setattr(benchmark, "COUNTED", (2, 4))
  headline, rows = benchmark.scaling(config, rounds=1)
  found = {row["name"]: row for row in rows}
  assert headline == "hsic_bottleneck, weak, 4 devices"
  assert found[headline]["batch"] == 32
  assert found["hsic_bottleneck, strong, 4 devices"]["all_gather_bytes"] == GATHERED * 3 / 4
  for row in rows:
    if row["devices"] > 1:
      assert (row["all_gather_bytes"] == 0) == row["name"].startswith("backprop")
    else:
      assert row["images_per_second"] == row["batch"] / row["compute_seconds"]


@pytest.fixture
def without_compilation(monkeypatch):
  """Replaces compilation and timing by fixed values."""
  monkeypatch.setattr(benchmark, "COUNTED", (2, 4))
  monkeypatch.setattr(benchmark, "step_traffic", lambda *_: Traffic(800, 0, 1))
  monkeypatch.setattr(benchmark, "_time_one_device", lambda *_: {8: 8.0, 4: 5.0, 2: 3.0, 1: 2.0})


def test_rows_of_the_step_and_of_back_propagation(config, without_compilation):
  _, rows = benchmark.scaling(config, rounds=1)
  found = {row["name"]: row for row in rows}
  assert {
    "hsic_bottleneck, one device",
    "backprop, weak, 64 devices, ndr",
    "backprop, weak, 64 devices, 100gbe",
  } <= set(found)
  assert [row["devices"] for row in rows if "backprop, strong" in row["name"]] == [
    2,
    4,
    8,
  ]  # divisors of 8
  for row in rows:
    if row["devices"] > 1:
      assert row["bytes_a_step"] == 1600 * (row["devices"] - 1) // row["devices"]
      assert row["seconds_for_90"] == 9 * row["communication_seconds"] == 9 * row["seconds_for_50"]
      assert "efficiency_low" not in row  # CPU times do not predict GPUs


def test_gpu_times_give_efficiencies(config, without_compilation, monkeypatch):
  monkeypatch.setattr(benchmark, "_on_cpu", lambda: False)
  monkeypatch.setattr(benchmark, "communication_seconds", lambda *_: 2.0)
  _, rows = benchmark.scaling(config, rounds=1)
  found = {row["name"]: row for row in rows}
  weak, strong = found["backprop, weak, 8 devices"], found["backprop, strong, 4 devices"]
  assert (weak["compute_seconds"], weak["efficiency_low"], weak["efficiency_high"]) == (8.0, 0.8, 1.0)
  assert (strong["compute_seconds"], strong["efficiency_low"]) == (3.0, 8.0 / 4 / 5)


def test_other_objectives_have_no_second_step(config, without_compilation):
  _, rows = benchmark.scaling(f"{config}:backprop", rounds=1)
  assert {row["name"].split(",")[0] for row in rows} == {"backprop"}


def test_rejects_too_few_cpu_devices(config, monkeypatch):
  monkeypatch.setattr(benchmark, "COUNTED", (2, 4, 128))
  with pytest.raises(UserError, match="expected 128 CPU devices to compile for, JAX has 4"):
    benchmark.scaling(config, rounds=1)
