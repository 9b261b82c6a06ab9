"""The sweeps of configs/sweeps and the networks that they compare: every member's config parses and builds."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs import baselines
from configs.sweeps import SIZES, hsic_baselines
from fer_jax import command_line, config
from fer_jax.apps.benchmarks import table1
from fer_jax.apps.sweeps.plan import Plan, plan
from fer_jax.command_line import load_config
from fer_jax.errors import UserError
from fer_jax.parallel import Devices
from fer_jax.phases import plan as plan_phases

ROOT = Path(__file__).resolve().parent.parent
SWEEPS = sorted(path.stem for path in (ROOT / "configs" / "sweeps").glob("*.py") if path.stem != "__init__")
WORKDIR = Path("w")


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(ROOT)


def planned(name: str, variant: str = "") -> Plan:
  return plan(f"configs/sweeps/{name}.py" + (f":{variant}" if variant else ""), WORKDIR)


def settings_of(arguments: tuple[str, ...]) -> config.Settings:
  command = command_line.parse(["sweep", *arguments])
  assert command is not None
  return config.parse(command.config)


@pytest.mark.parametrize("variant", SIZES)
@pytest.mark.parametrize("name", SWEEPS)
def test_every_member_parses_and_builds(name: str, variant: str) -> None:
  devices = Devices(jax.devices()[:1])
  for run in planned(name, variant).distinct:
    settings = settings_of(run.arguments)
    network = settings.model.build(7, jnp.float32, None)
    phases = plan_phases(settings, network, devices, rows=28709)
    assert sum(phase.steps for phase in phases) == {"": 10000, "small": 400, "demo": 12}[variant]
    assert settings.data.name == ("synthetic_faces" if variant == "demo" else "fer2013")


def test_sweeps_share_the_default_network() -> None:
  workdirs = [{run.workdir for run in planned(name).runs} for name in SWEEPS]
  # The default in each but the objectives' own seeds: three blocks, relu and 0.005 are what configs/hsic.py has.
  assert len(set.intersection(*workdirs)) == 3
  of = dict(zip(SWEEPS, workdirs, strict=True))
  assert of["hsic_table1"] < of["hsic_baselines"]
  assert len(of["hsic_objective"] & of["hsic_baselines"]) == 6  # and the twin


@pytest.mark.parametrize(
  ("name", "key", "values"),
  [
    ("hsic_blocks", "model.blocks", [1, 2, 3, 4]),
    ("hsic_activation", "model.activation", ["relu", "tanh", "elu"]),
    ("hsic_learning_rate", "phases.bottleneck.optimizer.learning_rate", [0.0005, 0.001, 0.005]),
  ],
)
def test_members_differ_in_what_is_swept(name: str, key: str, values: list[object]) -> None:
  sweep = planned(name).sweep
  assert [member.value for member in sweep.members] == values
  found = []
  for member in sweep.members:
    command = command_line.parse(["sweep", f"--config={member.config}", *member.overrides])
    assert command is not None
    value = command.config
    for part in key.split("."):
      value = value[part]
    found.append(value)
  assert found == values


def test_the_table_s_figures_are_the_paper_s() -> None:
  reported = {member.name: member.reported for member in planned("hsic_table1").sweep.members}
  assert reported["ResNet-50"] == {"seconds a step": 0.180212, "parameters": 24e6, "test accuracy": 0.95}
  assert reported["dense network, HSIC bottleneck"]["test accuracy"] == 0.97


def test_the_table_s_members_name_rows_of_the_benchmark() -> None:
  timings = {member.timing for member in planned("hsic_table1").sweep.members}
  assert timings == {table1.OURS, *(f"{name}, backprop" for name in table1.PRINTED)}


class TestBaselines:
  def test_a_baseline_is_the_twin_with_another_network(self) -> None:
    for variant in ("", "small", "demo"):
      words = ",".join(part for part in ("vgg19", variant) if part)
      one = load_config(f"configs/baselines.py:{words}").to_dict()
      twin = load_config(f"configs/hsic.py:{variant},backprop").to_dict()
      assert one.pop("model")["name"] == "vgg"
      assert twin.pop("model")["name"] == "hsic_dense"
      assert one == twin

  @pytest.mark.parametrize("name", baselines.BASELINES)
  def test_the_narrower_network_takes_a_face_and_is_smaller(self, name: str) -> None:
    sizes = []
    for variant in (name, f"{name},small"):
      network = settings_of((f"--config=configs/baselines.py:{variant}",)).model.build(7, jnp.float32, None)
      image = jax.ShapeDtypeStruct((1, 48, 48, 1), jnp.float32)
      params, _ = jax.eval_shape(network.init, jax.random.key(0), image)
      sizes.append(sum(leaf.size for leaf in jax.tree.leaves(params)))
    assert sizes[1] <= sizes[0]

  def test_all_are_in_the_sweep(self) -> None:
    assert list(hsic_baselines.NAMES) == list(baselines.BASELINES)

  @pytest.mark.parametrize("variant", ["", "small", "alexnet,vgg19", "lenet", "alexnet,small,demo"])
  def test_a_variant_names_one_network(self, variant: str) -> None:
    with pytest.raises(UserError, match="expected one of alexnet, bn_inception, .*, alone or with ,small or ,demo"):
      load_config(f"configs/baselines.py:{variant}")
