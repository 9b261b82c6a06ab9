"""Tests the counting of exchanged bytes in compiled programs, and the predictions from them."""

import jax
import jax.numpy as jnp
import pytest

from fer_jax.apps.benchmarks import gpu_program
from fer_jax.apps.benchmarks import scaling as benchmark
from fer_jax.apps.benchmarks import traffic as traffic_lib
from fer_jax.apps.benchmarks.benchmark import load_settings
from fer_jax.apps.benchmarks.gpu_program import Collective, GpuProgram, Kernel
from fer_jax.apps.benchmarks.gpu_target import is_installed
from fer_jax.apps.benchmarks.scaling import Link
from fer_jax.apps.benchmarks.traffic import Traffic
from fer_jax.runtime.errors import UserError

needs_cuda = pytest.mark.skipif(not is_installed(), reason="XLA for CUDA is not installed: fer_jax[gpu-aot]")


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


# HSIC config: four layers of 4 channels and 6x6 cells, and the image; Gram matrices; targets.
def gathered(batch):
  return 4 * (batch * (4 * 36 * 4 + 36) + 5 * batch * batch + batch * 7)


@needs_cuda
def test_counts_the_compiled_steps(config, monkeypatch):
  monkeypatch.setattr(benchmark, "COUNTED", (2, 4))
  headline, rows = benchmark.scaling(config, rounds=1)
  found = {row["name"]: row for row in rows}
  assert headline == "bottleneck, weak, 4 devices"
  assert found[headline]["batch"] == 32
  assert found[headline]["all_gather_bytes"] == gathered(32) * 3 / 4
  settings = load_settings(config)
  network = settings.model.build(7, jnp.dtype("float32"), None)
  params, _ = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 48, 48, 1), jnp.float32))
  parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
  # Gradients, plus only batch statistics, loss and number of hits.
  assert 4 * parameters < found[headline]["all_reduce_bytes"] / 1.5 < 4 * parameters + 600
  for row in rows:
    if row["devices"] > 1:
      assert (row["all_gather_bytes"] == 0) == row["name"].startswith("backprop")
    assert row["compute_seconds"] > 0


@pytest.fixture
def without_compilation(monkeypatch):
  """Replaces compiled programs by ones of a fixed traffic that take a second, and one for each row."""
  monkeypatch.setattr(benchmark, "COUNTED", (2, 4))
  kernel = Kernel("k", "fusion", "", 1, 0, 0, "f32")

  def compiled(settings, devices, batch_size):
    collectives = (Collective("all-reduce", 800),) if devices > 1 else ()
    return GpuProgram((kernel._replace(times=1 + batch_size),), collectives, 0, frozenset(), ())

  monkeypatch.setattr(benchmark, "_compile", compiled)
  monkeypatch.setattr(gpu_program, "LAUNCH_SECONDS", 1.0)


def test_rows_of_the_step_and_of_back_propagation(config, without_compilation, monkeypatch):
  monkeypatch.setattr(benchmark, "communication_seconds", lambda *_: 3.0)
  _, rows = benchmark.scaling(config, rounds=1)
  found = {row["name"]: row for row in rows}
  names = {"bottleneck, one device", "backprop, weak, 64 devices, ndr", "backprop, weak, 64 devices, 100gbe"}
  assert names <= set(found)
  strong = [row["devices"] for row in rows if "backprop, strong" in row["name"]]
  assert strong == [2, 4, 8]  # divisors of 8
  for row in rows:
    assert row["bytes_a_step"] == 1600 * (row["devices"] - 1) // row["devices"]
  weak, strong = found["backprop, weak, 8 devices"], found["backprop, strong, 4 devices"]
  assert (weak["compute_seconds"], weak["efficiency_low"], weak["efficiency_high"]) == (9, 0.75, 1)
  assert (strong["compute_seconds"], strong["efficiency_low"]) == (3, 9 / 4 / 6)  # one second, and two rows


def test_other_objectives_have_no_second_step(config, without_compilation):
  _, rows = benchmark.scaling(f"{config}:backprop", rounds=1)
  assert {row["name"].split(",")[0] for row in rows} == {"backprop"}


def test_rejects_other_collectives():
  program = GpuProgram((), (Collective("all-to-all", 8),), 0, frozenset(), ())
  with pytest.raises(UserError, match="the step has all-to-all, whose growth with the batch size is not modelled"):
    traffic_lib.step_traffic(program)
