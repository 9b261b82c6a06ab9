"""Tests the streaming benchmark on 200 faces and a small network."""

import json

import pytest

from fer_jax.apps import bench
from fer_jax.apps.benchmarks import streaming as benchmark
from fer_jax.runtime.errors import UserError


@pytest.fixture
def small_sizes(monkeypatch):
  monkeypatch.setattr(benchmark, "BATCH", 8)
  monkeypatch.setattr(benchmark, "_BATCHES_PER_ROUND", 2)
  monkeypatch.setattr(benchmark, "_ROWS_IN_MEMORY", 32)
  monkeypatch.setattr(benchmark.provenance, "cores", lambda: 2)


def test_rows_and_reuse_of_the_data_folder(small_sizes, config, tmp_path, capsys):
  data_dir, out = tmp_path / "faces", tmp_path / "streaming.json"
  arguments = ["--what=streaming", f"--config={config}", "--rounds=1", "--examples=200", f"--data_dir={data_dir}"]
  bench.main([*arguments, f"--out={out}"])
  found = json.loads(out.read_text())
  rows = {row["name"]: row for row in found["rows"]}
  assert list(rows) == [
    "written",
    "first pass over the records",
    "start from the cache",
    "in memory",
    "streamed, 1 thread",
    "streamed, 2 threads",
    "step, from memory",
    "step, streamed",
    "memory after 0 batches",
    "memory after 2 batches",
    "memory after 6 batches",
  ]
  assert found["headline"] == "streamed, 2 threads"
  written = rows["written"]
  assert (written["examples"], 4000 < written["bytes"] / 200 < 6000) == (200, True)
  for name in ("written", "first pass over the records", "start from the cache"):
    assert rows[name]["seconds"] > 0
  for name in ("streamed, 1 thread", "streamed, 2 threads"):
    ratio = rows[name]["images_per_second"] / rows["in memory"]["images_per_second"]
    assert rows[name]["memory_ratio"] == pytest.approx(ratio)
  assert rows["step, from memory"]["memory_ratio"] == 1
  memory = rows["memory after 6 batches"]
  assert memory["resident_bytes"] >= memory["anonymous_bytes"] > 0
  assert "streamed, 2 threads" in capsys.readouterr().out
  # A second run reuses the dataset.
  assert [path.name for path in data_dir.iterdir()] == ["200"]
  _, again = benchmark._write_dataset(200, data_dir)
  assert "seconds" not in again[0]


def test_rejects_too_few_examples_before_writing(config, tmp_path):
  with pytest.raises(UserError, match="--examples=99: expected 100 or more"):
    benchmark.streaming(config, 1, 99, tmp_path / "faces")
  assert not (tmp_path / "faces").exists()


def test_unwritable_folder_raises_user_error(config, tmp_path):
  (tmp_path / "faces").write_text("in the way")
  with pytest.raises(UserError, match="cannot write 100 faces, .*give another --data_dir"):
    benchmark.streaming(config, 1, 100, tmp_path / "faces")


def test_thread_counts_are_powers_of_two_and_the_cores():
  assert [benchmark._thread_counts(cores) for cores in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]
