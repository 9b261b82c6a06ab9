"""Choice of the strategy and of the number of replicas that train together, with fake probes."""

import pytest

from fer_jax.training import strategy
from fer_jax.training.run_result import Strategy
from fer_jax.training.strategy import choose_strategy

GIB = 2**30


def kind_and_number(choice):
  return choice.strategy, choice.together


class FakeProbe:
  def __init__(self, memory, seconds):
    self.memory, self.seconds = (lambda: memory), (lambda: seconds)


class Probes:
  """Makes probes in which each replica takes `bytes_each` bytes, and records their numbers of replicas."""

  def __init__(self, bytes_each=0, loop_seconds=1.0, vmap_seconds=1.0):
    self.bytes_each, self.loop_seconds, self.vmap_seconds = bytes_each, loop_seconds, vmap_seconds
    self.made = []

  def __call__(self, together):
    self.made.append(together)
    seconds = self.loop_seconds if together <= self.devices else self.vmap_seconds * together
    return FakeProbe(self.bytes_each * -(-together // self.devices), seconds)

  def choose(self, strategy, count, devices=1):
    self.devices = devices
    return choose_strategy(strategy, count, [object()] * devices, self)


@pytest.fixture(autouse=True)
def memory(monkeypatch):
  monkeypatch.setattr(strategy, "free_memory", lambda device: 10 * GIB)


class TestChooseStrategy:
  def test_loop_needs_no_probe(self):
    probes = Probes()
    assert kind_and_number(probes.choose("loop", 10)) == ("loop", 1)
    assert kind_and_number(probes.choose("loop", 10, devices=4)) == ("loop", 4)
    assert probes.made == []

  @pytest.mark.parametrize("strategy", ["auto", "loop", "vmap"])
  def test_one_device_per_replica_needs_no_probe(self, strategy):
    probes = Probes()
    assert probes.choose(strategy, 3, devices=4) == Strategy("loop", 3, "one to a device")
    assert probes.made == []

  @pytest.mark.parametrize(("vmap_seconds", "expected"), [(0.5, ("vmap", 10)), (2.0, ("loop", 1)), (1.0, ("loop", 1))])
  def test_auto_chooses_the_faster(self, vmap_seconds, expected):
    choice = Probes(vmap_seconds=vmap_seconds).choose("auto", 10)
    assert kind_and_number(choice) == expected
    assert (
      choice.reason == f"a step of one replica takes 1000.0 ms with loop and {1000 * vmap_seconds:.1f} ms with vmap"
    )

  def test_times_are_compared_per_replica(self):
    # Two devices: a step with loop trains two replicas, a step with vmap trains ten.
    assert Probes(loop_seconds=1.0, vmap_seconds=0.4).choose("auto", 10, devices=2).strategy == "vmap"
    assert Probes(loop_seconds=1.0, vmap_seconds=0.6).choose("auto", 10, devices=2).strategy == "loop"

  @pytest.mark.parametrize(
    ("count", "devices", "gib_each", "together"),
    [(10, 1, 0.9, 10), (10, 1, 1.0, 5), (10, 1, 2.9, 3), (10, 1, 4, 2), (10, 2, 2.0, 5), (118, 1, 1.0, 9)],
  )
  def test_waves_fit_in_memory_and_are_even(self, count, devices, gib_each, together):
    probes = Probes(bytes_each=int(gib_each * GIB))
    choice = probes.choose("vmap", count, devices)
    assert kind_and_number(choice) == ("vmap", together)
    assert gib_each * -(-together // devices) <= 9
    assert len(probes.made) <= 4
    assert ("at a time" in choice.reason) == (together < count)

  def test_loop_if_two_replicas_do_not_fit(self):
    choice = Probes(bytes_each=6 * GIB).choose("auto", 4)
    assert kind_and_number(choice) == ("loop", 1)
    assert "4 together would take 24 GiB on a device with 9 GiB free: 1 at a time" in choice.reason

  def test_unknown_memory_does_not_limit(self):
    assert kind_and_number(Probes(bytes_each=0).choose("vmap", 50)) == ("vmap", 50)
