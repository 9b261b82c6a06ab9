"""What a run begins with: random parameters, or another run's, and the lines that say why not."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import obsr
from fer_jax.config.parsing import parse
from fer_jax.models import resnet
from fer_jax.pretrained.sources import torchvision_name
from fer_jax.runtime.errors import UserError
from fer_jax.training.initialization import initialize

IMAGE = (32, 32, 1)


@pytest.fixture(autouse=True)
def two_blocks(monkeypatch):
  monkeypatch.setitem(resnet.STAGES, 18, (1, 1))  # compiled in a moment


def settings_of(variant="demo", **changes):
  config = obsr.get_config(variant)
  config.model.update({"depth": 18, "width": 2})
  config.update_from_flattened_dict(changes)
  return parse(config)


def initialized(settings, image=IMAGE):
  return initialize(settings, image, 7)


def trained(variables):
  """Returns variables whose statistics are no longer those of a network that has seen nothing."""
  params, stats = variables
  return params, jax.tree.map(lambda x: x + jnp.arange(x.size, dtype=x.dtype), stats)


def weights_of(folder, variables):
  """Writes a network's variables as torchvision would call them."""
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


def test_shapes_are_those_of_what_it_begins_with():
  initialization = initialized(settings_of())
  chex.assert_trees_all_equal_shapes_and_dtypes(initialization.shapes, initialization.variables([0])[0])
  assert initialization.loaded is None


def test_a_seed_draws_what_the_network_draws_by_its_key():
  initialization = initialized(settings_of())
  drawn = initialization.variables([3])[0]
  expected = jax.jit(initialization.network.init)(jax.random.key(3), jnp.zeros((1, *IMAGE)))
  chex.assert_trees_all_close(drawn, expected, rtol=1e-6)


def test_another_seed_is_gives_other_variables():
  (one, _), (two, _) = initialized(settings_of()).variables([0, 1])
  assert not np.allclose(one["classifier"]["linear"]["kernel"], two["classifier"]["linear"]["kernel"])


def test_both_extractors_begin_with_the_weights_and_the_head_at_random(tmp_path):
  donor = trained(initialized(settings_of("demo,resnet34")).variables([3])[0])
  path = weights_of(tmp_path, donor)
  initialization = initialized(settings_of("demo", **{"pretrained.path": path, "pretrained.required": True}))
  params, stats = initialization.variables([0])[0]
  for prefix in ("a_", "b_"):
    for tree, of in ((params, donor[0]), (stats, donor[1])):
      copied = {name.removeprefix(prefix): layer for name, layer in tree.items() if name.startswith(prefix)}
      chex.assert_trees_all_equal(copied, {name: of[name] for name in copied})
  fresh = initialized(settings_of("demo")).variables([0])[0][0]
  chex.assert_trees_all_equal(params["classifier"], fresh["classifier"])
  assert "fc.weight" in initialization.loaded.report.unused


def test_the_classifier_is_taken_where_it_is_asked_for(tmp_path):
  donor = initialized(settings_of("demo,resnet34")).variables([3])[0]
  changes = {"pretrained.path": weights_of(tmp_path, donor), "pretrained.classifier": True}
  params, stats = initialized(settings_of("demo,resnet34", **changes)).variables([0])[0]
  chex.assert_trees_all_equal((params, stats), donor)


def test_weights_that_a_config_needs_and_has_not_are_asked_for():
  with pytest.raises(UserError, match=r"config\.pretrained\.path is empty.*nothing is downloaded"):
    initialized(dataclasses.replace(settings_of(), pretrained=settings_of("small").pretrained))


def test_a_path_that_is_wrong_is_named(tmp_path):
  with pytest.raises(UserError, match="nowhere.pth"):
    initialized(settings_of(**{"pretrained.path": str(tmp_path / "nowhere.pth")}))


def test_images_that_are_too_small_are_an_error_of_the_config():
  config = obsr.get_config("demo")
  config.model = {"name": "alexnet"}
  with pytest.raises(UserError, match=r"config\.data\.image_size: images of 2x2 do not fit config\.model"):
    initialized(parse(config), (2, 2, 1))
