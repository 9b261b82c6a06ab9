"""What guards a run, without the run: logs on a full disk, checkpoints whose content has changed."""

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
from fer_jax.training.checkpoint import Checkpoints, read_variables
from fer_jax.training.run_log import RunLog, Stopwatch
from tests.faults import __main__ as command
from tests.faults.registry import Fault
from tests.tiny_run import tiny_arrays
from tests.training.checkpoint_test import Run, make_iterator, progress_at, state_at


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """Two checkpoints, steps 2 and 4."""
  run = Run(tmp_path_factory.mktemp("saved") / "checkpoints")
  run.save({2: None, 4: 0.5})
  return run


def _refuse(*arguments, **more):
  raise OSError(errno.ENOSPC, "No space left on device")


class TestLog:
  def test_a_full_disk_is_one_line_that_names_the_file(self, tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    message = r"metrics\.jsonl cannot be written \(No space left on device\)"
    with pytest.raises(Failure, match=message), RunLog(tmp_path, Stopwatch()) as log:
      log.event(1, "something")

  def test_so_it_is_where_tensorboard_writes(self, tmp_path, monkeypatch):
    message = r"tensorboard cannot be written \(No space left on device\)"
    with pytest.raises(Failure, match=message), RunLog(tmp_path, Stopwatch()) as log:
      monkeypatch.setattr(run_log.EventsWriter, "write_event", _refuse)
      log.evaluation("test", 1, "phase", 0.5, 0.5)

  def test_a_line_cut_short_does_not_take_the_next_one_with_it(self, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "event"}\n{"kind": "tr')
    with RunLog(tmp_path, Stopwatch()) as log:
      log.event(1, "resumed")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[1] == '{"kind": "tr'
    assert json.loads(lines[2])["text"] == "resumed"


class TestCheckpoints:
  # orbax lets go of its event loop only after that was closed, where a file is damaged.
  @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
  def test_a_flipped_bit_is_found_wherever_it_is(self, saved, tmp_path):
    names = ("d/*", "ocdbt.process_0/d/*", "metadata")
    files = [
      path for item in ("state", "progress", "data") for name in names for path in saved.folder.glob(f"4/{item}/{name}")
    ]
    assert len(files) >= 4
    passed = 0
    for file in files:
      whole = file.read_bytes()
      file.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
      try:
        variables = read_variables(saved.folder, 4)
      except Exception:
        passed += 1
      else:
        for one, two in zip(variables[0].values(), state_at(4).params.values(), strict=True):
          for name in one:
            np.testing.assert_array_equal(one[name], two[name])
      file.write_bytes(whole)
    assert passed

  def test_a_progress_of_another_checkpoint_is_not_believed(self, saved, tmp_path):
    folder = tmp_path / "checkpoints"
    errors_seen = Run(folder)
    errors_seen.save({2: None, 4: 0.5})
    file = folder / "4" / "progress" / "metadata"
    progress = json.loads(file.read_text())
    file.write_text(json.dumps(progress | {"phase_step": 3}))
    (warning,) = errors_seen.expect(2)
    assert "its checksums differ" in warning

  def test_a_write_that_fails_is_one_line(self, tmp_path, monkeypatch):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:

      def refuse(*arguments, **more):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing\nmore lines")

      monkeypatch.setattr(checkpoints._manager, "save", refuse)
      with pytest.raises(Failure, match=r"a checkpoint cannot be written \(No space left on device\); free or repair"):
        checkpoints.save(state_at(1), make_iterator(), progress_at(1), None)


class TestErrors:
  def test_a_disk_s_errors_are_one_line_and_others_pass(self, tmp_path):
    with pytest.raises(Failure, match="a file cannot be written"), errors.storage():
      _refuse()
    with pytest.raises(FileNotFoundError), errors.storage():
      (tmp_path / "absent").read_text()

  def test_what_may_have_been_read_is_not_said_to_be_written(self):
    broken = OSError(errno.EIO, os.strerror(errno.EIO), "/data/faces")
    message = r"/data/faces cannot be read or written \(Input/output error\); free or repair"
    with pytest.raises(Failure, match=message), errors.storage():
      raise broken
    with pytest.raises(Failure, match=r"^log cannot be written \(Input/output error\)"), errors.storage(Path("log")):
      raise broken

  def test_a_program_ends_with_status_1(self, capsys):
    with pytest.raises(SystemExit) as ended:
      errors.run(_refuse)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: a file cannot be written (No space left on device); free")

  @pytest.mark.parametrize("lines", [1, 100_000])
  def test_a_program_whose_output_nobody_reads_ends_in_silence(self, lines):
    program = (
      f"from fer_jax.runtime import errors; errors.run(lambda: [print('a line') for _ in range({lines})] and None)"
    )
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
      done = subprocess.run([sys.executable, "-c", program], stdout=nobody, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


class TestFingerprint:
  def test_every_pixel_and_label_counts(self):
    def fingerprint(**changes):
      return arrays._with_fingerprint(arrays.dataclasses.replace(tiny_arrays(), **changes)).fingerprint

    image, label = tiny_arrays().image.copy(), tiny_arrays().label.copy()
    assert fingerprint() == fingerprint(image=image, notes=("other",))
    image[-1, -1, -1] ^= 1
    label[-1] ^= 1
    assert len({fingerprint(), fingerprint(image=image), fingerprint(label=label)}) == 3


class TestCommand:
  @pytest.mark.parametrize(("flag", "said"), [("--times=0", "--times=0: expected 1"), ("--fault=x", "no such fault")])
  def test_a_wrong_flag_is_one_line(self, flag, said):
    with pytest.raises(errors.UserError, match=said):
      command.main([flag])

  def test_what_fails_in_a_trial_is_counted(self, monkeypatch, tmp_path, capsys):
    results = iter([{"steps_lost": 3}, AssertionError("lost"), {"steps_lost": 6}, OSError("unreadable")])

    def put(world, chance):
      found = next(results)
      if isinstance(found, Exception):
        raise found
      return found

    monkeypatch.setattr(command, "FAULTS", {"a fault": Fault(put, 5)})
    monkeypatch.setattr(command, "World", contextlib.nullcontext)
    assert command.main(["--times=4", "--jobs=1", f"--out={tmp_path / 'faults.json'}"]) == 1
    (row,) = json.loads((tmp_path / "faults.json").read_text())["rows"]
    assert (row["injected"], row["survived"], row["steps_lost"], row["bound"]) == (4, 1, "3.0 (3 at most)", "5")
    said = capsys.readouterr().err
    assert "AssertionError: lost" in said and "bound 5" in said and "OSError: unreadable" in said

  def test_of_trials_that_all_fail_nothing_is_known(self, monkeypatch):
    def put(world, chance):
      raise AssertionError

    monkeypatch.setattr(command, "FAULTS", {"a fault": Fault(put, 5)})
    row = command.Trials(None, 1).row("a fault", 2)
    assert (row["survived"], row["steps_lost"]) == (0, "not known")
