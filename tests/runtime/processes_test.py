import sys
from types import SimpleNamespace

import jax
import pytest

from fer_jax.runtime import processes
from fer_jax.runtime.errors import Failure, UserError


def refuse(error):
  raise error


class TestAlone:
  def test_is_the_first_of_one(self):
    assert (processes.index(), processes.count()) == (0, 1)

  def test_agrees_with_itself_to_the_last_bit(self):
    assert processes.agreed(1 / 3) == 1 / 3

  def test_does_what_the_first_does_once(self):
    done = []
    assert processes.first(lambda: done.append(1) or "done") == "done"
    assert processes.after_first(lambda: done.append(2) or "again") == "again"
    assert done == [1, 2]

  def test_an_error_passes(self):
    with pytest.raises(UserError, match="no such file"):
      processes.first(lambda: refuse(UserError("no such file")))


class Ended(BaseException):
  """In the place of the end of the process."""


@pytest.fixture
def status(monkeypatch):
  """Runs a program that ends the process, and returns its exit status."""

  def leave(status):
    raise Ended(status)

  monkeypatch.setattr(processes.os, "_exit", leave)

  def run(program):
    with pytest.raises(Ended) as ended:
      processes.run(program)
    return ended.value.args[0]

  return run


class TestRun:
  def test_returns_what_the_program_returns(self):
    assert processes.run(lambda: 143) == 143

  @pytest.mark.parametrize(("error", "expected"), [(UserError("no such file"), 2), (Failure("diverged"), 1)])
  def test_what_is_wrong_is_said_in_a_line(self, status, capsys, error, expected):
    assert status(lambda: refuse(error)) == expected
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
  def test_a_process_that_is_gone_is_named_as_that(self, status, capsys, monkeypatch, kind, reason):
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert status(lambda: refuse(kind(reason + "\nmore"))) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: another process has ended or is unreachable (")
    assert reason in said and "more)" not in said and said.count("\n") == 1

  @pytest.mark.parametrize(
    "error", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), KeyError("layer"), ValueError("nccl?")]
  )
  def test_what_is_the_codes_own_has_a_traceback(self, status, capsys, error):
    assert status(lambda: refuse(error)) == 1
    assert "Traceback" in capsys.readouterr().err

  @pytest.mark.parametrize(("error", "expected"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
  def test_ctrl_c_and_output_that_nobody_reads_have_no_traceback(self, status, capsys, error, expected):
    assert status(lambda: refuse(error)) == expected
    assert capsys.readouterr().err == ""

  def test_it_ends_where_what_is_left_of_its_output_cannot_be_written(self, status, monkeypatch):
    def flush():
      raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", SimpleNamespace(flush=flush))
    assert status(lambda: refuse(BrokenPipeError())) == 141


def test_no_cluster_is_said_in_a_line(monkeypatch):
  def initialize(*address, **options):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  with pytest.raises(UserError, match="--processes=auto: no cluster supported by JAX"):
    processes.join(None)


class TestJoin:
  @pytest.fixture
  def answers(self, monkeypatch):
    """What JAX says, call after call, in the place of joining."""
    said = []

    def initialize(*address, **options):
      if said and (error := said.pop(0)) is not None:
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    return said

  def test_a_name_service_that_is_late_is_asked_again(self, answers):
    answers += [RuntimeError("Retry failed with all attempts exhausted"), None]
    processes.join(None)
    assert answers == []

  def test_other_faults_of_a_cluster_are_a_line(self, answers):
    answers += [RuntimeError("Kubernetes API Error: 403 - Forbidden\nmore")]
    with pytest.raises(Failure, match=r"\(Kubernetes API Error: 403 - Forbidden\)$"):
      processes.join(None)
