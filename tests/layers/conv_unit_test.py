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


def feature_maps(*channels, size=6, batch=4):
  rng = np.random.default_rng(sum(channels))
  return [jnp.asarray(rng.normal(1, 2, (batch, size, size, c)), jnp.float32) for c in channels]


def random_variables(unit, *inputs):
  """Returns random variables of a unit; variances are positive."""
  rng = np.random.default_rng(0)

  def value(path, shape):
    values = rng.uniform(0.5, 1.5, shape.shape) if path[-1].key == "var" else rng.normal(size=shape.shape)
    return jnp.asarray(values, shape.dtype)

  return jax.tree_util.tree_map_with_path(value, shapes(unit, *inputs))


def shapes(unit, *inputs):
  """Returns the shapes and dtypes of a unit's variables."""
  return jax.eval_shape(lambda: unit.init(jax.random.key(0), *inputs, train=False))


@functools.partial(jax.jit, static_argnums=0)
def evaluate(unit, variables, *inputs):
  return unit.apply(variables, *inputs, train=False)


@functools.partial(jax.jit, static_argnums=0)
def train(unit, variables, *inputs):
  return unit.apply(variables, *inputs, train=True, mutable=["batch_stats"])


def convolve(image, kernel, stride=1):
  return jax.lax.conv_general_dilated(
    image, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def normalized(x, variables):
  """Applies batch normalisation with the running statistics, in float64."""
  norm, stats = variables["params"]["norm"], variables["batch_stats"]["norm"]
  scale, bias, mean, var = (np.asarray(v, float) for v in (norm["scale"], norm["bias"], stats["mean"], stats["var"]))
  return (np.asarray(x, float) - mean) / np.sqrt(var + EPSILON) * scale + bias


class TestWeightedInputs:
  @pytest.mark.parametrize("activation", ACTIVATIONS)
  def test_weights_folded_into_the_kernel_equal_scaled_inputs(self, activation):
    inputs, unit = feature_maps(3, 1, 2), ConvUnit(5, activation=activation, weighted_inputs=True)
    variables = random_variables(unit, *inputs)
    weights = variables["params"]["connection"]
    assert weights.shape == (3,)
    scaled = jnp.concatenate([w * m for w, m in zip(weights, inputs, strict=True)], axis=-1)
    expected = normalized(convolve(scaled, variables["params"]["kernel"]), variables)
    found = evaluate(unit, variables, *inputs)
    np.testing.assert_allclose(found, NUMPY_ACTIVATIONS[activation](expected), atol=1e-4)

  def test_gradients_of_the_weights_equal_those_of_scaled_inputs(self):
    inputs = feature_maps(3, 2)
    weighted, plain = ConvUnit(5, weighted_inputs=True, activation="tanh"), ConvUnit(5, activation="tanh")
    variables = random_variables(weighted, *inputs)
    rest = {name: value for name, value in variables["params"].items() if name != "connection"}

    def folded(weights):
      params = {**rest, "connection": weights}
      out, _ = train(weighted, {**variables, "params": params}, *inputs)
      return jnp.sum(out**2)

    def scaled(weights):
      scaled_inputs = [w * m for w, m in zip(weights, inputs, strict=True)]
      out, _ = train(plain, {**variables, "params": rest}, *scaled_inputs)
      return jnp.sum(out**2)

    weights = variables["params"]["connection"]
    np.testing.assert_allclose(
      jax.jit(jax.grad(folded))(weights), jax.jit(jax.grad(scaled))(weights), rtol=1e-3, atol=1e-3
    )

  def test_initial_weights_are_one_and_change_nothing(self):
    inputs = feature_maps(3, 2)
    weighted, plain = ConvUnit(5, weighted_inputs=True), ConvUnit(5)
    variables = weighted.init(jax.random.key(0), *inputs, train=False)
    np.testing.assert_array_equal(variables["params"]["connection"], [1, 1])
    assert "connection" not in shapes(plain, *inputs)["params"]
    without = {name: value for name, value in variables["params"].items() if name != "connection"}
    np.testing.assert_allclose(
      evaluate(weighted, variables, *inputs), evaluate(plain, {**variables, "params": without}, *inputs), atol=1e-6
    )


class TestFloat16:
  def test_overflow_gives_the_largest_number_instead_of_infinity(self):
    (image,) = feature_maps(2)
    unit = ConvUnit(3, dtype=jnp.float16)
    variables = random_variables(unit, image)
    params = {**variables["params"], "kernel": variables["params"]["kernel"] * 1e5}
    found, updates = train(unit, {**variables, "params": params}, image)
    assert np.isfinite(found).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


class TestNormalisation:
  def test_training_uses_batch_statistics_and_updates_running_averages(self):
    (image,) = feature_maps(2)
    unit = ConvUnit(3)
    variables = random_variables(unit, image)
    found, updates = train(unit, variables, image)
    convolved = np.asarray(convolve(image, variables["params"]["kernel"]), float)
    batch = {"mean": convolved.mean(axis=(0, 1, 2)), "var": convolved.var(axis=(0, 1, 2))}
    expected = normalized(convolved, {**variables, "batch_stats": {"norm": batch}})
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-3)
    for name, value in batch.items():
      before = np.asarray(variables["batch_stats"]["norm"][name])
      np.testing.assert_allclose(updates["batch_stats"]["norm"][name], 0.9 * before + 0.1 * value, rtol=1e-4)

  def test_statistics_over_four_devices_equal_those_of_the_whole_batch(self):
    (image,) = feature_maps(2, batch=8)
    image = image * jnp.arange(1.0, 9.0).reshape(8, 1, 1, 1)  # different rows on each device
    single, mapped = ConvUnit(3), ConvUnit(3, axis_name="devices")
    variables = random_variables(single, image)

    def train_step(unit):
      return lambda rows: train(unit, variables, rows)

    expected, whole = train_step(single)(image)
    found, shared = jax.pmap(train_step(mapped), "devices", out_axes=(0, None))(image.reshape(4, 2, *image.shape[1:]))
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), shared, whole)


class TestShapesAndDtypes:
  @pytest.mark.parametrize(("size", "stride", "out"), [(6, 1, 6), (6, 2, 3), (7, 2, 4)])
  def test_stride_reduces_the_output_size(self, size, stride, out):
    (image,) = feature_maps(2, size=size)
    unit = ConvUnit(3, stride=stride)
    variables = random_variables(unit, image)
    found = evaluate(unit, variables, image)
    assert found.shape == (4, out, out, 3)
    expected = normalized(convolve(image, variables["params"]["kernel"], stride), variables)
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-4)

  def test_parameters_and_statistics_are_float32_with_bfloat16_activations(self):
    inputs = feature_maps(2, 3)
    unit = ConvUnit(3, weighted_inputs=True, dtype=jnp.bfloat16)
    variables = shapes(unit, *inputs)
    out, updates = jax.eval_shape(functools.partial(train, unit), variables, *inputs)
    assert out.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves((variables, updates))} == {jnp.dtype(jnp.float32)}
