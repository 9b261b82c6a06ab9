"""Initial parameters of a run: random, pretrained, and error messages."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hsic, obsr
from fer_jax.config.parsing import parse
from fer_jax.inference import model_file
from fer_jax.models import resnet
from fer_jax.models.network import inference_parameters
from fer_jax.pretrained.sources import torchvision_name
from fer_jax.runtime.errors import UserError
from fer_jax.training.initialization import initialize

IMAGE = (32, 32, 1)


@pytest.fixture(autouse=True)
def two_blocks(monkeypatch):
  monkeypatch.setitem(resnet.STAGES, 18, (1, 1))  # compiles in a moment


def make_settings(variant="demo", **changes):
  config = obsr.get_config(variant)
  config.model.update({"depth": 18, "width": 2})
  config.update_from_flattened_dict(changes)
  return parse(config)


def make_initialization(settings, image=IMAGE):
  return initialize(settings, image, 7)


def with_changed_statistics(variables):
  """Returns variables whose batch statistics differ from the initial ones."""
  params, stats = variables
  return params, jax.tree.map(lambda x: x + jnp.arange(x.size, dtype=x.dtype), stats)


def write_weights(folder, variables):
  """Writes a network's variables under torchvision's names."""
  arrays = {}
  for collection, tree in zip(("params", "stats"), variables, strict=True):
    for path, leaf in leaves(tree):
      order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim, (0,))
      arrays[torchvision_name((collection, *path))] = np.asarray(leaf).transpose(order)
  path = folder / "weights.npz"
  np.savez(path, **arrays)
  return str(path)


def leaves(tree, path=()):
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from leaves(value, (*path, name))
    else:
      yield (*path, name), value


def test_shapes_equal_those_of_the_variables():
  initialization = make_initialization(make_settings())
  chex.assert_trees_all_equal_shapes_and_dtypes(initialization.shapes, initialization.variables([0])[0])
  assert initialization.loaded is None


def test_variables_equal_network_init_with_the_seed():
  initialization = make_initialization(make_settings())
  drawn = initialization.variables([3])[0]
  expected = jax.jit(initialization.network.init)(jax.random.key(3), jnp.zeros((1, *IMAGE)))
  chex.assert_trees_all_close(drawn, expected, rtol=1e-6)


def test_another_seed_gives_other_variables():
  (one, _), (two, _) = make_initialization(make_settings()).variables([0, 1])
  assert not np.allclose(one["classifier"]["linear"]["kernel"], two["classifier"]["linear"]["kernel"])


def test_extractors_are_pretrained_and_the_head_is_random(tmp_path):
  donor = with_changed_statistics(make_initialization(make_settings("demo,resnet34")).variables([3])[0])
  path = write_weights(tmp_path, donor)
  initialization = make_initialization(make_settings("demo", **{"pretrained.path": path, "pretrained.required": True}))
  params, stats = initialization.variables([0])[0]
  for prefix in ("a_", "b_"):
    for tree, donor_tree in ((params, donor[0]), (stats, donor[1])):
      copied = {name.removeprefix(prefix): layer for name, layer in tree.items() if name.startswith(prefix)}
      chex.assert_trees_all_equal(copied, {name: donor_tree[name] for name in copied})
  fresh = make_initialization(make_settings("demo")).variables([0])[0][0]
  chex.assert_trees_all_equal(params["classifier"], fresh["classifier"])
  assert "fc.weight" in initialization.loaded.report.unused


def test_classifier_option_loads_the_classifier(tmp_path):
  donor = make_initialization(make_settings("demo,resnet34")).variables([3])[0]
  changes = {"pretrained.path": write_weights(tmp_path, donor), "pretrained.classifier": True}
  params, stats = make_initialization(make_settings("demo,resnet34", **changes)).variables([0])[0]
  chex.assert_trees_all_equal((params, stats), donor)


def test_rejects_missing_required_weights():
  with pytest.raises(UserError, match=r"config\.pretrained\.path is empty.*fer_jax.apps.fetch resnet34 downloads"):
    make_initialization(dataclasses.replace(make_settings(), pretrained=make_settings("small").pretrained))


def test_rejects_missing_files(tmp_path):
  with pytest.raises(UserError, match="nowhere.pth"):
    make_initialization(make_settings(**{"pretrained.path": str(tmp_path / "nowhere.pth")}))


def test_rejects_images_that_are_too_small():
  config = obsr.get_config("demo")
  config.model = {"name": "alexnet"}
  with pytest.raises(UserError, match=r"config\.data\.image_size: images of 2x2 do not fit config\.model"):
    make_initialization(parse(config), (2, 2, 1))


def test_projection_heads_stay_random_next_to_loaded_layers(tmp_path):
  def settings(**changes):
    config = hsic.get_config("demo,layerwise")
    config.model.update({"blocks": 1, "convs": 1, "growth": 4, "stem": 4, "pyramid": 4})
    config.phases.bottleneck.objective.head_layers = 1
    config.update_from_flattened_dict(changes)
    return parse(config)

  donor, stats = initialize(settings(), IMAGE, 7).variables([3])[0]
  path = tmp_path / "network.safetensors"
  model_file.write(path, model_file.StoredModel(inference_parameters(donor), stats, {}), bits=32)
  initialization = initialize(settings(**{"pretrained.path": str(path)}), IMAGE, 7)
  params, _ = initialization.variables([0])[0]
  random, _ = initialize(settings(), IMAGE, 7).variables([0])[0]
  np.testing.assert_array_equal(params["block1_stem"]["kernel"], donor["block1_stem"]["kernel"])
  chex.assert_trees_all_equal(params["block1_stem"]["projection_head"], random["block1_stem"]["projection_head"])
