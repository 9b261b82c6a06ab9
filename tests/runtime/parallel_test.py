import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.batch import Batch
from fer_jax.runtime import provenance
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.parallel import AXIS, Devices, Replicas, all_devices, free_memory
from fer_jax.training.step import Resident, Sums

ROWS = 12
COUNTS = [1, 2, 4]


@pytest.fixture(params=COUNTS, ids="{} devices".format)
def devices(request):
  return Devices(jax.devices()[: request.param])


@pytest.fixture(scope="module")
def resident():
  rng = np.random.default_rng(0)
  # Integers, whose sums do not depend on the order of addition.
  return Resident(rng.integers(0, 9, (ROWS, 2, 2, 1), np.uint8), rng.integers(0, 3, (ROWS, 3)).astype(np.float32))


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(1)
  return Batch(rng.integers(0, ROWS, 8).astype(np.int32), rng.integers(0, 2, 8).astype(bool))


def sum_of_rows(axis_name):
  """Returns a step whose result depends on every row of the global batch."""

  def step(state, resident, batch, progress):
    rows = resident.target[batch.index] * jnp.where(batch.mask, 1.0, 0.0)[:, None]
    total = jnp.sum(rows, axis=0)
    total = total if axis_name is None else jax.lax.psum(total, axis_name)
    return {"step": state["step"] + 1, "sum": state["sum"] + progress * total}, {"loss": total.sum()}

  return step


def expected_sum(resident, batch):
  return (np.asarray(resident.target)[batch.index] * batch.mask[:, None]).sum(axis=0)


def fresh_state():
  return {"step": np.int32(0), "sum": np.zeros(3, np.float32)}


class TestTrainStep:
  def test_result_is_independent_of_the_number_of_devices(self, devices, resident, batch):
    step = devices.compile_train(sum_of_rows(devices.axis_name), "sums")
    state, data = devices.replicate(fresh_state()), devices.replicate(resident)
    for _ in range(3):
      state, metrics = step(state, data, devices.split(batch), np.float32(0.5))
    total = expected_sum(resident, batch)
    np.testing.assert_array_equal(state["sum"], 1.5 * total)
    assert int(state["step"]) == 3
    assert float(metrics["loss"]) == total.sum()

  def test_state_and_metrics_have_no_device_axis(self, devices, resident, batch):
    step = devices.compile_train(sum_of_rows(devices.axis_name), "sums")
    state, metrics = step(
      devices.replicate(fresh_state()), devices.replicate(resident), devices.split(batch), np.float32(1)
    )
    assert jax.tree.map(jnp.shape, state) == {"step": (), "sum": (3,)}
    assert metrics["loss"].shape == ()
    assert state["sum"].devices() == set(devices.devices)

  def test_compiles_once(self, devices, resident, batch):
    traces = []

    def counted(*arguments):
      traces.append(1)
      return sum_of_rows(devices.axis_name)(*arguments)

    step = devices.compile_train(counted, "sums")
    state, data = devices.replicate(fresh_state()), devices.replicate(resident)
    for progress in (0.0, 0.25, 0.5):
      state, _ = step(state, data, devices.split(batch), np.float32(progress))
    assert len(traces) == 1


def test_eval_step_returns_results_of_the_whole_batch(devices, resident, batch):
  def eval_step(variables, resident, batch):
    rows = variables * resident.target[batch.index]
    loss = jnp.sum(jnp.where(batch.mask, rows.sum(-1), 0.0))
    if devices.axis_name is not None:
      loss, rows = jax.lax.psum(loss, devices.axis_name), jax.lax.all_gather(rows, devices.axis_name, tiled=True)
    return Sums(loss, jnp.zeros((), jnp.int32)), rows

  compiled = devices.compile_eval(eval_step, "sums")
  variables, data = devices.replicate(jnp.float32(2)), devices.replicate(resident)
  sums, rows = compiled(variables, data, devices.split(batch))
  assert float(sums.loss) == 2 * expected_sum(resident, batch).sum()
  np.testing.assert_array_equal(rows, 2 * resident.target[batch.index])


class TestSplit:
  def test_splits_consecutive_rows(self, devices, batch):
    count = len(devices.devices)
    split = devices.split(batch)
    assert split.image is None
    assert split.index.shape == ((count, 8 // count) if count > 1 else (8,))
    for name in ("index", "mask"):
      np.testing.assert_array_equal(getattr(split, name).reshape(8), getattr(batch, name))

  def test_preserves_the_other_axes(self, resident):
    split = Devices(jax.devices()).split(resident)
    assert split.image.shape == (4, 3, 2, 2, 1)
    np.testing.assert_array_equal(split.image[2, 1], resident.image[7])


class TestReplicate:
  def test_a_step_transfers_only_the_batch(self, devices, resident, batch):
    step = devices.compile_train(sum_of_rows(devices.axis_name), "sums")
    state, data = devices.replicate(fresh_state()), devices.replicate(resident)
    state, _ = step(state, data, devices.split(batch), np.float32(0))
    with jax.transfer_guard_device_to_device("disallow"):
      state, _ = step(state, data, devices.split(batch), np.float32(0))

  def test_the_transfer_guard_detects_other_transfers(self, resident, batch):
    devices = Devices(jax.devices())
    step = devices.compile_train(sum_of_rows(devices.axis_name), "sums")
    state, data = devices.replicate(fresh_state()), jax.device_put(resident, jax.devices()[0])
    with (
      jax.transfer_guard_device_to_device("disallow"),
      pytest.raises(Exception, match="Disallowed device-to-device transfer"),
    ):
      step(state, data, devices.split(batch), np.float32(0))

  def test_every_device_has_the_same_values(self, devices, resident):
    data = devices.replicate(resident)
    assert data.image.devices() == set(devices.devices)
    for shard in data.image.addressable_shards:
      np.testing.assert_array_equal(shard.data, resident.image)

  def test_preserves_empty_fields(self, devices):
    assert devices.replicate(Resident()) == Resident()


class TestCheckBatch:
  @pytest.mark.parametrize(("count", "batch_size"), [(2, 7), (4, 6), (4, 1)])
  def test_rejects_uneven_batches(self, count, batch_size):
    message = f"config.batch_size={batch_size} does not split over {count} devices: use a multiple of {count}"
    with pytest.raises(UserError) as raised:
      Devices(jax.devices()[:count]).check_batch(batch_size, "config.batch_size")
    assert str(raised.value) == message

  @pytest.mark.parametrize(("count", "batch_size"), [(1, 7), (2, 6), (4, 12)])
  def test_accepts_even_batches(self, count, batch_size):
    Devices(jax.devices()[:count]).check_batch(batch_size, "config.batch_size")


def test_all_local_devices_are_the_default():
  assert Devices().devices == jax.local_devices()
  assert Devices().axis_name == AXIS
  assert Devices(jax.devices()[:1]).axis_name is None


@pytest.mark.parametrize(("peaks", "expected"), [([None, None], None), ([{}, {"peak_bytes_in_use": 5}], 5), ([], None)])
def test_peak_memory_is_the_largest_reported(peaks, expected):
  class Device:
    process_index = 0

    def __init__(self, statistics):
      self.memory_stats = lambda: statistics

  assert Devices([Device(peak) for peak in peaks]).peak_memory() == expected


# Numbers of replicas and devices: one on one, several on one, one on each of several, uneven distributions.
LAYOUTS = [(1, 1), (3, 1), (2, 2), (4, 4), (5, 2), (6, 4), (2, 4)]


@pytest.mark.parametrize(("together", "count"), LAYOUTS)
class TestReplicas:
  def placement(self, together, count):
    return Replicas(together, jax.devices()[:count])

  def test_replicas_take_independent_steps(self, together, count, resident):
    placement = self.placement(together, count)
    assert placement.axis_name is None
    step = placement.compile_train(sum_of_rows(None), "sums")
    rng = np.random.default_rng(2)
    batches = [
      Batch(rng.integers(0, ROWS, 8).astype(np.int32), rng.integers(0, 2, 8).astype(bool)) for _ in range(together)
    ]
    factors = [np.float32(i + 1) for i in range(together)]
    state, data = placement.put_states([fresh_state()] * together), placement.replicate(resident)
    for _ in range(2):
      state, metrics = step(state, data, placement.shard_batches(batches), placement.stack(factors))
    state, metrics = jax.device_get((state, metrics))
    for i, batch in enumerate(batches):
      total = expected_sum(resident, batch)
      np.testing.assert_array_equal(placement.select_replica(state, i)["sum"], 2 * (i + 1) * total)
      assert int(placement.select_replica(state, i)["step"]) == 2
      assert float(placement.select_replica(metrics, i)["loss"]) == total.sum()

  def test_accepts_fewer_replicas_than_expected(self, together, count, resident, batch):
    if together == 1:
      pytest.skip("there cannot be fewer than one replica")
    placement = self.placement(together, count)
    step = placement.compile_train(sum_of_rows(None), "sums")
    ones = [np.float32(1)] * (together - 1)
    state = placement.put_states([fresh_state()] * (together - 1))
    state, _ = step(
      state, placement.replicate(resident), placement.shard_batches([batch] * (together - 1)), placement.stack(ones)
    )
    for i in range(together - 1):
      np.testing.assert_array_equal(
        placement.select_replica(jax.device_get(state), i)["sum"], expected_sum(resident, batch)
      )

  def test_replicas_are_evaluated_on_their_own_rows(self, together, count, resident, batch):
    placement = self.placement(together, count)

    def eval_step(variables, resident, batch):
      rows = variables * resident.target[batch.index]
      return Sums(jnp.sum(rows), jnp.zeros((), jnp.int32)), rows

    shifted = [batch._replace(index=(batch.index + i) % ROWS) for i in range(together)]
    variables = placement.put_states([np.float32(i) for i in range(together)])
    found = placement.compile_eval(eval_step, "sums")(
      variables, placement.replicate(resident), placement.shard_batches(shifted)
    )
    for i, each in enumerate(shifted):
      _, rows = placement.select_replica(jax.device_get(found), i)
      np.testing.assert_array_equal(rows, i * resident.target[each.index])

  def test_uses_at_most_one_device_per_replica(self, together, count):
    placement = self.placement(together, count)
    assert placement.together == together
    assert len(placement.devices) == {(6, 4): 3}.get((together, count), min(together, count))

  def test_a_step_transfers_only_the_batch(self, together, count, resident, batch):
    placement = self.placement(together, count)
    step = placement.compile_train(sum_of_rows(None), "sums")
    state, data = placement.put_states([fresh_state()] * together), placement.replicate(resident)
    arguments = placement.shard_batches([batch] * together), placement.stack([np.float32(0)] * together)
    state, _ = step(state, data, *arguments)
    with jax.transfer_guard_device_to_device("disallow"):
      step(state, data, *arguments)

  def test_prepare_returns_the_memory_of_a_step(self, together, count, resident, batch):
    placement = self.placement(together, count)
    step = placement.compile_train(sum_of_rows(None), "sums")
    state, data = placement.put_states([fresh_state()] * together), placement.replicate(resident)
    needed = step.prepare(
      state, data, placement.shard_batches([batch] * together), placement.stack([np.float32(0)] * together)
    )
    per_device = -(-together // count)
    assert needed >= resident.image.nbytes + resident.target.nbytes + per_device * 16


def test_free_memory_of_a_device_or_of_the_machine():
  class Device:
    def __init__(self, statistics):
      self.memory_stats = lambda: statistics

  assert free_memory(Device({"bytes_limit": 100, "bytes_in_use": 30})) == 70
  assert free_memory(Device({"bytes_limit": 100})) == 100
  assert 2**20 < free_memory(Device(None)) < 2**50
  assert free_memory(jax.devices()[0]) > 2**20


@pytest.mark.parametrize(
  ("replicas", "flags", "expected"), [(2, "", 2), (1, "", 1), (2, "--xla_force_host_platform_device_count=3", 3)]
)
def test_several_replicas_get_one_core_each(replicas, flags, expected):
  if expected > provenance.cores() and not flags:
    pytest.skip("too few cores")
  program = f"from fer_jax.runtime.parallel import all_devices; print(len(all_devices({replicas})))"
  environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PATH": "", "PYTHONPATH": "."}
  found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
  assert int(found.stdout) == expected


def test_all_devices_keeps_initialized_devices():
  assert all_devices(7) == jax.local_devices()
