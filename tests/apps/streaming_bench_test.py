"""The benchmark of streaming on two hundred faces and a network of a handful of filters."""

import json

import pytest

from fer_jax.apps import bench
from fer_jax.apps.benchmarks import streaming as benchmark
from fer_jax.runtime.errors import UserError


@pytest.fixture
def few(monkeypatch):
  monkeypatch.setattr(benchmark, "BATCH", 8)
  monkeypatch.setattr(benchmark, "_BATCHES_A_ROUND", 2)
  monkeypatch.setattr(benchmark, "_ROWS_IN_MEMORY", 32)
  monkeypatch.setattr(benchmark.provenance, "cores", lambda: 2)


def test_what_is_measured(few, config, tmp_path, capsys):
  data_dir, out = tmp_path / "faces", tmp_path / "streaming.json"
  arguments = ["--what=streaming", f"--config={config}", "--rounds=1", "--examples=200", f"--data_dir={data_dir}"]
  bench.main([*arguments, f"--out={out}"])
  found = json.loads(out.read_text())
  rows = {row["name"]: row for row in found["rows"]}
  assert list(rows) == [
    *("written", "first pass over the records", "start from the cache", "in memory"),
    *("streamed, 1 thread", "streamed, 2 threads", "step, from memory", "step, streamed"),
    *("memory after 0 batches", "memory after 2 batches", "memory after 6 batches"),
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
  # A second run finds the faces again, whole.
  assert [path.name for path in data_dir.iterdir()] == ["200"]
  _, again = benchmark._written(200, data_dir)
  assert "seconds" not in again[0]


def test_too_few_are_refused_before_anything_is_written(config, tmp_path):
  with pytest.raises(UserError, match="--examples=99: expected 100 or more"):
    benchmark.streaming(config, 1, 99, tmp_path / "faces")
  assert not (tmp_path / "faces").exists()


def test_a_folder_that_cannot_be_written_is_one_line(config, tmp_path):
  (tmp_path / "faces").write_text("in the way")
  with pytest.raises(UserError, match="cannot write 100 faces, .*give another --data_dir"):
    benchmark.streaming(config, 1, 100, tmp_path / "faces")


def test_threads_are_doubled_up_to_the_cores():
  assert [benchmark._thread_counts(cores) for cores in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]
