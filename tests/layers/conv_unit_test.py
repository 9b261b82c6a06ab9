import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.conv_unit import ACTIVATIONS, ConvUnit, Sample

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
def train(unit, variables, *inputs, **options):
  return unit.apply(variables, *inputs, train=True, mutable=["batch_stats"], **options)


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


class TestSample:
  CASES = (
    ({}, (0, 1), 12),
    ({"stride": 2}, (1, 0), 25),
    ({"kernel_size": 1}, (1, 1), 13),
    ({"weighted_inputs": True}, (0, 0), 12),
    ({"stride": 2, "kernel_size": 5}, (1, 1), 24),
  )

  @staticmethod
  def sampled_units(options, offset, size):
    """Returns inputs, variables, the unit with samples and a reference: autodiff through the whole convolution."""
    inputs = feature_maps(3, 2, size=size)
    plain = ConvUnit(4, activation="tanh", **options)
    variables = random_variables(plain, *inputs)
    kernel_of = lambda params: jnp.concatenate(  # noqa: E731
      [
        part * (params["connection"][i] if "connection" in params else 1)
        for i, part in enumerate(jnp.split(params["kernel"], [3], axis=2))
      ],
      axis=2,
    )

    def reference(params):
      full = convolve(jnp.concatenate(inputs, -1), kernel_of(params), options.get("stride", 1))
      sample = full[:, offset[0] :: 2, offset[1] :: 2]
      mean, var = sample.mean((0, 1, 2), keepdims=True), sample.var((0, 1, 2), keepdims=True)
      scale, bias = (params["norm"][name].reshape(mean.shape) for name in ("scale", "bias"))
      return jnp.tanh((sample - mean) / jnp.sqrt(var + EPSILON) * scale + bias)

    return inputs, variables, plain, plain.clone(sample=Sample(2, offset)), reference

  @pytest.mark.parametrize(("options", "offset", "size"), CASES)
  def test_equals_the_sampled_convolution_and_its_gradient(self, options, offset, size):
    inputs, variables, _, unit, reference = self.sampled_units(options, offset, size)

    def by_unit(params):
      (_, sampled), _ = train(unit, {**variables, "params": params}, *inputs)
      return sampled

    params = variables["params"]
    expected, pull_back = jax.vjp(jax.jit(reference), params)
    found, own_pull_back = jax.vjp(by_unit, params)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    cotangent = jnp.asarray(np.random.default_rng(0).normal(size=expected.shape), jnp.float32)
    (gradient,), (own,) = pull_back(cotangent), own_pull_back(cotangent)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3), own, gradient)

  def test_the_output_is_that_of_the_plain_unit_and_constant(self):
    inputs, variables, plain, unit, _ = self.sampled_units({}, (0, 1), 12)
    expected, stats = train(plain, variables, *inputs)
    (output, _), own_stats = train(unit, variables, *inputs)
    np.testing.assert_array_equal(output, expected)
    jax.tree.map(np.testing.assert_array_equal, own_stats, stats)
    gradient = jax.grad(lambda params: train(unit, {**variables, "params": params}, *inputs)[0][0].sum())
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient(variables["params"])))

  def test_the_gradient_of_a_1x1_convolution_reaches_its_sampled_inputs_exactly(self):
    inputs, variables, _, unit, _ = self.sampled_units({"kernel_size": 1}, (1, 0), 12)

    def loss(unit, inputs, samples):
      output, _ = train(unit, variables, *inputs, sampled_inputs=samples)
      return jnp.sum(jnp.sin(output[1] if unit.sample else output))

    samples = tuple(unit.sample.positions(maps) for maps in inputs)
    # The unit without samples, applied to the sampled maps alone.
    expected = jax.grad(lambda samples: loss(unit.clone(sample=None), samples, None))(samples)
    found = jax.grad(lambda samples: loss(unit, inputs, samples))(samples)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), found, expected)

  def test_the_gradient_of_a_3x3_convolution_reaches_its_sampled_inputs_by_interpolated_taps(self):
    """Compares with the convolution of the maps that are interpolated linearly between the samples."""
    inputs, variables, _, unit, _ = self.sampled_units({}, (0, 0), 24)
    samples = tuple(unit.sample.positions(maps) for maps in inputs)
    params = variables["params"]
    total = convolve(jnp.concatenate(inputs, -1), params["kernel"])[:, ::2, ::2]

    def interpolated(maps):
      for axis in (1, 2):
        following = jnp.take(maps, jnp.array([*range(1, 12), 11]), axis)
        shape = [*maps.shape]
        shape[axis] *= 2
        maps = jnp.stack([maps, (maps + following) / 2], axis + 1).reshape(shape)
      return maps

    def reference(samples):
      x = jnp.concatenate([interpolated(maps) for maps in samples], -1)
      change = convolve(x, params["kernel"])[:, ::2, ::2]
      sample = total + change - jax.lax.stop_gradient(change)
      mean, var = sample.mean((0, 1, 2), keepdims=True), sample.var((0, 1, 2), keepdims=True)
      scale, bias = (params["norm"][name].reshape(mean.shape) for name in ("scale", "bias"))
      return jnp.tanh((sample - mean) / jnp.sqrt(var + EPSILON) * scale + bias)

    def by_unit(samples):
      return train(unit, variables, *inputs, sampled_inputs=samples)[0][1]

    expected, pull_back = jax.vjp(jax.jit(reference), samples)
    found, own_pull_back = jax.vjp(by_unit, samples)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    cotangent = jnp.asarray(np.random.default_rng(0).normal(size=expected.shape), jnp.float32)
    inner = np.s_[:, 2:-2, 2:-2]  # at the border the interpolation is another one
    for own, gradient in zip(*(pull(cotangent)[0] for pull in (own_pull_back, pull_back)), strict=True):
      np.testing.assert_allclose(own[inner], gradient[inner], rtol=1e-3, atol=1e-3)

  def test_a_pooled_output_is_sampled_at_one_position_of_each_cell(self):
    inputs, variables, plain, unit, reference = self.sampled_units({"kernel_size": 1}, (0, 1), 12)
    output, sampled = train(unit.clone(pool=2), variables, *inputs)[0]
    np.testing.assert_allclose(sampled, reference(variables["params"]), atol=1e-4)
    expected = np.asarray(train(plain, variables, *inputs)[0]).reshape(4, 6, 2, 6, 2, 4).mean((2, 4))
    np.testing.assert_allclose(output, expected, atol=1e-6)
