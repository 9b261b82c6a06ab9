"""All configs: every variant builds and runs steps in each of its phases."""

import functools
import importlib
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import pytest

from configs import fer2013, hsic, obsr, resnet, separable_se
from fer_jax.config.parsing import parse
from fer_jax.data.batch import Batch
from fer_jax.models import resnet as networks
from fer_jax.runtime.parallel import Devices
from fer_jax.runtime.programs import CachedProgram
from fer_jax.training.initialization import initialize
from fer_jax.training.phases import plan_phases
from fer_jax.training.step import Resident, StepContext

VARIANTS = [
  *(("hsic", v) for v in ("", *hsic.VARIANTS, "small,backprop", "small,paper", "small,layerwise")),
  *(("obsr", v) for v in ("", "ck_plus", "demo", "small,pretrained", "votes")),
  *(("ca_resnet", v) for v in ("", "best,small", "speedrun", "named,step", "demo", "small,plain,resnet34")),
  *(("separable_se", v) for v in ("", "two_channel,demo", "mini_xception,jaffe", "oulu_casia,honest")),
  *(("resnet", v) for v in ("", "first4", "demo", "kind=plain,small,subjects,single")),
  *(("fer2013", v) for v in ("", "league,bilinear_gc", "demo")),
]
# Variants that are compiled in the fast tests, because they compile quickly.
SHORT = {("hsic", "small,backprop"), ("obsr", "demo"), ("resnet", "demo")}
# Narrower networks with fewer convolutions: the tests concern the steps, not the numbers.
NARROW = {
  "hsic": {"convs": 2, "growth": 4, "stem": 4, "transition": 4, "pyramid": 4},
  "obsr": {"depth": 18, "width": 2},  # with one block per stage, see `short_residual_networks`
  "resnet": {"depth": 8, "width": 2},
  "ca_resnet": {"width": 2},
  "separable_se": {"width": 2},
  "fer2013": {"width": 2},
}


@pytest.fixture(autouse=True)
def short_residual_networks(monkeypatch):
  monkeypatch.setitem(networks.STAGES, 18, (1, 1))


def all_equal(one, two):
  return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, two)))


class Built(NamedTuple):
  """Network, phases and initialization of a config, and the arguments of a step after the state."""

  network: Any
  phases: Any
  initialization: Any
  arguments: Any


def build(name, variant):
  config = importlib.import_module(f"configs.{name}").get_config(variant)
  config.model.update(NARROW[name])
  config.pretrained.required = False  # the initial parameters do not matter here
  settings = parse(config)
  devices = Devices(jax.devices()[:1])
  initialization = initialize(settings, (48, 48, 1), 7)
  image = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 1), dtype=np.uint8)
  resident = devices.replicate(Resident(image, np.eye(7, dtype=np.float32)[np.arange(8) % 7]))
  batch, context = Batch(np.arange(8, dtype=np.int32), np.ones(8, bool)), StepContext(np.float32(0.5), np.int32(0))
  phases = plan_phases(settings, initialization.network, None, epoch_rows=1000)
  return Built(initialization.network, phases, initialization, (resident, batch, context))


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_config_has_a_step_for_each_phase(name, variant):
  """Only traces the steps, because compiling them takes about 20 s per network."""
  network, phases, initialization, arguments = build(name, variant)
  for phase in phases:
    state = jax.eval_shape(functools.partial(phase.initial_state, 0), *initialization.shapes)
    new_state, metrics = jax.eval_shape(phase.train_step, state, *arguments)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert "loss" in metrics
  assert set.union(*(set(phase.trainable) for phase in phases)) == set(network.layers)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_step_can_be_traced_for_a_gpu(name, variant):
  """Fails if a cached trace calls a kernel whose stability `jax.export` does not guarantee."""
  _, phases, initialization, arguments = build(name, variant)
  for phase in phases:
    state = jax.eval_shape(functools.partial(phase.initial_state, 0), *initialization.shapes)
    new_state, _ = CachedProgram(phase.train_step, phase.identity, "cuda").shapes(state, *arguments)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)


@pytest.mark.parametrize(
  ("name", "variant"), [each if each in SHORT else pytest.param(*each, marks=pytest.mark.slow) for each in VARIANTS]
)
def test_config_runs_steps_in_each_phase(name, variant):
  network, phases, initialization, arguments = build(name, variant)
  params, stats = initialization.variables([0])[0]
  for phase in phases:
    state = phase.initial_state(0, params, stats)
    step = Devices(jax.devices()[:1]).compile_train(phase.train_step, f"training {phase.identity}")
    new_state, _ = step(state, *arguments)
    # Two steps: a classifier that is initialised to zero passes no gradient back in the first.
    new_state, metrics = step(new_state, *arguments)
    assert np.isfinite(metrics["loss"])
    for layer in network.layers:
      # Frozen layers and their running statistics are unchanged, bit for bit.
      assert all_equal(new_state.params[layer], params[layer]) == (layer not in phase.trainable), layer
      changes = layer in phase.trainable and bool(stats[layer])
      assert all_equal(new_state.stats[layer], stats[layer]) == (not changes), layer


def test_rows_of_the_ablation_differ_in_one_setting():
  rows = [obsr.get_config(variant).to_dict() for variant in ("resnet34", "pretrained", "bilinear", "")]
  for row in rows:
    del row["paper"]
  plain, pretrained, bilinear, full = rows
  assert plain["schedule"] == ("whole",)
  assert pretrained["schedule"] == bilinear["schedule"] == ("head", "whole")
  assert {**pretrained, "model": None} == {**bilinear, "model": None}
  for phase in bilinear["phases"].values():
    assert phase["optimizer"].pop("centralize") == ""
  for phase in full["phases"].values():
    assert phase["optimizer"].pop("centralize") == "direction"
  assert bilinear == full


@pytest.mark.parametrize(("file", "variant"), [(separable_se, "jaffe,transfer"), (resnet, "transfer,subjects")])
def test_transfer_fine_tunes_the_shipped_network_with_folds_over_subjects(file, variant):
  settings, shipped = parse(file.get_config(variant)), parse(fer2013.get_config())
  assert settings.model == shipped.model
  assert (settings.pretrained.path, settings.data.image_size) == ("default", 48)
  assert settings.folds.by == "subjects"
  assert [settings.phases[name].train for name in settings.schedule] == [("classifier",), ("*",)]


def test_transfer_rejects_a_depth():
  with pytest.raises(ValueError, match="expected no depth and no kind"):
    resnet.get_config("transfer,depth=20")


def test_obsr_centralizes_adamw_for_fer2013_and_adam_for_ck_plus():
  for variant, name in (("", "adamw"), ("ck_plus", "adam")):
    optimizers = [phase["optimizer"] for phase in obsr.get_config(variant).phases.values()]
    assert {(o["name"], o["centralize"]) for o in optimizers} == {(name, "direction")}
