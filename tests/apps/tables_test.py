"""The tables of the README and of docs/: generated from results and compared with them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fer_jax.apps.benchmarks.benchmark_result import BenchmarkResult
from fer_jax.apps.sweeps.sweep_result import CandidateResult, ClassRecall, SeedResult, SweepResult
from fer_jax.apps.tables import add_result, load_results, main, render
from fer_jax.config.sweep import Figure
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.typed_json import as_json
from fer_jax.training.run_result import FoldsResult, ReplicaResult, RunResult, ViewResult
from tests.fake_results import run_result

RESULT = run_result(notes=("a \u2014 b",))
BENCHMARK = BenchmarkResult(
  what="objectives",
  device="gpu: H200",
  versions={"jax": "0.11.2"},
  commit="0123456789ab",
  rows=(
    {"name": "backprop", "time_ratio": 1.0, "images_per_second": 12345.6},
    {"name": "hsic", "time_ratio": 0.6912, "memory_ratio": 0.3},
  ),
)
FINISHED = CandidateResult(
  name="3 blocks",
  config="configs/hsic.py:small",
  overrides=(),
  seeds=(0, 1, 2),
  reported={"test accuracy": 0.97},
  status="finished",
  measured={"test accuracy": 0.7, "validation accuracy": 0.71, "parameters": 1234},
  std={"test accuracy": 0.01},
  interval_95={"test accuracy": (0.68, 0.72)},
  interval="Student t, over 3 seeds",
  steps=10000,
  seconds=60.0,
  runs=tuple(SeedResult(seed=seed, run=f"run{seed}", status="finished") for seed in range(3)),
)
FAILED = CandidateResult(
  name="4 blocks",
  config="configs/hsic.py:small",
  overrides=(),
  seeds=(0,),
  reported={},
  status="failed",
  measured={},
  std={},
  interval_95={},
  interval="",
  seconds=0.0,
  runs=(SeedResult(seed=0, run="run", status="failed"),),
)
SWEEP = SweepResult(
  sweep="configs/sweeps/hsic_blocks.py:small",
  title="Number of blocks",
  citation="A. Author 2023, figure 12",
  claim="More is better.",
  swept="blocks",
  overrides=("--config.budget_minutes=8",),
  status="failed",
  datasets=("fer2013",),
  devices=("gpu: H200",),
  versions={"jax": "0.11.2"},
  commits=("0123456789ab", "e3ed27b0c2f94b5ad1-dirty"),
  seeds=(0, 1, 2),
  seconds=60.0,
  figures=(),
  candidates=(FINISHED, FAILED),
)
README = """# Title
<!-- results:accuracy rows=small,large -->
stale
<!-- /results -->
between
<!-- results:bench -->
<!-- /results -->
end
"""


def page(kind: str, options: str = "") -> str:
  """Returns a page with one marked table."""
  return f"<!-- results:{kind}{options} -->\n<!-- /results -->\n"


def several(**changes: object) -> RunResult:
  """Returns the result of a run with three replicas."""
  runs = tuple(ReplicaResult(seed, 0.7) for seed in range(3))
  return replace(RESULT, accuracy=0.7, runs=runs, std=0.01, interval_95=(0.69, 0.71), **changes)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  workdir = tmp_path / "run"
  workdir.mkdir()
  (workdir / "result.json").write_text(json.dumps(RESULT.to_json()))
  overrides = ["--config.data.data_dir=/somewhere", "--config.seed=3"]
  (workdir / "config.json").write_text(json.dumps({"overrides": overrides}))
  (tmp_path / "results").mkdir()
  (tmp_path / "results" / "objectives.json").write_text(json.dumps(BENCHMARK.to_json()))
  (tmp_path / "README.md").write_text(README)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_an_added_result_has_all_fields_and_the_overrides(project: Path) -> None:
  main(["--add=run", "--name=small"])
  added = json.loads((project / "results" / "small.json").read_text())
  assert added == {**RESULT.to_json(), "overrides": ["--config.seed=3"]}


def test_tables_show_results_and_name_missing_ones(project: Path) -> None:
  main(["--add=run", "--name=small"])
  assert main([]) == 0
  readme = (project / "README.md").read_text()
  assert "stale" not in readme
  assert (
    "| small | `configs/hsic.py:small --config.seed=3` | fer2013 | 75.00 % (65.70 \N{EN DASH} 82.45 %) "
    "| 1,234 | 2,000 | cpu: 2 \\| cores | `e3ed27b0c-dirty` |"
  ) in readme
  assert "| large |  |  | not yet measured |  |  |  |  |" in readme
  assert "| objectives | time ratio | images/s | memory ratio |" in readme
  assert "| backprop | 1 | 12,346 | not yet measured |" in readme
  assert "| hsic | 0.6912 | not yet measured | 0.3 |" in readme
  assert "Measured on gpu: H200; jax 0.11.2; commit `012345678`." in readme


def test_only_text_between_the_markers_changes_and_only_once(project: Path) -> None:
  main([])
  once = (project / "README.md").read_text()
  assert once.startswith("# Title\n<!-- results:accuracy rows=small,large -->\n\n|")
  assert "<!-- /results -->\nbetween\n<!-- results:bench -->" in once
  assert once.endswith("<!-- /results -->\nend\n")
  main([])
  assert (project / "README.md").read_text() == once


def test_a_table_of_views_has_a_row_for_each_protocol() -> None:
  views = {"single": ViewResult(0.71, 0.7, 0.69, 0.9, std=0.01), "ten_crop": ViewResult(0.72, 0.715, None, 0.8)}
  result = replace(RESULT, views=views, seeds=(0, 1), seconds=60.0, process_seconds=61.4)
  results = {"crops": result, "small": RESULT}
  lines = render(page("views", " rows=crops,other"), results).splitlines()
  rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
  assert rows[0][:5] == ["run", "views", "validation accuracy", "test accuracy", "without images seen in training"]
  assert rows[2][:7] == ["crops", "single", "71.00 %", "70.00 % ± 1.00 %", "69.00 %", "2", "61"]
  assert rows[3][:5] == ["crops", "ten crop", "72.00 %", "71.50 %", "no image"]
  assert rows[4][3] == "not yet measured"
  all_rows = render(page("views"), results)
  assert all_rows.count("| crops |") == 2 and "| small |" not in all_rows


@pytest.mark.parametrize(
  ("changes", "cell"),
  [
    ({"seconds": 500.0}, "| 500 |"),  # of a resumed run, with its earlier processes
    ({"clock": "cpu", "seconds": 50.0}, "| 50 (CPU time) |"),  # not the wall-clock seconds of its process
  ],
)
def test_seconds_of_a_table_of_views(changes: dict[str, object], cell: str) -> None:
  result = replace(RESULT, views={"flip": ViewResult(0.7, 0.7, None, 0.9)}, process_seconds=61.4, **changes)
  assert cell in render(page("views", " rows=crops"), {"crops": result})


def test_rejects_a_run_without_views_in_a_table_of_views() -> None:
  with pytest.raises(UserError, match=r"results/small\.json: expected the key views"):
    render(page("views", " rows=small"), {"small": RESULT})


def test_check_names_a_difference_in_one_line_and_writes_nothing(
  project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert main(["--check"]) == 1
  assert capsys.readouterr().out.count("\n") == 1
  assert (project / "README.md").read_text() == README
  main([])
  assert main(["--check"]) == 0
  main(["--add=run", "--name=large"])  # a new result makes the README stale
  assert main(["--check"]) == 1
  main([])
  edited = (project / "README.md").read_text().replace("75.00 %", "76.00 %")
  (project / "README.md").write_text(edited)
  assert main(["--check"]) == 1


@pytest.fixture
def docs(project: Path) -> Path:
  (project / "docs").mkdir()
  (project / "docs" / "speed.md").write_text("# Speed\n<!-- results:bench rows=objectives,gc -->\n<!-- /results -->\n")
  (project / "docs" / "prose.md").write_text("# Prose\n")
  return project / "docs"


def test_pages_of_the_docs_with_a_marker_are_rewritten(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
  assert main([]) == 0
  assert capsys.readouterr().out.splitlines() == ["README.md", "docs/speed.md"]
  made = (docs / "speed.md").read_text()
  assert made.startswith("# Speed\n<!-- results:bench rows=objectives,gc -->\n\n| objectives | time ratio |")
  assert "**gc**: not yet measured" in made
  assert (docs / "prose.md").read_text() == "# Prose\n"


def test_check_names_each_page_that_differs(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
  stale = (docs / "speed.md").read_text()
  assert main(["--check"]) == 1
  found = capsys.readouterr().out.splitlines()
  assert [line.split(" differs from results: run ")[0] for line in found] == ["README.md", "docs/speed.md"]
  assert (docs / "speed.md").read_text() == stale
  main([])
  assert main(["--check"]) == 0
  (docs / "speed.md").write_text(stale)
  assert main(["--check"]) == 1


def test_the_docs_are_next_to_the_readme(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  (docs.parent / "elsewhere").mkdir()
  monkeypatch.chdir(docs.parent / "elsewhere")
  main(["--results=../results", "--readme=../README.md"])
  assert "**gc**: not yet measured" in (docs / "speed.md").read_text()
  main(["--check", "--results=../results", "--readme=../docs/speed.md"])


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"<!-- /results -->\n", "docs/speed.md: expected each .*0 starts and 1 ends"),
    (b"x\n<!-- results:speed -->\n<!-- /results -->\n", "docs/speed.md:2: "),
    (b"\xff", "docs/speed.md: expected a page with marked tables, cannot read it"),
  ],
)
def test_rejects_a_damaged_page_and_writes_nothing(docs: Path, content: bytes, message: str) -> None:
  (docs / "speed.md").write_bytes(content)
  with pytest.raises(UserError, match=message):
    main([])
  assert (docs.parent / "README.md").read_text() == README


def test_names_a_missing_readme(project: Path) -> None:
  with pytest.raises(UserError, match=r"nowhere.md: expected a page with marked tables, .*; give --readme"):
    main(["--readme=nowhere.md"])


def test_small_and_large_values_of_a_benchmark_are_readable() -> None:
  row = {"name": "Conv", "before": 0.080671, "optax_centralize": 0.02574, "ours": 2.38418e-09, "share_low": -1.2e-05}
  other = {**row, "name": "bias", "before": 0.0, "ours": 1 - 1e-9}
  text = render(page("bench"), {"layouts": replace(BENCHMARK, what="layouts", rows=(row, other))})
  assert "| layouts | before | `optax.centralize` | ours | from (95 %) |" in text
  assert "| Conv | 0.08067 | 0.02574 | 2.384e-09 | -1.2e-05 |" in text
  assert "| bias | 0 | 0.02574 | 1 | -1.2e-05 |" in text


def test_columns_of_a_benchmark_can_be_selected() -> None:
  row = {"name": "Conv", "before": 0.25, "after": 0.5, "between": 0.375}
  benchmark = replace(BENCHMARK, what="layouts", rows=(row, {"name": "bias", "after_over_before": 2.0}))

  def table(columns: str) -> str:
    return render(page("bench", f" rows=layouts columns={columns}"), {"layouts": benchmark})

  text = table("after,before")
  assert "| layouts | after | before |" in text and "| Conv | 0.5 | 0.25 |" in text
  assert "bias" not in text  # it has neither
  text = table("after,after_over_before")
  assert "| Conv | 0.5 |  |" in text and "| bias | not yet measured | 2 |" in text
  with pytest.raises(UserError, match="layouts.json: has no column 'later'; expected some of before, after, between"):
    table("later")
  with pytest.raises(UserError, match="correct the marker"):
    render(page("accuracy", " rows=layouts columns=before"), {"layouts": RESULT})


def test_a_row_without_values_is_shown_as_not_measured() -> None:
  benchmark = replace(BENCHMARK, rows=({"name": "Conv", "before": 0.25}, {"name": "empty"}))
  assert "| empty | not yet" in render(page("bench", " rows=layouts"), {"layouts": benchmark})


def test_without_rows_all_results_of_the_kind_are_shown() -> None:
  text = render(page("accuracy"), {"a": RESULT, "b": RESULT, "objectives": BENCHMARK})
  assert text.index("| a |") < text.index("| b |")
  assert "objectives" not in text
  assert "Not yet measured." in render(page("bench"), {"a": RESULT})


def test_several_seeds_have_mean_and_deviation() -> None:
  text = render(page("accuracy"), {"a": several()})
  assert "70.00 % (69.00 \N{EN DASH} 71.00 %), mean of 3 runs, standard deviation 1.00 %" in text


def test_a_sweep_has_a_row_for_each_candidate_with_the_values_of_the_paper() -> None:
  text = render(page("sweep", " rows=blocks,other"), {"blocks": SWEEP, "a": RESULT})
  assert (
    "**Number of blocks** (`configs/sweeps/hsic_blocks.py:small --config.budget_minutes=8`; fer2013; "
    "A. Author 2023, figure 12)"
  ) in text
  assert "| blocks | test accuracy (95 % interval) | standard deviation | paper: test accuracy |" in text
  assert "| 3 blocks | 70.00 % (68.00 \N{EN DASH} 72.00 %) | 1.00 % | 97.00 % | 71.00 % | 1,234 |" in text
  failed = next(line for line in text.splitlines() if line.startswith("| 4 blocks"))
  assert failed.split(" | ")[1] == "not yet measured"
  assert failed.endswith("| 0 of 1, failed |")
  assert "Measured on gpu: H200; jax 0.11.2; commit `012345678`, `e3ed27b0c-dirty`." in text
  assert "**other**: not yet measured" in text


def test_scatter_plots_are_written_next_to_the_page_that_shows_them(docs: Path) -> None:
  finished = replace(FINISHED, series="blocks", measured={**FINISHED.measured, "parameters": 1e6})
  figures = tuple(Figure("scatter", "test accuracy", over=cost) for cost in ("parameters", "minutes of training"))
  content = json.dumps(as_json(replace(SWEEP, candidates=(finished, FAILED), figures=figures, shown=("parameters",))))
  (docs.parent / "results" / "plotted.json").write_text(content)
  page_path = docs / "plots.md"
  page_path.write_text(page("sweep", " rows=plotted"))

  main([])
  assert "![Test accuracy over parameters](plotted_over_parameters.svg)" in page_path.read_text()
  assert "over minutes of training" not in page_path.read_text()  # not measured
  svg = (docs / "plotted_over_parameters.svg").read_text()
  assert ">3 blocks<" in svg  # the other is not measured
  assert ">4 blocks<" not in svg
  assert main(["--check"]) == 0
  (docs / "plotted_over_parameters.svg").unlink()
  assert main(["--check"]) == 1


@pytest.mark.parametrize(
  ("folds", "description"),
  [
    (FoldsResult("subjects", 10, 0), "mean of 3 of 10 folds by subjects, standard deviation 1.00 %"),
    (FoldsResult("one_subject_out", 3, 0), "mean of 3 folds of one subject each"),
  ],
)
def test_folds_are_described(folds: FoldsResult, description: str) -> None:
  assert description in render(page("accuracy"), {"a": several(folds=folds, seeds=(0, 1, 2))})


def test_a_sweep_of_folds_describes_them_and_shows_classes() -> None:
  runs = (replace(FINISHED.runs[0], replicas="10 folds by images"),)
  rows = (replace(FINISHED, runs=runs, classes=(ClassRecall("sad", 0.8, (0.7, 0.9), 100, 0.8639),)), FAILED)
  figures = (Figure("points", "test accuracy"), Figure("classes", "recall", candidates=("3 blocks",)))
  text = render(page("sweep"), {"a": replace(SWEEP, candidates=rows, figures=figures)})
  assert "| steps | replicas |" in text
  assert "| 10,000 | 10 folds by images |" in text
  assert "| 0 of 1, failed |" in text
  assert "| recall | paper: 3 blocks | 3 blocks (95 % interval) |" in text
  assert "| sad | 86.39 % | 80.00 % (70.00 \N{EN DASH} 90.00 %) |" in text


def test_each_kind_of_table_shows_its_own_results() -> None:
  results = {"run": RESULT, "speed": BENCHMARK, "blocks": SWEEP}
  starts = {"accuracy": "| run | `configs", "bench": "| objectives |", "sweep": "**Number of blocks**"}
  for kind, start in starts.items():
    text = render(page(kind), results)
    assert [each for each in starts.values() if each in text] == [start]


@pytest.mark.parametrize(
  ("readme", "message"),
  [
    ("no marker", "found none"),
    ("<!-- results:accuracy -->\nopen", "1 starts and 0 ends"),
    ("<!-- results:accuracy -->\n<!-- results:bench -->\n<!-- /results -->\n", "2 starts and 1 ends"),
    ("x\n<!-- results:speed -->\n<!-- /results -->\n", "README.md:2: .*results:speed"),
    ("<!-- results:accuracy row=a -->\n<!-- /results -->\n", "row=a"),
    ("<!-- results:accuracy rows=b -->\n<!-- /results -->\n", "b.json: expected the result of a run"),
    ("<!-- results:bench rows=a -->\n<!-- /results -->\n", "a.json: expected the result of a benchmark"),
    ("<!-- results:sweep rows=b -->\n<!-- /results -->\n", "b.json: expected the result of a sweep"),
  ],
)
def test_rejects_an_invalid_marker(readme: str, message: str) -> None:
  with pytest.raises(UserError, match=message):
    render(readme, {"a": RESULT, "b": BENCHMARK})


def test_rejects_adding_a_run_without_a_result(project: Path) -> None:
  (project / "run" / "result.json").unlink()
  with pytest.raises(UserError, match=r"run/result.json: expected the result of a finished run"):
    main(["--add=run", "--name=small"])
  assert not (project / "results" / "small.json").exists()


@pytest.mark.parametrize("name", ["../small", "a b", ""])
def test_rejects_an_invalid_name(project: Path, name: str) -> None:
  with pytest.raises(UserError, match="--name="):
    add_result(project / "run", name, project / "results")


def test_rejects_add_without_a_name(project: Path) -> None:
  with pytest.raises(UserError, match="expected both or neither"):
    main(["--add=run"])


def test_rejects_a_file_without_a_result(project: Path) -> None:
  (project / "results" / "mine.json").write_text('{"score": 1}')
  with pytest.raises(UserError, match=r"mine.json: expected a run's result"):
    load_results(project / "results")
