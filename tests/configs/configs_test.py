"""Every config builds, and takes steps in each of its phases."""

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
  *(("hsic", v) for v in ("", *hsic.VARIANTS, "small,backprop", "small,paper", "small,blockwise")),
  *(("obsr", v) for v in ("", "ck_plus", "demo", "small,pretrained", "votes")),
  *(("ca_resnet", v) for v in ("", "best,small", "speedrun", "named,step", "demo", "small,plain,resnet34")),
  *(("separable_se", v) for v in ("", "two_channel,demo", "mini_xception,jaffe", "oulu_casia,honest")),
  *(("resnet", v) for v in ("", "first4", "demo", "kind=plain,small,subjects,single")),
  *(("fer2013", v) for v in ("", "league,bilinear_gc", "demo")),
]
# Those that are compiled whenever tests are run: the quickest.
SHORT = {("hsic", "small,backprop"), ("obsr", "demo"), ("resnet", "demo")}
# The step is what is tested, not the arithmetic: a narrower network, fewer convolutions.
NARROW = {
  "hsic": {"convs": 2, "growth": 4, "stem": 4, "transition": 4, "pyramid": 4},
  "obsr": {"depth": 18, "width": 2},  # and of two blocks, below
  "resnet": {"depth": 8, "width": 2},
  "ca_resnet": {"width": 2},
  "separable_se": {"width": 2},
  "fer2013": {"width": 2},
}


@pytest.fixture(autouse=True)
def short_residual_networks(monkeypatch):
  monkeypatch.setitem(networks.STAGES, 18, (1, 1))


def same(one, two):
  return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, two)))


class Built(NamedTuple):
  """A config's network and phases, and what a step of them is called with after the state."""

  network: Any
  phases: Any
  initialization: Any
  arguments: Any


def build(name, variant):
  config = importlib.import_module(f"configs.{name}").get_config(variant)
  config.model.update(NARROW[name])
  config.pretrained.required = False  # what the layers begin with is of no account here
  settings = parse(config)
  devices = Devices(jax.devices()[:1])
  initialization = initialize(settings, (48, 48, 1), 7)
  image = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 1), dtype=np.uint8)
  resident = devices.replicate(Resident(image, np.eye(7, dtype=np.float32)[np.arange(8) % 7]))
  batch, context = Batch(np.arange(8, dtype=np.int32), np.ones(8, bool)), StepContext(np.float32(0.5), np.int32(0))
  phases = plan_phases(settings, initialization.network, None, epoch_rows=1000)
  return Built(initialization.network, phases, initialization, (resident, batch, context))


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_config_has_a_step_for_each_phase(name, variant):
  """Traced, and not compiled: that takes some twenty seconds for each of the networks."""
  network, phases, initialization, arguments = build(name, variant)
  for phase in phases:
    state = jax.eval_shape(functools.partial(phase.initial_state, 0), *initialization.shapes)
    new_state, metrics = jax.eval_shape(phase.train_step, state, *arguments)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert "loss" in metrics
  assert set.union(*(set(phase.trainable) for phase in phases)) == set(network.layers)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_step_can_be_traced_for_a_gpu(name, variant):
  """A trace that is kept may call no kernel whose stability `jax.export` does not guarantee."""
  _, phases, initialization, arguments = build(name, variant)
  for phase in phases:
    state = jax.eval_shape(functools.partial(phase.initial_state, 0), *initialization.shapes)
    new_state, _ = CachedProgram(phase.train_step, phase.identity, "cuda").shapes(state, *arguments)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)


@pytest.mark.parametrize(
  ("name", "variant"), [each if each in SHORT else pytest.param(*each, marks=pytest.mark.slow) for each in VARIANTS]
)
def test_a_config_takes_steps_in_each_phase(name, variant):
  network, phases, initialization, arguments = build(name, variant)
  params, stats = initialization.variables([0])[0]
  for phase in phases:
    state = phase.initial_state(0, params, stats)
    step = Devices(jax.devices()[:1]).compile_train(phase.train_step, f"training {phase.identity}")
    new_state, _ = step(state, *arguments)
    # Two, for a classifier that begins at zero sends nothing back in the first.
    new_state, metrics = step(new_state, *arguments)
    assert np.isfinite(metrics["loss"])
    for layer in network.layers:
      # What is frozen stays to the bit, its running statistics too.
      assert same(new_state.params[layer], params[layer]) == (layer not in phase.trainable), layer
      moves = layer in phase.trainable and bool(stats[layer])
      assert same(new_state.stats[layer], stats[layer]) == (not moves), layer


def test_the_rows_of_the_ablation_differ_in_one_thing_each():
  rows = [obsr.get_config(variant).to_dict() for variant in ("resnet34", "pretrained", "bilinear", "")]
  for row in rows:
    del row["paper"]
  bare, pretrained, bilinear, whole = rows
  assert bare["schedule"] == ("whole",)
  assert pretrained["schedule"] == bilinear["schedule"] == ("head", "whole")
  assert {**pretrained, "model": None} == {**bilinear, "model": None}
  for phase in bilinear["phases"].values():
    assert phase["optimizer"].pop("centralize") == ""
  for phase in whole["phases"].values():
    assert phase["optimizer"].pop("centralize") == "direction"
  assert bilinear == whole


@pytest.mark.parametrize(("file", "variant"), [(separable_se, "jaffe,transfer"), (resnet, "transfer,subjects")])
def test_transfer_fine_tunes_the_network_of_the_package_on_people_that_it_is_not_tested_on(file, variant):
  settings, shipped = parse(file.get_config(variant)), parse(fer2013.get_config(fer2013.SHIPPED))
  assert settings.model == shipped.model
  assert (settings.pretrained.path, settings.data.image_size) == ("default", 48)
  assert settings.folds.by == "subjects"
  assert [settings.phases[name].train for name in settings.schedule] == [("classifier",), ("*",)]


def test_a_network_of_its_own_has_no_other_depth():
  with pytest.raises(ValueError, match="expected no depth and no kind"):
    resnet.get_config("transfer,depth=20")


def test_gradient_centralization_is_in_adamw_for_fer2013_and_in_adam_for_ck_plus():
  for variant, name in (("", "adamw"), ("ck_plus", "adam")):
    optimizers = [phase["optimizer"] for phase in obsr.get_config(variant).phases.values()]
    assert {(o["name"], o["centralize"]) for o in optimizers} == {(name, "direction")}
