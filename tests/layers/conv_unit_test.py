import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.conv_unit import ACTIVATIONS, ConvUnit

EPSILON = 1e-5
NUMPY_ACTIVATIONS = {
  "relu": lambda x: np.maximum(x, 0),
  "tanh": np.tanh,
  "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}


def maps(*channels, size=6, batch=4):
  rng = np.random.default_rng(sum(channels))
  return [jnp.asarray(rng.normal(1, 2, (batch, size, size, c)), jnp.float32) for c in channels]


def make(unit, *inputs):
  """Returns random variables of a unit; variances are positive."""
  rng = np.random.default_rng(0)

  def value(path, shape):
    drawn = rng.uniform(0.5, 1.5, shape.shape) if path[-1].key == "var" else rng.normal(size=shape.shape)
    return jnp.asarray(drawn, shape.dtype)

  return jax.tree_util.tree_map_with_path(value, shapes(unit, *inputs))


def shapes(unit, *inputs):
  """Returns the shapes and dtypes of a unit's variables."""
  return jax.eval_shape(lambda: unit.init(jax.random.key(0), *inputs, train=False))


@functools.partial(jax.jit, static_argnums=0)
def evaluated(unit, variables, *inputs):
  return unit.apply(variables, *inputs, train=False)


@functools.partial(jax.jit, static_argnums=0)
def trained(unit, variables, *inputs):
  return unit.apply(variables, *inputs, train=True, mutable=["batch_stats"])


def convolve(image, kernel, stride=1):
  return jax.lax.conv_general_dilated(
    image, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def normalized(x, variables):
  """Batch normalisation with the running statistics, in float64."""
  norm, stats = variables["params"]["norm"], variables["batch_stats"]["norm"]
  scale, bias, mean, var = (np.asarray(v, float) for v in (norm["scale"], norm["bias"], stats["mean"], stats["var"]))
  return (np.asarray(x, float) - mean) / np.sqrt(var + EPSILON) * scale + bias


class TestWeightedInputs:
  @pytest.mark.parametrize("activation", ACTIVATIONS)
  def test_folding_into_the_kernel_equals_scaling_the_inputs(self, activation):
    inputs, unit = maps(3, 1, 2), ConvUnit(5, activation=activation, weighted_inputs=True)
    variables = make(unit, *inputs)
    weights = variables["params"]["connection"]
    assert weights.shape == (3,)
    scaled = jnp.concatenate([w * m for w, m in zip(weights, inputs, strict=True)], axis=-1)
    expected = normalized(convolve(scaled, variables["params"]["kernel"]), variables)
    found = evaluated(unit, variables, *inputs)
    np.testing.assert_allclose(found, NUMPY_ACTIVATIONS[activation](expected), atol=1e-4)

  def test_gradients_of_the_weights_are_those_of_scaling_the_inputs(self):
    inputs = maps(3, 2)
    weighted, plain = ConvUnit(5, weighted_inputs=True, activation="tanh"), ConvUnit(5, activation="tanh")
    variables = make(weighted, *inputs)
    rest = {name: value for name, value in variables["params"].items() if name != "connection"}

    def folded(weights):
      params = {**rest, "connection": weights}
      out, _ = trained(weighted, {**variables, "params": params}, *inputs)
      return jnp.sum(out**2)

    def scaled(weights):
      scaled_inputs = [w * m for w, m in zip(weights, inputs, strict=True)]
      out, _ = trained(plain, {**variables, "params": rest}, *scaled_inputs)
      return jnp.sum(out**2)

    weights = variables["params"]["connection"]
    np.testing.assert_allclose(
      jax.jit(jax.grad(folded))(weights), jax.jit(jax.grad(scaled))(weights), rtol=1e-3, atol=1e-3
    )

  def test_are_ones_at_first_and_then_change_nothing(self):
    inputs = maps(3, 2)
    weighted, plain = ConvUnit(5, weighted_inputs=True), ConvUnit(5)
    variables = weighted.init(jax.random.key(0), *inputs, train=False)
    np.testing.assert_array_equal(variables["params"]["connection"], [1, 1])
    assert "connection" not in shapes(plain, *inputs)["params"]
    without = {name: value for name, value in variables["params"].items() if name != "connection"}
    np.testing.assert_allclose(
      evaluated(weighted, variables, *inputs), evaluated(plain, {**variables, "params": without}, *inputs), atol=1e-6
    )


class TestFloat16:
  def test_an_overflow_is_the_largest_number_and_not_an_infinity(self):
    (image,) = maps(2)
    unit = ConvUnit(3, dtype=jnp.float16)
    variables = make(unit, image)
    params = {**variables["params"], "kernel": variables["params"]["kernel"] * 1e5}
    found, updates = trained(unit, {**variables, "params": params}, image)
    assert np.isfinite(found).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


class TestNormalisation:
  def test_trains_on_the_batch_and_keeps_a_running_average(self):
    (image,) = maps(2)
    unit = ConvUnit(3)
    variables = make(unit, image)
    found, updates = trained(unit, variables, image)
    convolved = np.asarray(convolve(image, variables["params"]["kernel"]), float)
    batch = {"mean": convolved.mean(axis=(0, 1, 2)), "var": convolved.var(axis=(0, 1, 2))}
    expected = normalized(convolved, {**variables, "batch_stats": {"norm": batch}})
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-3)
    for name, value in batch.items():
      before = np.asarray(variables["batch_stats"]["norm"][name])
      np.testing.assert_allclose(updates["batch_stats"]["norm"][name], 0.9 * before + 0.1 * value, rtol=1e-4)

  def test_statistics_over_four_devices_are_those_of_the_whole_batch(self):
    (image,) = maps(2, batch=8)
    image = image * jnp.arange(1.0, 9.0).reshape(8, 1, 1, 1)  # no device's rows are like another's
    alone, mapped = ConvUnit(3), ConvUnit(3, axis_name="devices")
    variables = make(alone, image)

    def train(unit):
      return lambda rows: trained(unit, variables, rows)

    expected, whole = train(alone)(image)
    found, shared = jax.pmap(train(mapped), "devices", out_axes=(0, None))(image.reshape(4, 2, *image.shape[1:]))
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), shared, whole)


class TestForm:
  @pytest.mark.parametrize(("size", "stride", "out"), [(6, 1, 6), (6, 2, 3), (7, 2, 4)])
  def test_stride(self, size, stride, out):
    (image,) = maps(2, size=size)
    unit = ConvUnit(3, stride=stride)
    variables = make(unit, image)
    found = evaluated(unit, variables, image)
    assert found.shape == (4, out, out, 3)
    expected = normalized(convolve(image, variables["params"]["kernel"], stride), variables)
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-4)

  def test_parameters_and_statistics_are_float32_whatever_the_activations(self):
    inputs = maps(2, 3)
    unit = ConvUnit(3, weighted_inputs=True, dtype=jnp.bfloat16)
    variables = shapes(unit, *inputs)
    out, updates = jax.eval_shape(functools.partial(trained, unit), variables, *inputs)
    assert out.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves((variables, updates))} == {jnp.dtype(jnp.float32)}
