"""Dense network: parameter counts, layers, shapes and the feature pyramid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.models.hsic_dense import HsicDense


def parameters_of(settings, size=48):
  network = settings.build(7, jnp.float32, None)
  params, _ = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32))
  return network, params


@pytest.mark.parametrize("head_grid", [1, 3])
def test_has_about_seven_million_parameters(head_grid):
  _, params = parameters_of(HsicDense(head_grid=head_grid))
  count = sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(params))
  assert 6.8e6 < count < 7.4e6


def test_has_three_blocks_of_five_convolutions_and_three_pyramid_levels():
  network, _ = parameters_of(HsicDense())
  assert [sum("conv" in name for name in block) for block in network.blocks] == [5, 5, 5, 0]
  assert [name for name in network.layers if "lateral" in name] == [f"block{i}_lateral" for i in (1, 2, 3)]
  assert network.blocks[-1] == ("pyramid_level3", "pyramid_level2", "pyramid_level1")


def test_convolutions_read_all_earlier_outputs_with_one_weight_each():
  _, params = parameters_of(HsicDense(growth=8, stem=4, transition=6))
  for i in range(1, 6):
    layer = params[f"block2_conv{i}"]
    assert layer["connection"].shape == (i,)
    assert layer["kernel"].shape == (3, 3, 6 + 8 * (i - 1), 8)


def test_blocks_halve_the_resolution_and_the_pyramid_restores_it():
  network = HsicDense(growth=4, stem=4, transition=4, pyramid=4).build(7, jnp.float32, None)
  image = jnp.zeros((2, 48, 48, 1))
  params, stats = jax.jit(network.init)(jax.random.key(0), image)
  outputs, _ = network.apply(params, stats, image, taps=True)
  shapes = dict(zip(network.hidden, [t.shape for t in outputs.taps], strict=True))
  assert [shapes[f"block{i}_conv5"][1] for i in (1, 2, 3)] == [24, 12, 6]
  assert [shapes[f"pyramid_level{i}"][1] for i in (1, 2, 3)] == [24, 12, 6]
  assert outputs.logits.shape == (2, 7)
  assert outputs.features.shape == (2, 3 * 4)


def test_layers_are_applied_in_their_listed_order():
  network = HsicDense(growth=2, stem=2, transition=2, pyramid=2).build(7, jnp.float32, None)
  params, stats = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 24, 24, 1)))
  applied = []

  def apply(name, *inputs):
    applied.append(name)
    return network.call(name, params[name], stats[name], inputs, None)[0]

  network.walk(apply, jnp.zeros((1, 24, 24, 1)))
  assert applied == list(network.layers) == [*network.hidden, network.classifier]


def test_pyramid_adds_the_coarser_level_to_each_lateral():
  network = HsicDense(blocks=2, convs=1, growth=2, stem=2, transition=2, pyramid=3).build(7, jnp.float32, None)
  image = jax.random.normal(jax.random.key(0), (2, 24, 24, 1))
  params, stats = jax.jit(network.init)(jax.random.key(1), image)
  calls = {}

  def apply(name, *inputs):
    output, _ = network.call(name, params[name], stats[name], inputs, None)
    calls[name] = (inputs, output)
    return output

  network.walk(apply, image)
  coarse, fine = (np.asarray(calls[f"block{block}_lateral"][1]) for block in (2, 1))
  np.testing.assert_array_equal(calls["pyramid_level2"][0][0], coarse)
  doubled = coarse.repeat(2, axis=1).repeat(2, axis=2)
  np.testing.assert_allclose(calls["pyramid_level1"][0][0], fine + doubled, rtol=1e-6)


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_supports_any_number_of_blocks(blocks):
  network = HsicDense(blocks=blocks, convs=2, growth=2, stem=2, transition=2, pyramid=2).build(7, jnp.float32, None)
  image = jnp.zeros((1, 48, 48, 1))
  outputs, _ = network.apply(*jax.jit(network.init)(jax.random.key(0), image), image)
  assert outputs.logits.shape == (1, 7)


def test_bfloat16_keeps_parameters_and_logits_in_float32():
  network = HsicDense(blocks=2, convs=2, growth=4, stem=4, transition=4, pyramid=4).build(7, jnp.bfloat16, None)
  image = jax.random.normal(jax.random.key(0), (4, 24, 24, 1))
  params, stats = jax.jit(network.init)(jax.random.key(1), image)
  outputs, new_stats = network.apply(params, stats, image, key=jax.random.key(2), taps=True)
  assert {leaf.dtype for leaf in jax.tree.leaves((params, new_stats))} == {jnp.dtype("float32")}
  assert outputs.logits.dtype == jnp.float32
  assert {tap.dtype for tap in outputs.taps} == {jnp.dtype("bfloat16")}


def test_levels_smaller_than_the_head_grid_fill_every_cell():
  network = HsicDense(blocks=3, convs=1, growth=2, stem=2, transition=2, pyramid=3, head_grid=3).build(
    7, jnp.float32, None
  )
  image = jax.random.normal(jax.random.key(0), (2, 12, 12, 1))  # levels of 6, 3 and 1 pixels
  outputs, _ = network.apply(*jax.jit(network.init)(jax.random.key(1), image), image)
  features = np.asarray(outputs.features).reshape(2, 9, 9)
  assert np.ptp(features[:, :, :3], axis=1).max() == 0  # the coarsest comes first
  assert np.ptp(features[:, :, 3:6], axis=1).max() > 0
