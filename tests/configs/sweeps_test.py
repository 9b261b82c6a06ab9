"""Sweeps of configs/sweeps and the baselines: the configs of all candidates parse and build; figures of the papers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs import baselines, ca_resnet
from configs.sweeps import SIZES, hsic_baselines, obsr_ablation, separable_se_table5
from fer_jax.apps.benchmarks import inference, table1
from fer_jax.apps.sweeps.plan import SweepPlan, plan_sweep
from fer_jax.config import command_line, parsing
from fer_jax.config.command_line import load_config
from fer_jax.config.settings import Settings
from fer_jax.runtime.errors import UserError
from fer_jax.training.phases import plan_phases

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = sorted(path.stem for path in (ROOT / "configs" / "sweeps").glob("*.py") if path.stem != "__init__")
WORKDIR = Path("w")
# Real and drawn datasets, by prefix of the sweep's name.
DATA = {
  "resnet": ({"kdef_ck_plus"}, {"drawn_kdef_ck_plus"}),
  "separable_se": ({"ck_plus/neutral", "jaffe", "oulu_casia/paper"}, {"drawn_jaffe"}),
  "": ({"fer2013"}, {"synthetic_faces"}),
}


@pytest.fixture(autouse=True)
def run_in_root(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(ROOT)


def planned(name: str, variant: str = "") -> SweepPlan:
  return plan_sweep(f"configs/sweeps/{name}.py" + (f":{variant}" if variant else ""), WORKDIR)


def settings_of(arguments: tuple[str, ...]) -> Settings:
  command = command_line.parse(["sweep", *arguments])
  assert command is not None
  return parsing.parse(command.config)


def plan_steps(arguments: tuple[str, ...]) -> int:
  settings = settings_of(arguments)
  return settings.duration.steps(1, 28709, settings.batch_size)


@pytest.mark.parametrize("variant", SIZES)
@pytest.mark.parametrize("name", SWEEPS)
def test_all_candidates_parse_and_build(name: str, variant: str) -> None:
  for run in planned(name, variant).distinct:
    settings = settings_of(run.arguments)
    network = settings.model.build(7, jnp.float32, None)
    phases = plan_phases(settings, network, None, epoch_rows=28709)
    steps = sum(phase.steps for phase in phases)
    if name == "hsic_cost" and variant != "demo":
      assert steps in {224, 673, 2243, 22429}  # 1, 3, 10 and 100 epochs
    elif name.startswith("hsic"):
      ten_epochs = 2243
      long = name in ("hsic_gap", "hsic_ablation")
      assert steps == {"": 10000, "small": ten_epochs if long else 400, "demo": 12}[variant]
    real, drawn = next(datasets for prefix, datasets in DATA.items() if name.startswith(prefix))
    assert settings.data.name in (drawn if variant == "demo" else real)


def test_sweeps_share_the_default_network() -> None:
  workdirs = {name: {run.workdir for run in planned(name).runs} for name in SWEEPS if name.startswith("hsic")}
  # All other sweeps contain the default of configs/hsic.py (three blocks, relu, 0.005) with the same three seeds.
  others = [of for name, of in workdirs.items() if name not in ("hsic_ablation", "hsic_blocks", "hsic_cost")]
  assert len(set.intersection(*others)) == 3
  assert len(workdirs["hsic_blocks"] & workdirs["hsic_gap"]) == 3  # layer by layer
  assert workdirs["hsic_table1"] < workdirs["hsic_baselines"]
  # These two also share the runs with back-propagation.
  assert len(workdirs["hsic_objective"] & workdirs["hsic_baselines"]) == 6
  # The longest runs of one seed, by each objective.
  small = {name: {run.workdir for run in planned(name, "small").runs} for name in workdirs}
  assert len(small["hsic_gap"] & small["hsic_cost"]) == 3
  assert len(small["hsic_gap"] & small["hsic_ablation"]) == 2


@pytest.mark.parametrize(
  ("name", "key", "values"),
  [
    ("hsic_blocks", "model.blocks", [1, 2, 3, 4]),
    ("hsic_activation", "model.activation", ["relu", "tanh", "elu"]),
    ("hsic_learning_rate", "phases.bottleneck.optimizer.learning_rate", [0.0005, 0.001, 0.005]),
  ],
)
def test_candidates_differ_in_the_swept_key(name: str, key: str, values: list[object]) -> None:
  sweep = planned(name).sweep
  assert [candidate.value for candidate in sweep.candidates] == values
  found = []
  for candidate in sweep.candidates:
    command = command_line.parse(["sweep", f"--config={candidate.config}", *candidate.overrides])
    assert command is not None
    value = command.config
    for part in key.split("."):
      value = value[part]
    found.append(value)
  assert found == values


class TestAblation:
  def test_rows_start_from_the_votes_run_with_the_same_seed(self) -> None:
    plan = planned("obsr_ablation")
    votes = {run.seed: run.workdir for run in plan.runs if run.candidate == obsr_ablation.VOTES_NAME}
    assert len(votes) == 3
    for row in obsr_ablation.VARIANTS:
      for run in (run for run in plan.runs if run.candidate == row):
        assert f"--config.pretrained.path={votes[run.seed]}" in run.arguments

  def test_weights_file_replaces_pretraining(self) -> None:
    plan = planned("obsr_ablation", "small,imagenet=some/weights.pth")
    assert [candidate.name for candidate in plan.sweep.candidates] == ["ResNet", *obsr_ablation.VARIANTS]
    pretrained = ["--config.pretrained.path=some/weights.pth" in run.arguments for run in plan.runs]
    assert pretrained == [run.candidate != "ResNet" for run in plan.runs]

  def test_rows_have_the_figures_of_the_paper(self) -> None:
    reported = {candidate.name: dict(candidate.reported) for candidate in planned("obsr_ablation").sweep.candidates}
    assert [reported[name]["test accuracy"] for name in ("ResNet", *obsr_ablation.VARIANTS)] == pytest.approx(
      [0.7055, 0.7429, 0.7561, 0.7765]
    )
    assert reported[obsr_ablation.VOTES_NAME] == {}

  def test_resnet_row_takes_half_the_steps_of_the_long_one(self) -> None:
    for size in ("", "small", "demo"):
      candidates = {candidate.name: candidate for candidate in planned("obsr_ablation", size).sweep.candidates}
      steps = [
        plan_steps((f"--config={candidate.config}", *candidate.overrides))
        for candidate in (candidates["ResNet"], candidates["ResNet, twice as long"])
      ]
      assert 2 * steps[0] == pytest.approx(steps[1], abs=1)


class TestDepth:
  def test_each_kind_and_depth_is_trained_with_both_kinds_of_folds(self) -> None:
    found = {}
    for run in planned("resnet_depth").runs:
      settings = settings_of(run.arguments)
      assert (settings.folds.count, settings.replicas, settings.data.image_size) == (10, 0, 128)
      found[run.candidate] = (settings.model.kind, settings.model.depth, settings.folds.by)
    assert len(found) == len(set(found.values())) == 16
    assert found["plain 38, image folds"] == ("plain", 38, "images")
    assert found["residual 74, subject folds"] == ("residual", 74, "subjects")

  def test_figure_9_applies_to_image_folds_and_table_4_to_74_layers(self) -> None:
    candidates = {candidate.name: candidate for candidate in planned("resnet_depth").sweep.candidates}
    assert candidates["residual 74, image folds"].reported == {"test accuracy": 0.9079}
    assert candidates["plain 74, image folds"].reported == {"test accuracy": 0.8623}
    assert candidates["residual 74, image folds"].by_class["fear"] == 0.8222
    for name, candidate in candidates.items():
      assert bool(candidate.reported) == name.endswith("image folds")
      assert bool(candidate.by_class) == (name == "residual 74, image folds")

  @pytest.mark.parametrize(("size", "depths"), [("small", [8, 14, 20]), ("demo", [8, 14])])
  def test_small_networks_have_no_figures_of_the_paper(self, size: str, depths: list[int]) -> None:
    candidates = planned("resnet_depth", size).sweep.candidates
    assert sorted({candidate.value for candidate in candidates}) == depths
    assert all(not candidate.reported and not candidate.by_class for candidate in candidates)

  def test_each_figure_shows_one_kind_of_folds(self) -> None:
    lines = [figure for figure in planned("resnet_depth").sweep.figures if figure.kind == "lines"]
    assert [{name.partition(", ")[2] for name in figure.candidates} for figure in lines] == [
      {"image folds"},
      {"subject folds"},
    ]


def test_table_1_has_the_figures_of_the_paper() -> None:
  reported = {candidate.name: candidate.reported for candidate in planned("hsic_table1").sweep.candidates}
  assert reported["ResNet-50"] == {"seconds a step": 0.180212, "parameters": 24e6, "test accuracy": 0.95}
  assert reported["dense network, HSIC bottleneck"]["test accuracy"] == 0.97


def test_candidates_of_table_1_name_rows_of_the_benchmark() -> None:
  timings = {candidate.timing for candidate in planned("hsic_table1").sweep.candidates}
  assert timings == {table1.OURS, *(f"{name}, backprop" for name in table1.PRINTED)}


class TestBaselines:
  def test_baseline_differs_from_backprop_only_in_the_network(self) -> None:
    for variant in ("", "small", "demo"):
      words = ",".join(part for part in ("vgg19", variant) if part)
      baseline = load_config(f"configs/baselines.py:{words}").to_dict()
      backprop = load_config(f"configs/hsic.py:{variant},backprop").to_dict()
      assert baseline.pop("model")["name"] == "vgg"
      assert backprop.pop("model")["name"] == "hsic_dense"
      assert baseline == backprop

  @pytest.mark.parametrize("name", baselines.BASELINES)
  def test_small_variant_accepts_a_face_and_is_not_larger(self, name: str) -> None:
    sizes = []
    for variant in (name, f"{name},small"):
      network = settings_of((f"--config=configs/baselines.py:{variant}",)).model.build(7, jnp.float32, None)
      image = jax.ShapeDtypeStruct((1, 48, 48, 1), jnp.float32)
      params, _ = jax.eval_shape(network.init, jax.random.key(0), image)
      sizes.append(sum(leaf.size for leaf in jax.tree.leaves(params)))
    assert sizes[1] <= sizes[0]

  def test_all_baselines_are_in_a_sweep(self) -> None:
    compared = {*hsic_baselines.NAMES, *ca_resnet.NETWORKS, *separable_se_table5.NETWORKS}
    assert set(baselines.BASELINES) <= compared

  @pytest.mark.parametrize("variant", ["", "small", "alexnet,vgg19", "lenet", "alexnet,small,demo"])
  def test_rejects_variants_without_exactly_one_network(self, variant: str) -> None:
    with pytest.raises(UserError, match="expected one of alexnet, bn_inception, .*, alone or with ,small or ,demo"):
      load_config(f"configs/baselines.py:{variant}")


def test_sweep_and_benchmark_agree_on_table_5() -> None:
  sweep = {candidate.timing: candidate.reported for candidate in planned("separable_se_table5").sweep.candidates}
  for name, printed in inference.PRINTED.items():
    assert sweep[name] == {
      "test accuracy": printed.accuracy,
      "seconds for 1,500 images": printed.seconds,
      "parameters": printed.parameters,
    }
