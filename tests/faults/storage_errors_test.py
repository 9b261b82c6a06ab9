"""Handling of storage errors without a run: logs on a full disk, damaged checkpoints, changed data, the command."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fer_jax.data import arrays
from fer_jax.runtime import errors
from fer_jax.runtime.errors import Failure
from fer_jax.training import run_log
from fer_jax.training.checkpoint import Checkpoints, Progress, read_variables
from fer_jax.training.run_log import RunLog, Stopwatch
from tests.faults import __main__ as command
from tests.faults.registry import Fault
from tests.tiny_run import tiny_arrays
from tests.training.checkpoint_test import Run, make_iterator, state_at


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """Returns a run with checkpoints of steps 2 and 4."""
  run = Run(tmp_path_factory.mktemp("saved") / "checkpoints")
  run.save({2: None, 4: 0.5})
  return run


def _raise_disk_full(*arguments, **more):
  raise OSError(errno.ENOSPC, "No space left on device")


class TestLog:
  def test_full_disk_gives_a_one_line_error_with_the_file(self, tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    message = r"metrics\.jsonl cannot be written \(No space left on device\)"
    with pytest.raises(Failure, match=message), RunLog(tmp_path, Stopwatch()) as log:
      log.event(1, "something")

  def test_full_disk_gives_a_one_line_error_for_tensorboard(self, tmp_path, monkeypatch):
    message = r"tensorboard cannot be written \(No space left on device\)"
    with pytest.raises(Failure, match=message), RunLog(tmp_path, Stopwatch()) as log:
      monkeypatch.setattr(run_log.EventsWriter, "write_event", _raise_disk_full)
      log.evaluation("test", 1, "phase", 0.5, 0.5)

  def test_line_after_a_truncated_line_is_complete(self, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "event"}\n{"kind": "tr')
    with RunLog(tmp_path, Stopwatch()) as log:
      log.event(1, "resumed")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[1] == '{"kind": "tr'
    assert json.loads(lines[2])["text"] == "resumed"


class TestCheckpoints:
  # If a file is damaged, orbax releases its event loop only after it was closed.
  @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
  def test_flipped_bit_is_detected_or_has_no_effect(self, saved, tmp_path):
    names = ("d/*", "ocdbt.process_0/d/*", "metadata")
    files = [
      path for item in ("state", "progress", "data") for name in names for path in saved.folder.glob(f"4/{item}/{name}")
    ]
    assert len(files) >= 4
    detected = 0
    for file in files:
      whole = file.read_bytes()
      file.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
      try:
        variables = read_variables(saved.folder, 4)
      except Exception:
        detected += 1
      else:
        for one, two in zip(variables[0].values(), state_at(4).params.values(), strict=True):
          for name in one:
            np.testing.assert_array_equal(one[name], two[name])
      file.write_bytes(whole)
    assert detected

  def test_changed_progress_is_detected(self, saved, tmp_path):
    folder = tmp_path / "checkpoints"
    run = Run(folder)
    run.save({2: None, 4: 0.5})
    file = folder / "4" / "progress" / "metadata"
    progress = json.loads(file.read_text())
    file.write_text(json.dumps(progress | {"phase_step": 3}))
    (warning,) = run.assert_restores(2)
    assert "its checksums differ" in warning

  def test_failed_write_gives_a_one_line_error(self, tmp_path, monkeypatch):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:

      def fail(*arguments, **more):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing\nmore lines")

      monkeypatch.setattr(checkpoints._manager, "save", fail)
      with pytest.raises(Failure, match=r"a checkpoint cannot be written \(No space left on device\); free or repair"):
        checkpoints.save(state_at(1), make_iterator(), Progress(step=1), None)


class TestErrors:
  def test_disk_errors_become_failures_and_other_errors_pass(self, tmp_path):
    with pytest.raises(Failure, match="a file cannot be written"), errors.storage():
      _raise_disk_full()
    with pytest.raises(FileNotFoundError), errors.storage():
      (tmp_path / "absent").read_text()

  def test_message_does_not_claim_a_write_if_it_may_have_been_a_read(self):
    broken = OSError(errno.EIO, os.strerror(errno.EIO), "/data/faces")
    message = r"/data/faces cannot be read or written \(Input/output error\); free or repair"
    with pytest.raises(Failure, match=message), errors.storage():
      raise broken
    with pytest.raises(Failure, match=r"^log cannot be written \(Input/output error\)"), errors.storage(Path("log")):
      raise broken

  def test_program_exits_with_status_1(self, capsys):
    with pytest.raises(SystemExit) as ended:
      errors.run(_raise_disk_full)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: a file cannot be written (No space left on device); free")

  @pytest.mark.parametrize("lines", [1, 100_000])
  def test_program_with_a_closed_output_exits_silently(self, lines):
    program = (
      f"from fer_jax.runtime import errors; errors.run(lambda: [print('a line') for _ in range({lines})] and None)"
    )
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed_pipe:
      done = subprocess.run([sys.executable, "-c", program], stdout=closed_pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


class TestFingerprint:
  def test_fingerprint_depends_on_every_pixel_and_label(self):
    def fingerprint(**changes):
      return arrays._with_fingerprint(arrays.dataclasses.replace(tiny_arrays(), **changes)).fingerprint

    image, label = tiny_arrays().image.copy(), tiny_arrays().label.copy()
    assert fingerprint() == fingerprint(image=image, notes=("other",))
    image[-1, -1, -1] ^= 1
    label[-1] ^= 1
    assert len({fingerprint(), fingerprint(image=image), fingerprint(label=label)}) == 3


class TestCommand:
  @pytest.mark.parametrize(
    ("flag", "message"), [("--times=0", "--times=0: expected 1"), ("--fault=x", "no such fault")]
  )
  def test_rejects_wrong_flags(self, flag, message):
    with pytest.raises(errors.UserError, match=message):
      command.main([flag])

  def test_counts_failed_trials(self, monkeypatch, tmp_path, capsys):
    results = iter([{"steps_lost": 3}, AssertionError("lost"), {"steps_lost": 6}, OSError("unreadable")])

    def inject(harness, rng):
      found = next(results)
      if isinstance(found, Exception):
        raise found
      return found

    monkeypatch.setattr(command, "FAULTS", {"a fault": Fault(inject, 5)})
    monkeypatch.setattr(command, "Harness", contextlib.nullcontext)
    assert command.main(["--times=4", "--jobs=1", f"--out={tmp_path / 'faults.json'}"]) == 1
    (row,) = json.loads((tmp_path / "faults.json").read_text())["rows"]
    assert (row["injected"], row["survived"], row["steps_lost"], row["bound"]) == (4, 1, "3.0 (3 at most)", "5")
    errors_shown = capsys.readouterr().err
    assert all(text in errors_shown for text in ("AssertionError: lost", "bound 5", "OSError: unreadable"))

  def test_lost_steps_are_unknown_if_all_trials_fail(self, monkeypatch):
    def inject(harness, rng):
      raise AssertionError

    monkeypatch.setattr(command, "FAULTS", {"a fault": Fault(inject, 5)})
    row = command.Trials(None, 1).row("a fault", 2)
    assert (row["survived"], row["steps_lost"]) == (0, "not known")
