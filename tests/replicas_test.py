"""How many trainings go side by side, decided without a training."""

import pytest

from fer_jax import replicas

GIB = 2**30


class FakeTrial:
  def __init__(self, memory, seconds):
    self.memory, self.seconds = (lambda: memory), (lambda: seconds)


class Trials:
  """Trials in which each training takes so many bytes, and remembers which were made."""

  def __init__(self, bytes_each=0, in_turn=1.0, beside=1.0):
    self.bytes_each, self.in_turn, self.beside = bytes_each, in_turn, beside
    self.made = []

  def __call__(self, together):
    self.made.append(together)
    seconds = self.in_turn if together <= self.devices else self.beside * together
    return FakeTrial(self.bytes_each * -(-together // self.devices), seconds)

  def choose(self, strategy, count, devices=1):
    self.devices = devices
    return replicas.choose(strategy, count, [object()] * devices, self)


@pytest.fixture(autouse=True)
def memory(monkeypatch):
  monkeypatch.setattr(replicas, "free_memory", lambda device: 10 * GIB)


class TestChoose:
  def test_in_turn_tries_nothing(self):
    trials = Trials()
    assert trials.choose("loop", 10)[:2] == ("loop", 1)
    assert trials.choose("loop", 10, devices=4)[:2] == ("loop", 4)
    assert trials.made == []

  @pytest.mark.parametrize("strategy", ["auto", "loop", "vmap"])
  def test_a_device_for_each_needs_no_choice(self, strategy):
    trials = Trials()
    assert trials.choose(strategy, 3, devices=4) == ("loop", 3, "one to a device")
    assert trials.made == []

  @pytest.mark.parametrize(("beside", "expected"), [(0.5, ("vmap", 10)), (2.0, ("loop", 1)), (1.0, ("loop", 1))])
  def test_the_faster_is_kept(self, beside, expected):
    choice = Trials(beside=beside).choose("auto", 10)
    assert choice[:2] == expected
    assert choice.reason == f"a step of one takes 1000.0 ms in turn and {1000 * beside:.1f} ms side by side"

  def test_time_is_counted_by_training(self):
    # Two devices: a step in turn is of two trainings, one side by side of ten.
    assert Trials(in_turn=1.0, beside=0.4).choose("auto", 10, devices=2).strategy == "vmap"
    assert Trials(in_turn=1.0, beside=0.6).choose("auto", 10, devices=2).strategy == "loop"

  @pytest.mark.parametrize(
    ("count", "devices", "gib_each", "together"),
    [(10, 1, 0.9, 10), (10, 1, 1.0, 5), (10, 1, 2.9, 3), (10, 1, 4, 2), (10, 2, 2.0, 5), (118, 1, 1.0, 9)],
  )
  def test_no_more_than_fit_and_evenly(self, count, devices, gib_each, together):
    trials = Trials(bytes_each=int(gib_each * GIB))
    choice = trials.choose("vmap", count, devices)
    assert choice[:2] == ("vmap", together)
    assert gib_each * -(-together // devices) <= 9
    assert len(trials.made) <= 4
    assert ("at a time" in choice.reason) == (together < count)

  def test_where_not_even_two_fit_they_go_in_turn(self):
    choice = Trials(bytes_each=6 * GIB).choose("auto", 4)
    assert choice[:2] == ("loop", 1)
    assert "4 side by side would take 24 GiB on a device, of which 9 GiB are free: 1 at a time" in choice.reason

  def test_where_nothing_is_known_of_memory_all_go(self):
    assert Trials(bytes_each=0).choose("vmap", 50)[:2] == ("vmap", 50)


@pytest.mark.parametrize(("count", "together", "sizes"), [(10, 10, [10]), (10, 4, [4, 4, 2]), (3, 1, [1, 1, 1])])
def test_waves_take_all_in_order(count, together, sizes):
  found = replicas.waves(range(count), together)
  assert [len(wave) for wave in found] == sizes
  assert [number for wave in found for number in wave] == list(range(count))
