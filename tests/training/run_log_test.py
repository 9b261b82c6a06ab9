import json
import struct
import sys
import types

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto import event_pb2

from fer_jax.training import run_log
from fer_jax.training.run_log import Console, RunLog, Stopwatch


class Clock:
  """A fake clock that only `sleep` advances, and stopwatches that use it."""

  def __init__(self):
    self.now = 1000.0

  def monotonic(self):
    return self.now

  def sleep(self, seconds):
    self.now += seconds

  def stopwatch(self, **options):
    return Stopwatch(now=self.monotonic, **options)


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(run_log, "time", types.SimpleNamespace(monotonic=clock.monotonic, time=clock.monotonic))
  return clock


def rows_of(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train(log, step, **metrics):
  log.train(step, step / 10, "deepening", {"loss": 0.5, **metrics}, batch_size=32)


class TestRows:
  def test_every_line_is_a_json_row(self, tmp_path, clock):
    with RunLog(tmp_path, clock.stopwatch()) as log:
      clock.sleep(2)
      train(log, 1, accuracy=0.25)
      log.evaluation("validation", 1, "deepening", 0.5, 1.5)
      clock.sleep(1)
      log.event(1, 'phase "deepening"\nends')
    assert rows_of(tmp_path) == [
      {"kind": "train", "step": 1, "epoch": 0.1, "phase": "deepening", "loss": 0.5, "accuracy": 0.25, "seconds": 2.0},
      {"kind": "eval", "split": "validation", "step": 1, "phase": "deepening", "accuracy": 0.5, "loss": 1.5}
      | {"seconds": 2.0},
      {"kind": "event", "step": 1, "text": 'phase "deepening"\nends', "seconds": 3.0},
    ]

  def test_can_be_read_during_the_run(self, tmp_path):
    with RunLog(tmp_path, Stopwatch()) as log:
      train(log, 1)
      assert len(rows_of(tmp_path)) == 1

  def test_a_resumed_run_appends_and_continues_its_seconds(self, tmp_path, clock):
    with RunLog(tmp_path, clock.stopwatch()) as log:
      clock.sleep(5)
      train(log, 1)
    clock.sleep(3600)
    watch = clock.stopwatch(seconds_before=1.0)
    with RunLog(tmp_path, watch) as log:
      clock.sleep(1)
      assert watch.seconds == 2.0
      watch.seconds = 5.0  # value from the checkpoint
      clock.sleep(4)
      train(log, 2)
    assert [(row["step"], row["seconds"]) for row in rows_of(tmp_path)] == [(1, 5.0), (2, 9.0)]


class TestRate:
  def test_covers_the_steps_since_the_last_row(self, tmp_path, clock):
    with RunLog(tmp_path, clock.stopwatch()) as log:
      train(log, 1)
      assert log.seconds_a_step is None
      clock.sleep(2)
      train(log, 5)
      clock.sleep(3)
      train(log, 6)
      clock.sleep(1)
      train(log, 7)
      assert log.seconds_a_step == 1.0
    assert [row.get("images_per_second") for row in rows_of(tmp_path)] == [None, 64.0, 32 / 3, 32.0]

  def test_excludes_forgotten_intervals(self, tmp_path, clock):
    with RunLog(tmp_path, clock.stopwatch()) as log:
      train(log, 1)
      clock.sleep(1)
      train(log, 2)
      clock.sleep(500)
      log.forget_rate()
      train(log, 3)
      clock.sleep(1)
      train(log, 4)
      assert log.seconds_a_step == 1.0
    assert [row.get("images_per_second") for row in rows_of(tmp_path)] == [None, 32.0, None, 32.0]


class TestStopwatch:
  def test_times_are_summed_by_name_even_after_errors(self, clock):
    watch = clock.stopwatch()
    with watch.timing("train"):
      clock.sleep(3)
    with pytest.raises(KeyError), watch.timing("train"):
      clock.sleep(4)
      raise KeyError
    with watch.timing("evaluate"):
      clock.sleep(1)
    assert watch.times == {"prepare": 0.0, "train": 7.0, "evaluate": 1.0, "compile": 0.0}

  def test_nested_times_are_counted_once(self, clock):
    watch = clock.stopwatch()
    with watch.timing("train"):
      clock.sleep(3)
      with watch.timing("evaluate"):
        clock.sleep(2)
    assert (watch.times["train"], watch.times["evaluate"]) == (3.0, 2.0)

  def test_includes_the_times_of_another_stopwatch(self, clock):
    watch, other = clock.stopwatch(), clock.stopwatch()
    for timed, seconds in ((watch, 3), (other, 2)):
      with timed.timing("train"):
        clock.sleep(seconds)
    watch.include(other)
    assert watch.times == {"prepare": 0.0, "train": 5.0, "evaluate": 0.0, "compile": 0.0}

  def test_compile_time_starts_at_zero(self):
    jax.jit(lambda x: x + 1)(jnp.zeros(3)).block_until_ready()
    watch = Stopwatch()
    assert watch.times["compile"] == 0.0
    jax.jit(lambda x: x + 2)(jnp.zeros(3)).block_until_ready()
    assert watch.times["compile"] > 0.0


class TestConsole:
  def test_prints_progress_at_most_every_ten_seconds_without_a_terminal(self, clock, capsys):
    console = Console()
    for step in range(1, 35):
      console.progress(f"step {step}")
      clock.sleep(1)
    printed = capsys.readouterr().out
    assert "\r" not in printed
    assert printed.splitlines() == ["step 1", "step 12", "step 23", "step 34"]

  def test_messages_are_always_printed(self, clock, capsys):
    console = Console()
    console.progress("step 1")
    console.say("resumed")
    console.say("done")
    assert capsys.readouterr().out.splitlines() == ["step 1", "resumed", "done"]

  def test_rewrites_one_line_in_a_terminal(self, clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console = Console()
    console.progress("step 1  accuracy 0.125")
    console.progress("step 2")
    console.say("done")
    first, second, erased, message = capsys.readouterr().out.lstrip("\r").split("\r")
    assert (first.count("step 1"), message) == (1, "done\n")
    assert len(second) == len(first)  # spaces overwrite the rest of the longer line
    assert erased.strip() == ""


def test_tensorboard_has_the_same_values(tmp_path, clock):
  with RunLog(tmp_path, clock.stopwatch()) as log:
    train(log, 1, accuracy=0.25)
    clock.sleep(1)
    train(log, 3, accuracy=0.75)
    log.evaluation("validation", 3, "deepening", 0.5, 1.5)
  (file,) = (tmp_path / "tensorboard").iterdir()
  scalars = set(_scalars(file.read_bytes()))
  assert scalars >= {
    ("train/loss", 1, 0.5),
    ("train/accuracy", 1, 0.25),
    ("train/accuracy", 3, 0.75),
    ("train/images_per_second", 3, 64.0),
    ("validation/accuracy", 3, 0.5),
    ("validation/loss", 3, 1.5),
  }


def _scalars(records):
  """Yields (tag, step, value) of an event file: records of length, checksum, event, checksum."""
  start = 0
  while start < len(records):
    (length,) = struct.unpack_from("<Q", records, start)
    event = event_pb2.Event.FromString(records[start + 12 : start + 12 + length])
    for value in event.summary.value:
      yield value.tag, event.step, value.simple_value
    start += 12 + length + 4
