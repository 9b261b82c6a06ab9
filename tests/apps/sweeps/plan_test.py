"""From a sweep's file to runs: what names a folder, and what does not."""

from pathlib import Path

import pytest

from fer_jax.apps.sweeps.plan import Plan, plan
from fer_jax.runtime.errors import UserError

from .conftest import Launch


class TestFolders:
  def test_a_run_s_name_says_what_differs_and_its_seed(self, launch: Launch) -> None:
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
  def test_another_config_has_another_folder(self, launch: Launch, override: str) -> None:
    one, other = launch.plan().runs, launch.plan(override).runs
    assert not {run.workdir for run in one} & {run.workdir for run in other}

  def test_an_override_that_changes_nothing_names_nothing(self, launch: Launch) -> None:
    same = launch.plan("--config.batch_size=128")
    assert [run.workdir for run in same.runs] == [run.workdir for run in launch.plan().runs]

  def test_the_folder_of_the_page_tells_overrides_apart_but_not_where_data_is(self, launch: Launch) -> None:
    assert launch.plan(variant="three").folder == launch.workdir / "blocks_three"
    changed = launch.plan("--config.batch_size=64", "--config.data.data_dir=/elsewhere")
    assert changed.folder == launch.workdir / "blocks_batch_size=64"

  def test_values_cannot_leave_the_folder(self, launch: Launch) -> None:
    for run in launch.plan("--config.paper.title=../../x", "--config.duration=2 steps").runs:
      assert run.workdir.parent == launch.workdir / "runs"


def test_overrides_of_the_command_line_come_after_the_member_s(launch: Launch) -> None:
  plan = launch.plan("--config.model.blocks=4")
  assert len({run.workdir for run in plan.runs}) == len(plan.distinct) == 1
  assert len(plan.runs) == 3


def test_a_member_s_arguments_are_for_main(launch: Launch) -> None:
  run = launch.plan("--config.batch_size=64", variant="three").runs[4]
  assert run.title == "2 blocks, seed 1"
  assert run.arguments == (
    "--config=configs/hsic.py:demo",
    f"--workdir={run.workdir}",
    "--config.model.blocks=2",
    "--config.batch_size=64",
    "--config.seed=1",
  )


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("def get_sweep(): return 3\n", "get_sweep returned int; expected a fer_jax.config.sweep.Sweep"),
    ("def get_sweep():\n  raise ValueError('no members')\n", "no members"),
    ("import nothing_here\n", "cannot be imported"),
    ("x = 1\n", "has no function get_sweep"),
  ],
)
def test_a_file_that_is_no_sweep(launch: Launch, text: str, said: str) -> None:
  Path(launch.source).write_text(text)
  with pytest.raises(UserError, match=said) as caught:
    launch.plan()
  assert str(caught.value).startswith(launch.source)


def test_a_member_whose_config_is_wrong_is_named(launch: Launch) -> None:
  source = Path(launch.source)
  source.write_text(source.read_text().replace("model.blocks", "model.bloks"))
  with pytest.raises(UserError, match=r"member 1 blocks: config.model.bloks: no such key; did you mean"):
    launch.plan()


class TestBeginnings:
  SWEEP = """
from fer_jax.sweep import Member, Sweep

def get_sweep(variant=""):
  first = Member("first", "configs/hsic.py:demo", seeds=(0, 1))
  second = Member("second", "configs/hsic.py:demo", ("--config.model.blocks=2",), (1,), begins_with="first")
  members = {"": (first, second), "backwards": (second, first), "alone": (second,)}
  return Sweep("title", "citation", "claim", members[variant], ())
"""

  def plan(self, tmp_path: Path, variant: str = "", workdir: str = "w") -> Plan:
    path = tmp_path / "begins.py"
    path.write_text(self.SWEEP)
    return plan(f"{path}:{variant}" if variant else str(path), Path(workdir))

  def test_a_member_begins_with_the_run_of_its_seed(self, tmp_path: Path) -> None:
    runs = {run.title: run for run in self.plan(tmp_path).runs}
    assert f"--config.pretrained.path={runs['first, seed 1'].workdir}" in runs["second, seed 1"].arguments
    assert not any("pretrained" in argument for argument in runs["first, seed 1"].arguments)

  def test_where_the_folder_of_all_sweeps_is_names_nothing(self, tmp_path: Path) -> None:
    names = [[run.workdir.name for run in self.plan(tmp_path, workdir=folder).runs] for folder in ("w", "v/u")]
    assert names[0] == names[1]

  @pytest.mark.parametrize("variant", ["backwards", "alone"])
  def test_it_can_only_begin_with_an_earlier_member(self, tmp_path: Path, variant: str) -> None:
    with pytest.raises(UserError, match=r"member 'second' begins with 'first': expected an earlier member"):
      self.plan(tmp_path, variant)
