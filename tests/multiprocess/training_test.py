import json
import signal

import numpy as np
import pytest

from fer_jax.runtime.interruption import Interrupted
from tests import tiny_run
from tests.multiprocess.tiny import get_config

pytestmark = pytest.mark.usefixtures("tiny_data")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_data):
  """The folder of the same run by one process with four devices."""
  folder = tmp_path_factory.mktemp("alone") / "run"
  tiny_run.run(folder, get_config(), devices=4)
  return folder


def losses(workdir):
  return {row["step"]: row["loss"] for row in tiny_run.rows(workdir, "train")}


def assert_same_curve(workdir, expected):
  found = losses(workdir)
  assert found.keys() == expected.keys()
  np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)


def result(workdir):
  return json.loads((workdir / "result.json").read_text())


def predictions(workdir):
  with np.load(workdir / "predictions.npz") as file:
    return dict(file)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_do_what_one_does(tmp_path, launch, alone, devices):
  # Rows by the host, each process its own, where the one has them all on its devices.
  first, second = launch(tmp_path / "run", 2, devices=devices, flags=("--config.data.residence=host",)).end()
  assert (first.status, second.status) == (0, 0), first.complained + second.complained
  assert_same_curve(tmp_path / "run", losses(alone))
  assert len(tiny_run.rows(tmp_path / "run", "train")) == len(losses(alone))  # one of them wrote it
  assert result(tmp_path / "run")["confusion_matrix"] == result(alone)["confusion_matrix"]
  assert result(tmp_path / "run")["processes"] == 2
  assert result(tmp_path / "run")["device"].startswith(f"{2 * devices} x cpu")
  theirs, ours = predictions(tmp_path / "run"), predictions(alone)
  assert theirs.keys() == ours.keys()
  for name, values in ours.items():
    np.testing.assert_allclose(theirs[name], values, atol=1e-4)
  assert "test accuracy" in first.said
  assert [line for line in second.said.splitlines() if "Gloo" not in line] == []


def test_a_signal_to_one_stops_all_and_one_process_goes_on(tmp_path, launch, alone):
  both = launch(tmp_path / "run", 2, devices=1)
  both.wait_for_step(4)
  both.processes[1].send_signal(signal.SIGTERM)
  first, second = both.end()
  assert (first.status, second.status) == (143, 143), first.complained + second.complained
  assert "stopped by SIGTERM" in first.said
  stopped = max(losses(tmp_path / "run"))
  assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*")].count(str(stopped)) == 1
  assert stopped < 30
  tiny_run.run(tmp_path / "run", get_config(), devices=1)
  events = [row["text"] for row in tiny_run.rows(tmp_path / "run", "event")]
  assert f"resumed from step {stopped}" in events
  assert_same_curve(tmp_path / "run", losses(alone))


@pytest.mark.slow
def test_one_process_stops_and_four_go_on(tmp_path, launch, alone, monkeypatch):
  tiny_run.stop_after(monkeypatch, 7)
  with pytest.raises(Interrupted):
    tiny_run.run(tmp_path / "run", get_config(), devices=1)
  ended = launch(tmp_path / "run", 4, devices=1).end()
  assert [each.status for each in ended] == [0, 0, 0, 0], ended
  assert_same_curve(tmp_path / "run", losses(alone))
  assert result(tmp_path / "run")["processes"] == 4


@pytest.mark.slow
def test_a_budget_ends_both_at_one_step(tmp_path, launch):
  flags = ("--config.budget_minutes=0.15", "--config.duration=100000 steps", "--config.evaluate_every=50000 steps")
  ended = launch(tmp_path / "run", 2, devices=1, flags=flags).end()
  assert [each.status for each in ended] == [0, 0], ended
  assert result(tmp_path / "run")["stopped"] == "time budget"


def test_what_one_refuses_ends_all(tmp_path, launch):
  tiny_run.run(tmp_path / "run", tiny_run.config(duration="1 steps"))
  (tmp_path / "run" / "result.json").unlink()
  first, second = launch(tmp_path / "run", 2, devices=1).end()
  assert (first.status, second.status) == (2, 2)
  assert first.complained.splitlines()[-1].startswith(f"error: {tmp_path / 'run'} contains a run of another config")
  assert "error: process 1 of 2: process 0 failed: " in second.complained


@pytest.mark.slow
def test_the_others_end_when_one_is_killed(tmp_path, launch):
  both = launch(tmp_path / "run", 2, devices=1)
  both.wait_for_step(6)
  both.processes[1].kill()
  first, second = both.end(seconds=60)
  assert second.status == -signal.SIGKILL
  assert first.status == 1
  assert "error: another process has ended" in first.complained
  assert "Traceback" not in first.complained


def test_several_trainings_take_one_process(tmp_path, launch):
  ended = launch(tmp_path / "run", 2, devices=1, flags=("--config.replicas=3",)).end()
  assert [each.status for each in ended] == [2, 2]
  assert "config.replicas: 3 replicas require a single process, but there are 2" in ended[0].complained
  assert not (tmp_path / "run").exists()


def test_unequal_data_are_refused(tmp_path, launch):
  ended = launch(tmp_path / "run", 2, devices=1, fault="other data").end()
  assert [each.status for each in ended] == [2, 2], ended
  assert "process 1 has other data than process 0" in ended[0].complained
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_checkpoint_that_one_cannot_read_is_passed_over_by_all(tmp_path, launch, alone, monkeypatch):
  with monkeypatch.context() as patch:
    tiny_run.stop_after(patch, 13)
    with pytest.raises(Interrupted):
      tiny_run.run(tmp_path / "run", get_config(), devices=1)
  ended = launch(tmp_path / "run", 2, devices=1, fault="unreadable checkpoint").end()
  assert [each.status for each in ended] == [2, 2], ended
  assert "none of the checkpoints [13, 10] can be read" in ended[0].complained
  assert (
    "process 1 failed: a file cannot be read or written (Input/output error)"
    in (tmp_path / "run" / "metrics.jsonl").read_text()
  )
  ended = launch(tmp_path / "run", 2, devices=1).end()
  assert [each.status for each in ended] == [0, 0], ended
  assert_same_curve(tmp_path / "run", losses(alone))


@pytest.mark.slow
def test_a_process_killed_in_a_save_does_not_blame_the_disk(tmp_path, launch):
  ended = launch(tmp_path / "run", 2, devices=1, fault="killed in a save").end(seconds=60)
  assert [each.status for each in ended] == [1, -signal.SIGKILL], ended
  assert "error: another process has ended" in ended[0].complained
  assert "disk" not in ended[0].complained


@pytest.mark.slow
def test_a_signal_within_a_save_of_a_resumed_run_stops_all_at_once(tmp_path, launch, monkeypatch):
  tiny_run.stop_after(monkeypatch, 7)
  with pytest.raises(Interrupted):
    tiny_run.run(tmp_path / "run", get_config(), devices=1)
  ended = launch(tmp_path / "run", 2, devices=1, fault="told in a save").end()
  assert [each.status for each in ended] == [143, 143], ended
  assert max(losses(tmp_path / "run")) <= 12
