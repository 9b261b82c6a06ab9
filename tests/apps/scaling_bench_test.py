"""The bytes that steps exchange, counted from compiled programs, and what is predicted from them."""

import jax
import jax.numpy as jnp
import pytest

from fer_jax.apps.benchmarks import scaling as benchmark
from fer_jax.apps.benchmarks.benchmark import settings_of
from fer_jax.apps.benchmarks.scaling import Collective, Link, Traffic
from fer_jax.runtime.errors import UserError


def text_of(function, *shapes):
  mapped = jax.pmap(function, axis_name="devices", devices=jax.devices()[:2])
  arguments = [jax.ShapeDtypeStruct((2, *shape), jnp.float32) for shape in shapes]
  return mapped.lower(*arguments).compile().as_text()


def test_a_programs_collectives_are_read_with_their_bytes():
  def exchange(a, b):
    both = jax.lax.psum({"a": a, "b": b.astype(jnp.bfloat16)}, "devices")
    return both, jax.lax.all_gather(jnp.sin(a), "devices", tiled=True)

  found = benchmark.collectives_of(text_of(exchange, (3, 5), (7,)))
  of_kind = {kind: sum(each.result for each in found if each.kind == kind) for kind in ("all-reduce", "all-gather")}
  # A CPU may widen bfloat16 before it sums.
  assert of_kind["all-reduce"] in (3 * 5 * 4 + 7 * 2, 3 * 5 * 4 + 7 * 4)
  assert of_kind["all-gather"] == 2 * 3 * 5 * 4


def test_merged_collectives_count_once_with_all_their_bytes():
  program = "  %x = (f32[2,3]{1,0}, bf16[4]{0}, pred[5]{0}, s8[]) all-reduce(f32[2,3] %a, bf16[4] %b), to_apply=%sum"
  assert benchmark.collectives_of(f"HloModule m\n{program}\n  %y = f32[9] add(%all-reduce, %z)") == [
    Collective("all-reduce", 24 + 8 + 5 + 1)
  ]


def test_asynchronous_collectives_are_refused():
  with pytest.raises(ValueError, match="all-gather-start: expected a program compiled for a CPU"):
    benchmark.collectives_of("  %x = (f32[2], f32[4]) all-gather-start(f32[2] %a), dimensions={0}")


@pytest.mark.parametrize(
  ("kind", "bytes_sent"),
  [
    ("all-reduce", 2 * 3 / 4 * 80),  # its quarter three times, twice
    ("all-gather", 3 / 4 * 80),
    ("reduce-scatter", 3 * 80),  # the result is a quarter
    ("all-to-all", 3 / 4 * 80),
    ("collective-permute", 80),
  ],
)
def test_a_ring_of_four_sends(kind, bytes_sent):
  assert benchmark.sent(Collective(kind, 80), 4) == bytes_sent


def test_traffic_is_fitted_to_the_batch_and_checked_where_it_was_not():
  counted = {batch: Traffic(100, 6 * batch + 0.5 * batch**2, 9) for batch in (16, 32, 64)}
  model = benchmark.fit(counted)
  assert (model.linear, model.square, model.error) == pytest.approx((6, 0.5, 0))
  assert model.at(512) == pytest.approx(Traffic(100, 6 * 512 + 0.5 * 512**2, 9))
  assert benchmark.fit({**counted, 32: Traffic(100, 352, 9)}).error == pytest.approx(1)
  assert benchmark.fit({**counted, 32: counted[32]._replace(reduced=50)}).error == pytest.approx(1)


def test_time_on_the_links_is_that_of_two_stages(monkeypatch):
  monkeypatch.setattr(benchmark, "NVLINK", Link(100.0, 0.5))
  traffic, network = Traffic(reduced=800, gathered=1600, collectives=3), Link(10.0, 2.0)
  # In a node: (2 * 800 + 1600) * 7 / 8 bytes, three latencies.
  assert benchmark.communication_seconds(traffic, 8, network) == pytest.approx(28 + 1.5)
  # In two nodes also an eighth of it, half of which comes from the other node.
  assert benchmark.communication_seconds(traffic, 16, network) == pytest.approx(28 + 1.5 + 400 / 2 / 10 + 6)
  assert benchmark.communication_seconds(traffic, 2, network) == pytest.approx(3200 / 2 / 100 + 1.5)


def test_efficiency_is_a_range_from_no_overlap_to_all_of_it():
  assert benchmark.efficiency(one=8.0, part=8.0, communication=2.0, scale=1.0) == pytest.approx((0.8, 1.0))
  # Four devices share the batch: a quarter of it takes more than a quarter of the time.
  assert benchmark.efficiency(one=8.0, part=2.5, communication=4.0, scale=0.25) == pytest.approx((2 / 6.5, 0.5))


# Of the HSIC config on eight rows in all: four layers of 4 channels on 6x6 cells and the image; products; targets.
GATHERED = 4 * (8 * (4 * 36 * 4 + 36) + 5 * 8 * 8 + 8 * 7)


def test_a_step_is_counted_as_it_is_compiled(config):
  settings = settings_of(config)
  traffic = benchmark.traffic_of(settings, jax.devices()[:4], 8)
  assert traffic.gathered == GATHERED
  network = settings.model.build(7, jnp.dtype("float32"), None)
  params, _ = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 48, 48, 1), jnp.float32))
  parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
  # Gradients, and beside them no more than statistics of normalisation, loss and hits.
  assert 4 * parameters < traffic.reduced < 4 * parameters + 600
  assert traffic.collectives > 11  # the gathers alone: rows and products of five, targets


@pytest.mark.slow
def test_the_bottleneck_and_its_twin_are_counted(config, monkeypatch):
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
def uncompiled(monkeypatch):
  """Everything but the compiler."""
  monkeypatch.setattr(benchmark, "COUNTED", (2, 4))
  monkeypatch.setattr(benchmark, "traffic_of", lambda *_: Traffic(800, 0, 1))
  monkeypatch.setattr(benchmark, "_one_device", lambda *_: {8: 8.0, 4: 5.0, 2: 3.0, 1: 2.0})


def test_rows_are_of_the_step_and_of_its_twin(config, uncompiled):
  _, rows = benchmark.scaling(config, rounds=1)
  found = {row["name"]: row for row in rows}
  assert {
    "hsic_bottleneck, one device",
    "backprop, weak, 64 devices, ndr",
    "backprop, weak, 64 devices, 100gbe",
  } <= set(found)
  assert [row["devices"] for row in rows if "backprop, strong" in row["name"]] == [2, 4, 8]  # of eight rows
  for row in rows:
    if row["devices"] > 1:
      assert row["bytes_a_step"] == 1600 * (row["devices"] - 1) // row["devices"]
      assert row["seconds_for_90"] == 9 * row["communication_seconds"] == 9 * row["seconds_for_50"]
      assert "efficiency_low" not in row  # a CPU's step says nothing of GPUs


def test_a_gpus_steps_are_made_into_efficiencies(config, uncompiled, monkeypatch):
  monkeypatch.setattr(benchmark, "_on_cpu", lambda: False)
  monkeypatch.setattr(benchmark, "communication_seconds", lambda *_: 2.0)
  _, rows = benchmark.scaling(config, rounds=1)
  found = {row["name"]: row for row in rows}
  weak, strong = found["backprop, weak, 8 devices"], found["backprop, strong, 4 devices"]
  assert (weak["compute_seconds"], weak["efficiency_low"], weak["efficiency_high"]) == (8.0, 0.8, 1.0)
  assert (strong["compute_seconds"], strong["efficiency_low"]) == (3.0, 8.0 / 4 / 5)


def test_any_other_objective_is_counted_alone(config, uncompiled):
  _, rows = benchmark.scaling(f"{config}:backprop", rounds=1)
  assert {row["name"].split(",")[0] for row in rows} == {"backprop"}


def test_too_few_cpu_devices_are_one_line(config, monkeypatch):
  monkeypatch.setattr(benchmark, "COUNTED", (2, 4, 128))
  with pytest.raises(UserError, match="expected 128 CPU devices to compile for, JAX has 4"):
    benchmark.scaling(config, rounds=1)
