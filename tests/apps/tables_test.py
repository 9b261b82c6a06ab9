"""The tables of the README and of docs/: made from results, compared with results."""

import json
from pathlib import Path
from typing import Any

import pytest

from fer_jax.apps.tables import add_result, load_results, main, render
from fer_jax.runtime.errors import UserError

RESULT: dict[str, Any] = {
  "accuracy": 0.75,
  "confusion_matrix": [[40, 10], [15, 35]],
  "class_names": ["happy", "sad"],
  "seconds": 1234.5,
  "steps": 2000,
  "dataset": "fer2013",
  "device": "cpu: 2 | cores",
  "versions": {"jax": "0.10.2"},
  "commit": "e3ed27b0c2f94b5ad1-dirty",
  "seeds": [0],
  "config": "configs/hsic.py:small",
  "notes": ["a \u2014 b"],
}
BENCH = {
  "what": "objectives",
  "device": "gpu: H200",
  "versions": {"jax": "0.11.2"},
  "commit": "0123456789ab",
  "rows": [
    {"name": "backprop", "time_ratio": 1.0, "images_per_second": 12345.6},
    {"name": "hsic", "time_ratio": 0.6912, "memory_ratio": 0.3},
  ],
}
SWEEP = {
  "sweep": "configs/sweeps/hsic_blocks.py:small",
  "title": "Number of blocks",
  "citation": "A. Author 2023, figure 12",
  "swept": "blocks",
  "overrides": ["--config.budget_minutes=8"],
  "datasets": ["fer2013"],
  "devices": ["gpu: H200"],
  "versions": {"jax": "0.11.2"},
  "commits": ["0123456789ab", "e3ed27b0c2f94b5ad1-dirty"],
  "rows": [
    {
      "name": "3 blocks",
      "status": "finished",
      "measured": {"test accuracy": 0.7, "validation accuracy": 0.71, "parameters": 1234},
      "std": {"test accuracy": 0.01},
      "interval_95": {"test accuracy": [0.68, 0.72]},
      "reported": {"test accuracy": 0.97},
      "steps": 10000,
      "runs": [{"status": "finished"}] * 3,
    },
    {
      "name": "4 blocks",
      "status": "failed",
      "measured": {},
      "std": {},
      "interval_95": {},
      "reported": {},
      "steps": None,
      "runs": [{"status": "failed"}],
    },
  ],
}
README = """# Title
<!-- results:accuracy rows=small,large -->
stale
<!-- /results -->
between
<!-- results:bench -->
<!-- /results -->
end
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  workdir = tmp_path / "run"
  workdir.mkdir()
  (workdir / "result.json").write_text(json.dumps(RESULT))
  overrides = ["--config.data.data_dir=/somewhere", "--config.seed=3"]
  (workdir / "config.json").write_text(json.dumps({"overrides": overrides}))
  (tmp_path / "results").mkdir()
  (tmp_path / "results" / "objectives.json").write_text(json.dumps(BENCH))
  (tmp_path / "README.md").write_text(README)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_added_result_keeps_everything_and_the_overrides(project: Path) -> None:
  main(["--add=run", "--name=small"])
  kept = json.loads((project / "results" / "small.json").read_text())
  assert kept == {**RESULT, "overrides": ["--config.seed=3"]}


def test_tables_show_the_results_and_name_what_is_missing(project: Path) -> None:
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


def test_text_outside_the_markers_stays_and_a_second_run_changes_nothing(project: Path) -> None:
  main([])
  once = (project / "README.md").read_text()
  assert once.startswith("# Title\n<!-- results:accuracy rows=small,large -->\n\n|")
  assert "<!-- /results -->\nbetween\n<!-- results:bench -->" in once
  assert once.endswith("<!-- /results -->\nend\n")
  main([])
  assert (project / "README.md").read_text() == once


def test_a_table_of_views_has_a_row_for_each_way_to_average_them(project: Path) -> None:
  views = {
    "single": {"validation": 0.71, "test": 0.7, "deduplicated": 0.69, "loss": 0.9, "std": 0.01},
    "ten_crop": {"validation": 0.72, "test": 0.715, "deduplicated": None, "loss": 0.8},
  }
  result = {**RESULT, "views": views, "seeds": [0, 1], "seconds": 60.0, "process_seconds": 61.4}
  (project / "results" / "crops.json").write_text(json.dumps(result))
  page = render("<!-- results:views rows=crops,other -->\n<!-- /results -->\n", load_results(project / "results"))
  rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
  assert rows[0][:5] == ["run", "views", "validation accuracy", "test accuracy", "without images seen in training"]
  assert rows[2][:7] == ["crops", "single", "71.00 %", "70.00 % ± 1.00 %", "69.00 %", "2", "61"]
  assert rows[3][:5] == ["crops", "ten crop", "72.00 %", "71.50 %", "no image"]
  assert rows[4][3] == "not yet measured"
  resumed = {"crops": {**result, "seconds": 500.0}}
  assert "| 500 |" in render("<!-- results:views rows=crops -->\n<!-- /results -->\n", resumed)
  processor = {"crops": {**result, "clock": "cpu", "seconds": 50.0}}  # not its process's wall-clock seconds
  assert "| 50 (CPU time) |" in render("<!-- results:views rows=crops -->\n<!-- /results -->\n", processor)
  of_all = render("<!-- results:views -->\n<!-- /results -->\n", load_results(project / "results"))
  assert of_all.count("| crops |") == 2 and "| small |" not in of_all


def test_a_run_of_one_view_has_no_row_in_a_table_of_views(project: Path) -> None:
  results = {"small": {**RESULT, "views": {}}}
  with pytest.raises(UserError, match=r"results/small\.json: expected the key views"):
    render("<!-- results:views rows=small -->\n<!-- /results -->\n", results)


def test_check_tells_a_difference_in_one_line_and_writes_nothing(
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


def test_pages_of_the_docs_that_hold_a_marker_are_made_too(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_the_docs_are_those_beside_the_readme(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  (docs.parent / "elsewhere").mkdir()
  monkeypatch.chdir(docs.parent / "elsewhere")
  main(["--results=../results", "--readme=../README.md"])
  assert "**gc**: not yet measured" in (docs / "speed.md").read_text()
  main(["--check", "--results=../results", "--readme=../docs/speed.md"])


@pytest.mark.parametrize(
  ("content", "complaint"),
  [
    (b"<!-- /results -->\n", "docs/speed.md: expected each .*0 starts and 1 ends"),
    (b"x\n<!-- results:speed -->\n<!-- /results -->\n", "docs/speed.md:2: "),
    (b"\xff", "docs/speed.md: expected a page with marked tables, cannot read it"),
  ],
)
def test_a_mistake_in_the_docs_is_named_and_nothing_is_written(docs: Path, content: bytes, complaint: str) -> None:
  (docs / "speed.md").write_bytes(content)
  with pytest.raises(UserError, match=complaint):
    main([])
  assert (docs.parent / "README.md").read_text() == README


def test_a_readme_that_is_not_there_is_named(project: Path) -> None:
  with pytest.raises(UserError, match=r"nowhere.md: expected a page with marked tables, .*; give --readme"):
    main(["--readme=nowhere.md"])


def test_small_and_large_figures_of_a_benchmark_can_be_read() -> None:
  row = {"name": "Conv", "before": 0.080671, "optax_centralize": 0.02574, "ours": 2.38418e-09, "share_low": -1.2e-05}
  bench = {**BENCH, "what": "layouts", "rows": [row, {**row, "name": "bias", "before": 0.0, "ours": 1 - 1e-9}]}
  made = render("<!-- results:bench -->\n<!-- /results -->\n", {"layouts": bench})
  assert "| layouts | before | `optax.centralize` | ours | from (95 %) |" in made
  assert "| Conv | 0.08067 | 0.02574 | 2.384e-09 | -1.2e-05 |" in made
  assert "| bias | 0 | 0.02574 | 1 | -1.2e-05 |" in made


def test_a_benchmark_s_columns_can_be_chosen() -> None:
  row = {"name": "Conv", "before": 0.25, "after": 0.5, "between": 0.375}
  bench = {**BENCH, "what": "layouts", "rows": [row, {"name": "bias", "after_over_before": 2.0}]}
  page = "<!-- results:{} rows=layouts columns={} -->\n<!-- /results -->\n"
  made = render(page.format("bench", "after,before"), {"layouts": bench})
  assert "| layouts | after | before |" in made and "| Conv | 0.5 | 0.25 |" in made
  made = render(page.format("bench", "after,after_over_before"), {"layouts": bench})
  assert "| Conv | 0.5 |  |" in made and "| bias | not yet measured | 2 |" in made
  assert "bias" not in render(page.format("bench", "after,before"), {"layouts": bench})  # which has neither
  nameless = {"layouts": {**bench, "rows": [row, {"name": "alone"}]}}
  assert "| alone | not yet" in render("<!-- results:bench rows=layouts -->\n<!-- /results -->\n", nameless)
  with pytest.raises(UserError, match="layouts.json: has no column 'later'; expected some of before, after, between"):
    render(page.format("bench", "later"), {"layouts": bench})
  with pytest.raises(UserError, match="correct the marker"):
    render(page.format("accuracy", "before"), {"layouts": RESULT})


def test_without_rows_all_results_of_the_kind_are_shown(project: Path) -> None:
  results = {"b": RESULT, "a": RESULT, "objectives": BENCH}
  made = render("<!-- results:accuracy -->\n<!-- /results -->\n", dict(sorted(results.items())))
  assert made.index("| a |") < made.index("| b |")
  assert "objectives" not in made
  assert "Not yet measured." in render("<!-- results:bench -->\n<!-- /results -->\n", {"a": RESULT})


def test_several_seeds_show_mean_and_spread() -> None:
  several = {**RESULT, "runs": [{}, {}, {}], "mean": 0.7, "std": 0.01, "interval_95": [0.69, 0.71]}
  made = render("<!-- results:accuracy -->\n<!-- /results -->\n", {"a": several})
  assert "70.00 % (69.00 \N{EN DASH} 71.00 %), mean of 3 runs, standard deviation 1.00 %" in made


def test_a_sweep_has_a_row_for_each_member_beside_the_paper() -> None:
  made = render("<!-- results:sweep rows=blocks,other -->\n<!-- /results -->\n", {"blocks": SWEEP, "a": RESULT})
  assert (
    "**Number of blocks** (`configs/sweeps/hsic_blocks.py:small --config.budget_minutes=8`; fer2013; "
    "A. Author 2023, figure 12)"
  ) in made
  assert "| blocks | test accuracy (95 % interval) | standard deviation | paper: test accuracy |" in made
  assert "| 3 blocks | 70.00 % (68.00 \N{EN DASH} 72.00 %) | 1.00 % | 97.00 % | 71.00 % | 1,234 |" in made
  failed = next(line for line in made.splitlines() if line.startswith("| 4 blocks"))
  assert failed.split(" | ")[1] == "not yet measured"
  assert failed.endswith("| 0 of 1, failed |")
  assert "Measured on gpu: H200; jax 0.11.2; commit `012345678`, `e3ed27b0c-dirty`." in made
  assert "**other**: not yet measured" in made


def test_a_scatter_plot_is_written_beside_the_page_that_shows_it(docs: Path) -> None:
  rows = [
    {**row, "measured": {**row["measured"], "parameters": parameters}}
    for row, parameters in zip(SWEEP["rows"], (1e6, None), strict=True)
  ]
  figures = [{"kind": "scatter", "quantity": "test accuracy", "over": "parameters", "members": []}]
  content = json.dumps({**SWEEP, "rows": rows, "figures": figures, "shown": ["parameters"]})
  (docs.parent / "results" / "plotted.json").write_text(content)
  page = docs / "plots.md"
  page.write_text("<!-- results:sweep rows=plotted -->\n<!-- /results -->\n")

  main([])
  assert "![Test accuracy over parameters](plotted.svg)" in page.read_text()
  svg = (docs / "plotted.svg").read_text()
  assert ">3 blocks<" in svg  # the other has no parameters
  assert ">4 blocks<" not in svg
  assert main(["--check"]) == 0
  (docs / "plotted.svg").unlink()
  assert main(["--check"]) == 1


def test_a_run_of_folds_says_how_many_and_by_what() -> None:
  folds = {"folds": {"by": "subjects", "count": 10, "seed": 0}, "seeds": [0, 1, 2]}
  several = {**RESULT, **folds, "runs": [{}, {}, {}], "mean": 0.7, "std": 0.01, "interval_95": [0.69, 0.71]}
  made = render("<!-- results:accuracy -->\n<!-- /results -->\n", {"a": several})
  assert "mean of 3 of 10 folds by subjects, standard deviation 1.00 %" in made
  one_out = several | {"folds": {"by": "one_subject_out", "count": 3, "seed": 0}}
  assert "mean of 3 folds of one subject each" in render(
    "<!-- results:accuracy -->\n<!-- /results -->\n", {"a": one_out}
  )


def test_a_sweep_of_folds_names_them_and_shows_classes() -> None:
  classes = [{"class": "sad", "recall": 0.8, "interval_95": [0.7, 0.9], "images": 100, "printed": 0.8639}]
  rows = [
    {**row, "classes": classes if row["name"] == "3 blocks" else [], "runs": [{**run, "trainings": trainings}]}
    for row, trainings in zip(SWEEP["rows"], ("10 folds by images", None), strict=True)
    for run in row["runs"][:1]
  ]
  figures = [{"kind": "points", "members": []}, {"kind": "classes", "members": ["3 blocks"]}]
  sweep = {**SWEEP, "rows": rows, "figures": figures}
  made = render("<!-- results:sweep -->\n<!-- /results -->\n", {"a": sweep})
  assert "| steps | trainings |" in made
  assert "| 10,000 | 10 folds by images |" in made
  assert "| 0 of 1, failed |" in made
  assert "| recall | paper: 3 blocks | 3 blocks (95 % interval) |" in made
  assert "| sad | 86.39 % | 80.00 % (70.00 \N{EN DASH} 90.00 %) |" in made


def test_each_kind_has_its_own_results() -> None:
  results = {"run": RESULT, "speed": BENCH, "blocks": SWEEP}
  for kind, here in (("accuracy", "| run | `configs"), ("bench", "| objectives |"), ("sweep", "**Number of blocks**")):
    made = render(f"<!-- results:{kind} -->\n<!-- /results -->\n", results)
    found = [one for one in ("| run | `configs", "| objectives |", "**Number of blocks**") if one in made]
    assert found == [here]


@pytest.mark.parametrize(
  ("readme", "complaint"),
  [
    ("no marker", "found none"),
    ("<!-- results:accuracy -->\nopen", "1 starts and 0 ends"),
    ("<!-- results:accuracy -->\n<!-- results:bench -->\n<!-- /results -->\n", "2 starts and 1 ends"),
    ("x\n<!-- results:speed -->\n<!-- /results -->\n", "README.md:2: .*results:speed"),
    ("<!-- results:accuracy row=a -->\n<!-- /results -->\n", "row=a"),
    ("<!-- results:accuracy rows=b -->\n<!-- /results -->\n", "b.json: expected the key accuracy"),
    ("<!-- results:bench rows=a -->\n<!-- /results -->\n", "a.json: expected a benchmark"),
    ("<!-- results:sweep rows=b -->\n<!-- /results -->\n", "b.json: expected a sweep"),
  ],
)
def test_a_mistaken_marker_is_named(readme: str, complaint: str) -> None:
  with pytest.raises(UserError, match=complaint):
    render(readme, {"a": RESULT, "b": BENCH})


def test_a_run_that_has_no_result_cannot_be_added(project: Path) -> None:
  (project / "run" / "result.json").unlink()
  with pytest.raises(UserError, match=r"run/result.json: expected the result of a finished run"):
    main(["--add=run", "--name=small"])
  assert not (project / "results" / "small.json").exists()


@pytest.mark.parametrize("name", ["../small", "a b", ""])
def test_a_name_that_is_no_word_is_refused(project: Path, name: str) -> None:
  with pytest.raises(UserError, match="--name="):
    add_result(project / "run", name, project / "results")


def test_add_needs_a_name(project: Path) -> None:
  with pytest.raises(UserError, match="expected both or neither"):
    main(["--add=run"])


def test_a_file_that_no_program_wrote_is_named(project: Path) -> None:
  (project / "results" / "mine.json").write_text('{"score": 1}')
  with pytest.raises(UserError, match=r"mine.json: expected a run's result"):
    load_results(project / "results")
