import sys
from types import SimpleNamespace

import jax
import pytest

from fer_jax.runtime import processes
from fer_jax.runtime.errors import Failure, UserError


def raise_error(error):
  raise error


class TestSingleProcess:
  def test_has_index_0_of_1(self):
    assert (processes.index(), processes.count()) == (0, 1)

  def test_broadcast_returns_the_same_float(self):
    assert processes.broadcast(1 / 3) == 1 / 3

  def test_runs_actions_once(self):
    done = []
    assert processes.first(lambda: done.append(1) or "done") == "done"
    assert processes.after_first(lambda: done.append(2) or "again") == "again"
    assert done == [1, 2]

  def test_propagates_errors(self):
    with pytest.raises(UserError, match="no such file"):
      processes.first(lambda: raise_error(UserError("no such file")))


class ProcessEnded(BaseException):
  """Raised in place of ending the process."""


@pytest.fixture
def status(monkeypatch):
  """Returns a function that runs a program until it ends the process, and returns the exit status."""

  def fake_exit(status):
    raise ProcessEnded(status)

  monkeypatch.setattr(processes.os, "_exit", fake_exit)

  def run(program):
    with pytest.raises(ProcessEnded) as ended:
      processes.run(program)
    return ended.value.args[0]

  return run


class TestRun:
  def test_returns_the_status_of_the_program(self):
    assert processes.run(lambda: 143) == 143

  @pytest.mark.parametrize(("error", "expected"), [(UserError("no such file"), 2), (Failure("diverged"), 1)])
  def test_reports_user_errors_in_one_line(self, status, capsys, error, expected):
    assert status(lambda: raise_error(error)) == expected
    assert capsys.readouterr().err == f"error: {error}\n"

  @pytest.mark.parametrize(
    "reason",
    [
      "UNKNOWN: Gloo AllGather failed: Connection reset by peer",
      "INTERNAL: NCCL operation ncclAllReduce failed: remote process exited",
      "UNAVAILABLE: Task 1 heartbeat timeout",
    ],
  )
  @pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
  def test_reports_a_lost_process(self, status, capsys, monkeypatch, kind, reason):
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert status(lambda: raise_error(kind(reason + "\nmore"))) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: another process has ended or is unreachable (")
    assert reason in message and "more)" not in message and message.count("\n") == 1

  @pytest.mark.parametrize(
    "error", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), KeyError("layer"), ValueError("nccl?")]
  )
  def test_other_errors_have_a_traceback(self, status, capsys, error):
    assert status(lambda: raise_error(error)) == 1
    assert "Traceback" in capsys.readouterr().err

  @pytest.mark.parametrize(("error", "expected"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
  def test_interrupt_and_broken_pipe_have_no_traceback(self, status, capsys, error, expected):
    assert status(lambda: raise_error(error)) == expected
    assert capsys.readouterr().err == ""

  def test_exits_if_the_output_cannot_be_flushed(self, status, monkeypatch):
    def flush():
      raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", SimpleNamespace(flush=flush))
    assert status(lambda: raise_error(BrokenPipeError())) == 141


def test_rejects_auto_without_a_cluster(monkeypatch):
  def initialize(*address, **options):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  with pytest.raises(UserError, match="--processes=auto: no cluster supported by JAX"):
    processes.join(None)


class TestJoin:
  @pytest.fixture
  def errors(self, monkeypatch):
    """Errors that `jax.distributed.initialize` raises, one per call; None for success."""
    errors_to_raise = []

    def initialize(*address, **options):
      if errors_to_raise and (error := errors_to_raise.pop(0)) is not None:
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    return errors_to_raise

  def test_retries_after_a_failed_name_lookup(self, errors):
    errors += [RuntimeError("Retry failed with all attempts exhausted"), None]
    processes.join(None)
    assert errors == []

  def test_reports_other_cluster_errors_in_one_line(self, errors):
    errors += [RuntimeError("Kubernetes API Error: 403 - Forbidden\nmore")]
    with pytest.raises(Failure, match=r"\(Kubernetes API Error: 403 - Forbidden\)$"):
      processes.join(None)
