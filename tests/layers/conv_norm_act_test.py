import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.conv_norm_act import ConvNormAct
from tests.layers.variables import random_variables

EPSILON = 1e-3


def image(channels=4, size=8):
  return np.random.default_rng(0).normal(1, 2, (2, size, size, channels)).astype(np.float32)


def convolved(x, kernel, stride=1, padding=0, groups=1):
  """Convolves in float64, by windows of the padded input."""
  x = np.pad(x.astype(float), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
  parts = zip(np.split(windows, groups, axis=3), np.split(np.asarray(kernel, float), groups, axis=3), strict=True)
  return np.concatenate([np.einsum("bhwcij,ijcf->bhwf", w, k) for w, k in parts], axis=-1)


def normalized(x, variables):
  norm, stats = variables["params"]["norm"], variables["batch_stats"]["norm"]
  scale, bias, mean, var = (np.asarray(v, float) for v in (norm["scale"], norm["bias"], stats["mean"], stats["var"]))
  return (x - mean) / np.sqrt(var + EPSILON) * scale + bias


@pytest.mark.parametrize(
  ("options", "padding"),
  [
    ({"stride": 2}, 1),
    ({"kernel_size": 5, "stride": 2}, 2),
    ({"kernel_size": 5, "stride": 3, "padding": 0}, 0),
    ({"kernel_size": 1, "stride": 2}, 0),
    ({"groups": 4, "stride": 2}, 1),
    ({"groups": 2}, 1),
  ],
)
def test_convolves_with_symmetric_padding_then_normalises_and_activates(options, padding):
  x, layer = image(), ConvNormAct(8, activation=jnp.tanh, epsilon=EPSILON, **options)
  variables = random_variables(layer, x)
  kernel = variables["params"]["conv"]["kernel"]
  expected = convolved(x, kernel, options.get("stride", 1), padding, options.get("groups", 1))
  found = layer.apply(variables, x, train=False)
  np.testing.assert_allclose(found, np.tanh(normalized(expected, variables)), atol=1e-4)


def test_has_a_bias_without_normalisation():
  x, layer = image(), ConvNormAct(3, normalize=False)
  variables = random_variables(layer, x)
  assert variables.keys() == {"params"}
  conv = variables["params"]["conv"]
  expected = convolved(x, conv["kernel"], padding=1) + np.asarray(conv["bias"], float)
  np.testing.assert_allclose(layer.apply(variables, x, train=True), np.maximum(expected, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"kernel_init": jax.nn.initializers.constant(0.5)}])
def test_kernel_init_is_he_normal_by_default(options):
  kernel = ConvNormAct(8, **options).init(jax.random.key(0), image(), train=False)["params"]["conv"]["kernel"]
  expected = 0.5 if options else np.sqrt(2 / 36)
  assert np.sqrt(np.mean(np.square(kernel))) == pytest.approx(expected, rel=0.15)
  assert np.all(kernel == 0.5) == bool(options)


def test_training_normalises_by_batch_statistics():
  x, layer = image(), ConvNormAct(3, activation=None)
  variables = random_variables(layer, x)
  norm = variables["params"]["norm"]
  found, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(found.mean((0, 1, 2)), norm["bias"], atol=1e-3)
  np.testing.assert_allclose(found.std((0, 1, 2)), norm["scale"], atol=1e-3)
  average = convolved(x, variables["params"]["conv"]["kernel"], padding=1).mean((0, 1, 2))
  before = variables["batch_stats"]["norm"]["mean"]
  np.testing.assert_allclose(updates["batch_stats"]["norm"]["mean"], 0.9 * before + 0.1 * average, rtol=1e-3)


def test_statistics_over_four_devices_equal_those_of_the_whole_batch():
  x = np.concatenate([image() * (i + 1) for i in range(4)])  # different rows on each device
  single, mapped = ConvNormAct(3), ConvNormAct(3, axis_name="devices")
  variables = random_variables(single, x)

  def train(layer):
    return lambda rows: layer.apply(variables, rows, train=True, mutable=["batch_stats"])

  expected, whole = jax.jit(train(single))(x)
  found, shared = jax.pmap(train(mapped), "devices", out_axes=(0, None))(x.reshape(4, 2, *x.shape[1:]))
  np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-3)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), shared, whole)
