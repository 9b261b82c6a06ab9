import subprocess
import sys
import threading

import pytest

from fer_jax.runtime import locks
from fer_jax.runtime.errors import UserError


def test_rejects_a_second_holder(tmp_path):
  lock = locks.acquire(tmp_path / "run" / "lock")
  with pytest.raises(UserError, match=r"run: process \d+ on .+ is running in this folder; wait"):
    locks.acquire(tmp_path / "run" / "lock")
  lock.close()
  locks.acquire(tmp_path / "run" / "lock").close()


def test_is_released_when_its_process_dies(tmp_path):
  program = (
    f"import os; from pathlib import Path; from fer_jax.runtime import locks; "
    f"lock = locks.acquire(Path({str(tmp_path / 'lock')!r})); os.kill(os.getpid(), 9)"
  )
  subprocess.run([sys.executable, "-c", program], check=False)
  locks.acquire(tmp_path / "lock").close()


def test_waits_until_the_lock_is_free(tmp_path):
  lock = locks.acquire(tmp_path / "lock")
  threading.Timer(0.2, lock.close).start()
  locks.acquire(tmp_path / "lock", wait=True).close()
  assert lock.closed


class TestHeldByAnotherMachine:
  @pytest.fixture
  def lock(self, tmp_path, monkeypatch):
    file = locks.acquire(tmp_path / "lock")
    monkeypatch.setattr(locks, "_machine", lambda: "another one")
    yield file
    file.close()

  def test_retries_until_released(self, tmp_path, lock, capsys):
    threading.Timer(0.2, lock.close).start()
    locks.acquire(tmp_path / "lock").close()
    assert "waiting up to 180 s for process" in capsys.readouterr().err

  def test_fails_after_the_lease_time(self, tmp_path, lock, monkeypatch):
    monkeypatch.setattr(locks, "_LEASE_SECONDS", 0.1)
    with pytest.raises(UserError, match="is running in this folder"):
      locks.acquire(tmp_path / "lock")
