import json
import signal

import numpy as np
import pytest

from fer_jax.runtime.interruption import Interrupted
from tests import tiny_run
from tests.multiprocess.tiny import get_config

pytestmark = pytest.mark.usefixtures("tiny_data")


@pytest.fixture(scope="module")
def single_process(tmp_path_factory, tiny_data):
  """Returns the folder of the same run by one process with four devices."""
  folder = tmp_path_factory.mktemp("single_process") / "run"
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
def test_two_processes_give_the_results_of_one(tmp_path, launch, single_process, devices):
  # Here each process reads its rows from host memory; the single process keeps all rows on its devices.
  first, second = launch(tmp_path / "run", 2, devices=devices, flags=("--config.data.residence=host",)).finish()
  assert (first.status, second.status) == (0, 0), first.err + second.err
  assert_same_curve(tmp_path / "run", losses(single_process))
  assert len(tiny_run.rows(tmp_path / "run", "train")) == len(losses(single_process))  # only one process writes the log
  assert result(tmp_path / "run")["confusion_matrix"] == result(single_process)["confusion_matrix"]
  assert result(tmp_path / "run")["processes"] == 2
  assert result(tmp_path / "run")["device"].startswith(f"{2 * devices} x cpu")
  theirs, ours = predictions(tmp_path / "run"), predictions(single_process)
  assert theirs.keys() == ours.keys()
  for name, values in ours.items():
    np.testing.assert_allclose(theirs[name], values, atol=1e-4)
  assert "test accuracy" in first.out
  assert [line for line in second.out.splitlines() if "Gloo" not in line] == []


def test_signal_to_one_process_stops_all_and_one_process_resumes(tmp_path, launch, single_process):
  both = launch(tmp_path / "run", 2, devices=1)
  both.wait_for_step(4)
  both.processes[1].send_signal(signal.SIGTERM)
  first, second = both.finish()
  assert (first.status, second.status) == (143, 143), first.err + second.err
  assert "stopped by SIGTERM" in first.out
  stopped = max(losses(tmp_path / "run"))
  assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*")].count(str(stopped)) == 1
  assert stopped < 30
  tiny_run.run(tmp_path / "run", get_config(), devices=1)
  events = [row["text"] for row in tiny_run.rows(tmp_path / "run", "event")]
  assert f"resumed from step {stopped}" in events
  assert_same_curve(tmp_path / "run", losses(single_process))


@pytest.mark.slow
def test_one_process_stops_and_four_resume(tmp_path, launch, single_process, monkeypatch):
  tiny_run.stop_after(monkeypatch, 7)
  with pytest.raises(Interrupted):
    tiny_run.run(tmp_path / "run", get_config(), devices=1)
  results = launch(tmp_path / "run", 4, devices=1).finish()
  assert [each.status for each in results] == [0, 0, 0, 0], results
  assert_same_curve(tmp_path / "run", losses(single_process))
  assert result(tmp_path / "run")["processes"] == 4


@pytest.mark.slow
def test_time_budget_stops_both_processes_at_the_same_step(tmp_path, launch):
  flags = ("--config.budget_minutes=0.15", "--config.duration=100000 steps", "--config.evaluate_every=50000 steps")
  results = launch(tmp_path / "run", 2, devices=1, flags=flags).finish()
  assert [each.status for each in results] == [0, 0], results
  assert result(tmp_path / "run")["stopped"] == "time budget"


def test_error_of_one_process_stops_all(tmp_path, launch):
  tiny_run.run(tmp_path / "run", tiny_run.config(duration="1 steps"))
  (tmp_path / "run" / "result.json").unlink()
  first, second = launch(tmp_path / "run", 2, devices=1).finish()
  assert (first.status, second.status) == (2, 2)
  assert first.err.splitlines()[-1].startswith(f"error: {tmp_path / 'run'} contains a run of another config")
  assert "error: process 1 of 2: process 0 failed: " in second.err


@pytest.mark.slow
def test_other_processes_exit_when_one_is_killed(tmp_path, launch):
  both = launch(tmp_path / "run", 2, devices=1)
  both.wait_for_step(6)
  both.processes[1].kill()
  first, second = both.finish(timeout=60)
  assert second.status == -signal.SIGKILL
  assert first.status == 1
  assert "error: another process has ended" in first.err
  assert "Traceback" not in first.err


def test_replicas_require_a_single_process(tmp_path, launch):
  results = launch(tmp_path / "run", 2, devices=1, flags=("--config.replicas=3",)).finish()
  assert [each.status for each in results] == [2, 2]
  assert "config.replicas: 3 replicas require a single process, but there are 2" in results[0].err
  assert not (tmp_path / "run").exists()


def test_rejects_different_data(tmp_path, launch):
  results = launch(tmp_path / "run", 2, devices=1, fault="other data").finish()
  assert [each.status for each in results] == [2, 2], results
  assert "process 1 has other data than process 0" in results[0].err
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_all_processes_skip_a_checkpoint_that_one_cannot_read(tmp_path, launch, single_process, monkeypatch):
  with monkeypatch.context() as patch:
    tiny_run.stop_after(patch, 13)
    with pytest.raises(Interrupted):
      tiny_run.run(tmp_path / "run", get_config(), devices=1)
  results = launch(tmp_path / "run", 2, devices=1, fault="unreadable checkpoint").finish()
  assert [each.status for each in results] == [2, 2], results
  assert "none of the checkpoints [13, 10] can be read" in results[0].err
  assert (
    "process 1 failed: a file cannot be read or written (Input/output error)"
    in (tmp_path / "run" / "metrics.jsonl").read_text()
  )
  results = launch(tmp_path / "run", 2, devices=1).finish()
  assert [each.status for each in results] == [0, 0], results
  assert_same_curve(tmp_path / "run", losses(single_process))


@pytest.mark.slow
def test_process_killed_in_a_save_is_not_reported_as_a_disk_error(tmp_path, launch):
  results = launch(tmp_path / "run", 2, devices=1, fault="killed in a save").finish(timeout=60)
  assert [each.status for each in results] == [1, -signal.SIGKILL], results
  assert "error: another process has ended" in results[0].err
  assert "disk" not in results[0].err


@pytest.mark.slow
def test_signal_during_a_save_of_a_resumed_run_stops_all_processes(tmp_path, launch, monkeypatch):
  tiny_run.stop_after(monkeypatch, 7)
  with pytest.raises(Interrupted):
    tiny_run.run(tmp_path / "run", get_config(), devices=1)
  results = launch(tmp_path / "run", 2, devices=1, fault="SIGTERM in a save").finish()
  assert [each.status for each in results] == [143, 143], results
  assert max(losses(tmp_path / "run")) <= 12
