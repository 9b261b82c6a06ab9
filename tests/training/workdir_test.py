import errno
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from fer_jax.runtime import locks
from fer_jax.runtime.errors import Failure, UserError
from fer_jax.training import workdir as workdir_lib
from fer_jax.training.workdir import Workdir
from tests.training.run_result_test import result

CONFIG = {"seed": 0, "schedule": ("a", "b"), "phases": {"a": {"rate": 0.1}}, "paper": {}}


def claim(path, config=CONFIG, source="mine.py", overrides=(), device="cpu", data=""):
  with Workdir(path) as folder:
    folder.claim(ConfigDict(config), source, overrides, device, data)


def content_of(folder):
  return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestClaim:
  def test_creates_the_folder_and_records_the_run(self, tmp_path):
    path = tmp_path / "deep" / "run"
    claim(path, overrides=["--config.seed=0"])
    written = json.loads((path / "config.json").read_text())
    assert written["config"] == json.loads(json.dumps(CONFIG))
    assert (written["source"], written["overrides"], written["device"]) == ("mine.py", ["--config.seed=0"], "cpu")
    assert written["versions"]["jax"] == jax.__version__
    assert written["commit"]
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "lock"]

  def test_accepts_an_empty_folder(self, tmp_path):
    claim(tmp_path)
    assert (tmp_path / "config.json").exists()

  def test_the_same_config_changes_nothing(self, tmp_path):
    claim(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{}")
    before = content_of(tmp_path)
    claim(tmp_path, source="elsewhere.py", device="gpu")
    assert content_of(tmp_path) == before

  def test_accepts_changed_results_of_the_paper(self, tmp_path):
    claim(tmp_path)
    before = content_of(tmp_path)
    claim(tmp_path, CONFIG | {"paper": {"note": "a correction"}})
    assert content_of(tmp_path) == before

  @pytest.mark.parametrize(
    ("change", "key", "there", "here"),
    [
      ({"seed": 1}, "config.seed", "0", "1"),
      ({"schedule": ("a",)}, "config.schedule", '["a", "b"]', '["a"]'),
      ({"phases": {"a": {"rate": 0.2}}}, "config.phases.a.rate", "0.1", "0.2"),
      ({"phases": {"a": {"rate": 0.1, "more": "x"}}}, "config.phases.a.more", '"absent"', '"x"'),
      ({"phases": {}}, "config.phases.a", '{"rate": 0.1}', '"absent"'),
    ],
  )
  def test_rejects_another_config_and_names_the_difference(self, tmp_path, change, key, there, here):
    claim(tmp_path)
    before = content_of(tmp_path)
    with pytest.raises(UserError) as raised:
      claim(tmp_path, CONFIG | change)
    assert f"{key} is {there} there and {here} here" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert content_of(tmp_path) == before

  def test_rejects_a_folder_with_other_files(self, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    before = content_of(tmp_path)
    with pytest.raises(UserError, match="not empty and not the folder of a run"):
      claim(tmp_path)
    assert content_of(tmp_path) == before

  def test_rejects_files(self, tmp_path):
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(UserError, match="not the folder of a run"):
      claim(file)
    with pytest.raises(UserError, match="cannot be created"):
      claim(file / "run")
    assert file.read_text() == "precious"

  @pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"seed": 1}', "null"])
  def test_rejects_other_config_files(self, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json: not the config\.json of a run"):
      claim(tmp_path)
    assert (tmp_path / "config.json").read_text() == text

  def test_claims_the_folder_after_a_killed_claim(self, tmp_path):
    (tmp_path / "lock").write_text("process 1 on a host\n")
    (tmp_path / "config.json.part").write_text("{")
    claim(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "lock"]

  def test_rejects_unwritable_locations(self, tmp_path, monkeypatch):
    monkeypatch.setattr(workdir_lib.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written to; make it writable or choose another --workdir"):
      Workdir(tmp_path / "deep" / "run").check(ConfigDict(CONFIG))
    assert not list(tmp_path.iterdir())

  def test_rejects_changed_data(self, tmp_path):
    config = CONFIG | {"data": {"name": "fer2013"}}
    claim(tmp_path, config, data="0a0b0c0d")
    claim(tmp_path, config, data="0a0b0c0d")
    claim(tmp_path, config)
    with pytest.raises(UserError, match="fer2013 has changed since this run started: .* 11111111, and was 0a0b0c0d"):
      claim(tmp_path, config, data="11111111")


class TestLock:
  def test_rejects_a_second_run_in_the_folder(self, tmp_path):
    with Workdir(tmp_path) as folder:
      folder.claim(ConfigDict(CONFIG), "mine.py", (), "cpu")
      before = content_of(tmp_path)
      for begin in (lambda: claim(tmp_path), lambda: Workdir(tmp_path).check(ConfigDict(CONFIG))):
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .+ is running in this folder; wait"):
          begin()
      folder.check(ConfigDict(CONFIG))
      assert content_of(tmp_path) == before
    claim(tmp_path)

  def test_a_finished_run_can_be_read_while_locked(self, tmp_path):
    with Workdir(tmp_path) as folder:
      folder.claim(ConfigDict(CONFIG), "mine.py", (), "cpu")
      folder.write_json("result.json", {"accuracy": 0.5})
      assert Workdir(tmp_path).check(ConfigDict(CONFIG))

  def test_readers_take_no_lock(self, tmp_path):
    claim(tmp_path)
    with Workdir(tmp_path, writes=False) as reader:
      reader.check(ConfigDict(CONFIG))
      claim(tmp_path)

  def test_is_released_when_its_process_dies(self, tmp_path):
    script = (
      "import sys, time; from pathlib import Path; from ml_collections import ConfigDict\n"
      "from fer_jax.training.workdir import Workdir\n"
      f"folder = Workdir(Path({str(tmp_path)!r})); folder.claim(ConfigDict({CONFIG!r}), 'mine.py', (), 'cpu')\n"
      "print('claimed', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
      assert process.stdout.readline() == "claimed\n"
      with pytest.raises(UserError, match=f"process {process.pid} on"):
        claim(tmp_path)
      process.kill()
    claim(tmp_path)

  def test_warns_about_file_systems_without_locks(self, tmp_path, monkeypatch, capsys):
    def raise_no_locks(file, how):
      raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", raise_no_locks)
    claim(tmp_path)
    assert "no locks here (No locks available)" in capsys.readouterr().err
    assert (tmp_path / "config.json").exists()


class TestWriting:
  def test_round_trip_of_json(self, tmp_path):
    folder = Workdir(tmp_path)
    assert folder.read_json("choice.json") is None
    folder.write_json("choice.json", {"together": 5, "names": ["angry"]})
    assert folder.read_json("choice.json") == {"together": 5, "names": ["angry"]}
    folder.write_json("choice.json", {"together": 6})
    assert folder.read_json("choice.json") == {"together": 6}
    assert [p.name for p in tmp_path.iterdir()] == ["choice.json"]

  def test_round_trip_of_result(self, tmp_path):
    folder, expected = Workdir(tmp_path), result()
    assert folder.result is None
    folder.write_json("result.json", expected.to_json())
    assert folder.result == expected

  def test_round_trip_of_arrays(self, tmp_path):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Workdir(tmp_path).write_arrays("predictions.npz", image=image, label=np.arange(3))
    with np.load(tmp_path / "predictions.npz") as file:
      assert sorted(file.files) == ["image", "label"]
      np.testing.assert_array_equal(file["image"], image)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.npz"]

  @pytest.mark.parametrize("fails_at", ["the content", "the last moment"])
  def test_a_failed_write_preserves_the_old_file(self, tmp_path, monkeypatch, fails_at):
    folder = Workdir(tmp_path)
    folder.write_json("result.json", {"accuracy": 0.5})
    folder.write_arrays("predictions.npz", label=np.arange(3))
    before = {name: (tmp_path / name).read_bytes() for name in ("result.json", "predictions.npz")}

    def fail(*arguments, **more):
      raise OSError("disk full")

    if fails_at == "the last moment":
      monkeypatch.setattr(workdir_lib.os, "replace", fail)
    else:
      monkeypatch.setattr(workdir_lib.json, "dumps", fail)
      monkeypatch.setattr(workdir_lib.np, "savez_compressed", lambda file, **arrays: file.write(b"half") and fail())
    with pytest.raises(OSError, match="disk full"):
      folder.write_json("result.json", {"accuracy": 0.6})
    with pytest.raises(OSError, match="disk full"):
      folder.write_arrays("predictions.npz", label=np.arange(4))
    assert {name: (tmp_path / name).read_bytes() for name in before} == before

  def test_reports_a_full_disk_in_one_line(self, tmp_path):
    (tmp_path / "result.json.part").symlink_to("/dev/full")
    message = r"result\.json\.part cannot be written \(No space left on device\); free or repair the disk, then run"
    with pytest.raises(Failure, match=message):
      Workdir(tmp_path).write_json("result.json", {"accuracy": 0.5})
    assert not (tmp_path / "result.json").exists()
