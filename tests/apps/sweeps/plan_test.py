"""Runs planned from a sweep's file, and the names of their folders."""

from pathlib import Path

import pytest

from fer_jax.apps.sweeps.gather import gather
from fer_jax.apps.sweeps.plan import SweepPlan, plan_sweep
from fer_jax.runtime.errors import UserError

from .conftest import Launch


class TestFolders:
  def test_a_folder_is_named_after_the_overrides_and_the_seed(self, launch: Launch) -> None:
    names = [run.workdir.name for run in launch.plan("--config.duration=2 steps").runs]
    assert [name.rpartition("_")[0] for name in names] == [
      "hsic_demo_duration=2-steps_blocks=1_seed=0",
      "hsic_demo_duration=2-steps_blocks=2_seed=0",
      "hsic_demo_duration=2-steps_seed=0",
    ]

  @pytest.mark.parametrize(
    "override",
    ["--config.batch_size=64", "--config.data.data_dir=/elsewhere", "--config.phases.bottleneck.optimizer.warmup=0.1"],
  )
  def test_different_configs_have_different_folders(self, launch: Launch, override: str) -> None:
    one, other = launch.plan().runs, launch.plan(override).runs
    assert not {run.workdir for run in one} & {run.workdir for run in other}

  def test_an_override_with_the_default_value_does_not_change_the_folder(self, launch: Launch) -> None:
    same = launch.plan("--config.batch_size=128")
    assert [run.workdir for run in same.runs] == [run.workdir for run in launch.plan().runs]

  def test_the_folder_of_the_results_is_named_after_overrides_but_not_the_location_of_the_data(
    self, launch: Launch
  ) -> None:
    assert launch.plan(variant="three").folder == launch.workdir / "blocks_three"
    changed = launch.plan("--config.batch_size=64", "--config.data.data_dir=/elsewhere")
    assert changed.folder == launch.workdir / "blocks_batch_size=64"

  def test_values_with_slashes_stay_in_the_folder(self, launch: Launch) -> None:
    for run in launch.plan("--config.paper.title=../../x", "--config.duration=2 steps").runs:
      assert run.workdir.parent == launch.workdir / "runs"


def test_overrides_of_the_command_line_follow_those_of_the_candidate(launch: Launch) -> None:
  plan = launch.plan("--config.model.blocks=4")
  assert len({run.workdir for run in plan.runs}) == len(plan.distinct) == 1
  assert len(plan.runs) == 3


def test_arguments_of_a_run(launch: Launch) -> None:
  run = launch.plan("--config.batch_size=64", variant="three").runs[4]
  assert run.title == "2 blocks, seed 1"
  assert run.arguments == (
    "--config=configs/hsic.py:demo",
    f"--workdir={run.workdir}",
    "--config.model.blocks=2",
    "--config.batch_size=64",
    "--config.seed=1",
  )


def test_starts_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  here = plan_sweep("configs/sweeps/separable_se_table5.py", Path("w"))
  source, root = str(Path("configs/sweeps/separable_se_table5.py").resolve()), Path.cwd()
  timed_on = gather(here, []).timed_on
  monkeypatch.chdir(tmp_path)
  there = plan_sweep(source, Path("w"))
  assert [run.workdir for run in there.runs] == [run.workdir for run in here.runs]
  assert there.runs[0].arguments[0] == here.runs[0].arguments[0].replace("=", f"={root}/")
  assert gather(there, []).timed_on == timed_on != ""


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("def get_sweep(): return 3\n", "get_sweep returned int; expected a fer_jax.config.sweep.Sweep"),
    ("def get_sweep():\n  raise ValueError('no candidates')\n", "no candidates"),
    ("import nothing_here\n", "cannot be imported"),
    ("x = 1\n", "has no function get_sweep"),
  ],
)
def test_rejects_a_file_without_a_sweep(launch: Launch, text: str, message: str) -> None:
  Path(launch.source).write_text(text)
  with pytest.raises(UserError, match=message) as caught:
    launch.plan()
  assert str(caught.value).startswith(launch.source)


def test_names_the_candidate_with_an_invalid_config(launch: Launch) -> None:
  source = Path(launch.source)
  source.write_text(source.read_text().replace("model.blocks", "model.bloks"))
  with pytest.raises(UserError, match=r"candidate 1 blocks: config.model.bloks: no such key; did you mean"):
    launch.plan()


class TestInitFrom:
  SWEEP = """
from fer_jax.config.sweep import Candidate, Sweep

def get_sweep(variant=""):
  first = Candidate("first", "configs/hsic.py:demo", seeds=(0, 1))
  second = Candidate("second", "configs/hsic.py:demo", ("--config.model.blocks=2",), (1,), init_from="first")
  candidates = {"": (first, second), "backwards": (second, first), "alone": (second,)}
  return Sweep("title", "citation", "claim", candidates[variant], ())
"""

  def plan(self, tmp_path: Path, variant: str = "", workdir: str = "w") -> SweepPlan:
    path = tmp_path / "dependent.py"
    path.write_text(self.SWEEP)
    return plan_sweep(f"{path}:{variant}" if variant else str(path), Path(workdir))

  def test_a_run_starts_from_the_run_with_its_seed(self, tmp_path: Path) -> None:
    runs = {run.title: run for run in self.plan(tmp_path).runs}
    assert f"--config.pretrained.path={runs['first, seed 1'].workdir}" in runs["second, seed 1"].arguments
    assert not any("pretrained" in argument for argument in runs["first, seed 1"].arguments)

  def test_names_do_not_depend_on_the_folder_of_all_sweeps(self, tmp_path: Path) -> None:
    names = [[run.workdir.name for run in self.plan(tmp_path, workdir=folder).runs] for folder in ("w", "v/u")]
    assert names[0] == names[1]

  @pytest.mark.parametrize("variant", ["backwards", "alone"])
  def test_rejects_a_later_or_absent_candidate(self, tmp_path: Path, variant: str) -> None:
    with pytest.raises(UserError, match=r"candidate 'second': init_from 'first': expected an earlier candidate"):
      self.plan(tmp_path, variant)
