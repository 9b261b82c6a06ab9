import jax.numpy as jnp
import numpy as np

from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.separable_conv import SeparableConv
from tests.layers.variables import random_variables


def test_equals_a_convolution_with_the_product_of_both_kernels():
  x = np.random.default_rng(0).normal(1, 2, (2, 6, 6, 4)).astype(np.float32)
  layer = SeparableConv(5, kernel_size=5, activation=jnp.tanh, epsilon=1e-3)
  variables = random_variables(layer, x)
  depthwise, pointwise = variables["params"]["depthwise"], variables["params"]["pointwise"]
  assert depthwise.keys() == {"kernel"}
  kernel = jnp.einsum("ijc,cf->ijcf", depthwise["kernel"][:, :, 0], pointwise["conv"]["kernel"][0, 0])
  whole = {
    "params": {"conv": {"kernel": kernel}, "norm": pointwise["norm"]},
    "batch_stats": variables["batch_stats"]["pointwise"],
  }
  expected = ConvNormAct(5, kernel_size=5, activation=jnp.tanh, epsilon=1e-3).apply(whole, x, train=False)
  np.testing.assert_allclose(layer.apply(variables, x, train=False), expected, atol=1e-5)
