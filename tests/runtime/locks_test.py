import subprocess
import sys
import threading

import pytest

from fer_jax.runtime import locks
from fer_jax.runtime.errors import UserError


def test_a_lock_is_taken_once(tmp_path):
  held = locks.take(tmp_path / "run" / "lock")
  with pytest.raises(UserError, match=r"run: process \d+ on .+ is running in this folder; wait"):
    locks.take(tmp_path / "run" / "lock")
  held.close()
  locks.take(tmp_path / "run" / "lock").close()


def test_it_goes_with_its_process(tmp_path):
  program = (
    f"from fer_jax.runtime import locks; from pathlib import Path; held = locks.take(Path({str(tmp_path / 'lock')!r}))"
  )
  subprocess.run([sys.executable, "-c", f"{program}; import os; os.kill(os.getpid(), 9)"], check=False)
  locks.take(tmp_path / "lock").close()


def test_waiting_takes_it_when_it_is_free(tmp_path):
  held = locks.take(tmp_path / "lock")
  threading.Timer(0.2, held.close).start()
  locks.take(tmp_path / "lock", wait=True).close()
  assert held.closed


class TestAnotherMachine:
  @pytest.fixture
  def held(self, tmp_path, monkeypatch):
    file = locks.take(tmp_path / "lock")
    monkeypatch.setattr(locks, "_machine", lambda: "another one")
    yield file
    file.close()

  def test_is_waited_for(self, tmp_path, held, capsys):
    threading.Timer(0.2, held.close).start()
    locks.take(tmp_path / "lock").close()
    assert "waiting up to 180 s for process" in capsys.readouterr().err

  def test_is_not_waited_for_forever(self, tmp_path, held, monkeypatch):
    monkeypatch.setattr(locks, "_LEASE_SECONDS", 0.1)
    with pytest.raises(UserError, match="is running in this folder"):
      locks.take(tmp_path / "lock")
