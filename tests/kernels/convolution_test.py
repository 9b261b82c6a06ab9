import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.kernels.convolution import Conv, convolve

LAYOUT = ("NHWC", "HWIO", "NHWC")


def lax_convolve(maps, kernel, strides, padding, **rest):
  return jax.lax.conv_general_dilated(maps, kernel, strides, padding, dimension_numbers=LAYOUT, **rest)


def random_array(*shape, dtype=jnp.float32, seed=0):
  return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


def value_and_gradients(convolution, strides, padding):
  """Returns a function (maps, kernel, cotangent) -> (result, gradient of the maps, gradient of the kernel)."""

  def evaluate(maps, kernel, cotangent):
    result, vjp = jax.vjp(lambda maps, kernel: convolution(maps, kernel, strides, padding), maps, kernel)
    return result, *vjp(cotangent)

  return evaluate


def example(replicas, strides=(1, 1), padding="SAME", size=(6, 5), kernel_size=(3, 3), dtype=jnp.float32):
  """Returns feature maps, kernels and cotangents with a leading axis of replicas."""
  maps = random_array(replicas, 2, *size, 3, dtype=dtype)
  kernel = random_array(replicas, *kernel_size, 3, 4, dtype=dtype, seed=1)
  result = jax.eval_shape(lambda x, k: lax_convolve(x, k, strides, padding), maps[0], kernel[0])
  return maps, kernel, random_array(replicas, *result.shape, dtype=dtype, seed=2)


def assert_close(found, expected, tolerance=2e-6):
  """Asserts that trees agree, with a tolerance relative to the largest number of each leaf."""
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    largest = np.abs(np.asarray(b, float)).max()
    np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=0, atol=tolerance * largest)


def traced(function, *arguments):
  """Returns the text of a program before XLA compiles it."""
  return jax.jit(function).lower(*arguments).as_text()


def compiled(function, *arguments):
  return jax.jit(function).lower(*arguments).compile()


def operations(function, *arguments):
  """Returns the operations of a compiled program with their shapes and settings, without names."""
  lines = [line for line in compiled(function, *arguments).as_text().splitlines() if " = " in line]
  return [re.sub(r"%[\w.-]+|, metadata=\{[^}]*\}", "", line).strip() for line in lines]


def groups(text):
  """Returns the group counts of all convolutions in a traced program."""
  assert text.count("stablehlo.convolution(") == text.count("feature_group_count =")
  return [int(number) for number in re.findall(r"(?:feature|batch)_group_count = (\d+)", text)]


class TestReplicas:
  @pytest.mark.parametrize(
    ("replicas", "size", "kernel_size", "strides", "padding"),
    [
      (1, (6, 5), (3, 3), (1, 1), "SAME"),
      (2, (6, 5), (3, 3), (2, 2), "SAME"),
      (3, (7, 8), (3, 3), (2, 2), "SAME"),
      (2, (7, 8), (3, 3), (2, 3), "VALID"),
      (2, (6, 5), (3, 3), (2, 2), ((0, 2), (3, 1))),
      (3, (6, 5), (3, 3), (1, 1), ((0, 2), (3, 1))),
      (2, (6, 5), (1, 1), (1, 1), "SAME"),
      (2, (6, 5), (1, 1), (2, 3), "VALID"),
      (2, (7, 8), (1, 1), (2, 2), ((0, 2), (3, 1))),
      (2, (9, 8), (7, 7), (1, 1), "VALID"),
      (2, (9, 8), (7, 7), (2, 2), "SAME"),
      (3, (8, 9), (7, 7), (3, 2), ((0, 2), (3, 1))),
      (2, (5, 6), (2, 3), (2, 1), "SAME_LOWER"),
      (2, (7, 8), (2, 3), (2, 1), ((-1, 3), (2, -1))),
    ],
  )
  def test_values_and_gradients_equal_lax(self, replicas, size, kernel_size, strides, padding):
    arguments = example(replicas, strides, padding, size, kernel_size)
    ours, theirs = (jax.jit(jax.vmap(value_and_gradients(c, strides, padding))) for c in (convolve, lax_convolve))
    assert_close(ours(*arguments), theirs(*arguments))

  def test_equals_the_definition(self):
    strides, padding = (2, 1), ((1, 2), (0, 1))
    maps, kernel, cotangent = example(2, strides, padding)
    found = jax.jit(jax.vmap(value_and_gradients(convolve, strides, padding)))(maps, kernel, cotangent)
    padded = np.pad(np.asarray(maps, float), ((0, 0), (0, 0), *padding, (0, 0)))
    kernel, cotangent = np.asarray(kernel, float), np.asarray(cotangent, float)
    result, maps_gradient, kernel_gradient = np.zeros(cotangent.shape), np.zeros(padded.shape), np.zeros(kernel.shape)
    for r, i, j in np.ndindex(2, *cotangent.shape[2:4]):
      window = np.s_[r, :, 2 * i : 2 * i + 3, j : j + 3]
      result[r, :, i, j] = np.einsum("bhwc,hwco->bo", padded[window], kernel[r])
      maps_gradient[window] += np.einsum("bo,hwco->bhwc", cotangent[r, :, i, j], kernel[r])
      kernel_gradient[r] += np.einsum("bhwc,bo->hwco", padded[window], cotangent[r, :, i, j])
    for a, b in zip(found, (result, maps_gradient[:, :, 1:-2, :-1], kernel_gradient), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5)

  @pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
  def test_uses_matrix_products_and_no_convolution(self, strides):
    evaluate = jax.vmap(value_and_gradients(convolve, strides, "SAME"))
    text = traced(evaluate, *example(3, strides))
    assert groups(text) == []
    assert text.count("stablehlo.dot_general") == 3
    assert max(groups(traced(jax.vmap(value_and_gradients(lax_convolve, strides, "SAME")), *example(3, strides)))) == 3

  def test_unused_gradient_is_not_computed(self):
    maps, kernel, cotangent = example(2)

    def loss(kernel, maps, cotangent):
      return jnp.sum(convolve(maps, kernel, (1, 1), "SAME") * cotangent)

    program = compiled(jax.vmap(jax.value_and_grad(loss)), kernel, maps, cotangent)
    assert len(re.findall(r" dot\(", program.as_text())) == 2

  def test_precision_applies_to_every_product(self):
    convolution = functools.partial(convolve, precision="highest")
    text = traced(jax.vmap(value_and_gradients(convolution, (1, 1), "SAME")), *example(2))
    assert len(re.findall(r"stablehlo\.dot_general.*precision = \[HIGHEST, HIGHEST\]", text)) == 3

  @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
  def test_16_bit_products_are_accumulated_in_float32(self, dtype):
    arguments = example(2, strides=(2, 2), dtype=dtype)
    ours, theirs = (jax.vmap(value_and_gradients(c, (2, 2), "SAME")) for c in (convolve, lax_convolve))
    products = re.findall(r"stablehlo\.dot_general.*-> tensor<[\dx]+x(\w+)>", traced(ours, *arguments))
    assert products == ["f32"] * 3
    assert_close(jax.jit(ours)(*arguments), jax.jit(theirs)(*arguments), tolerance=1e-2)


class TestMemory:
  def test_only_feature_maps_and_kernels_are_kept_for_the_backward_pass(self):
    maps, kernel, _ = example(2)
    _, vjp = jax.vjp(jax.vmap(lambda x, k: convolve(x, k, (1, 1), "SAME")), maps, kernel)
    kept = [leaf.shape for leaf in jax.tree.leaves(vjp)]
    assert sorted(kept) == sorted([maps.shape, kernel.shape])

  def test_compiled_program_keeps_no_patches(self):
    layers, replicas = 8, 2
    maps, kernels = jnp.zeros((replicas, 4, 16, 16, 8)), [jnp.zeros((replicas, 3, 3, 8, 8))] * layers

    def loss(kernels, maps):
      for kernel in kernels:
        maps = jnp.tanh(convolve(maps, kernel, (1, 1), "SAME"))
      return jnp.sum(maps)

    temporary = compiled(jax.vmap(jax.grad(loss)), kernels, maps).memory_analysis().temp_size_in_bytes
    patches = 9 * maps.nbytes
    assert temporary < layers * maps.nbytes + 5 * patches  # kept patches alone would take 8 * patches


class TestSingleNetwork:
  @pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
  @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
  def test_equals_lax_bit_for_bit(self, strides, dtype):
    arguments = [x[0] for x in example(1, strides, dtype=dtype)]
    ours, theirs = (value_and_gradients(c, strides, "SAME") for c in (convolve, lax_convolve))
    for a, b in zip(jax.jit(ours)(*arguments), jax.jit(theirs)(*arguments), strict=True):
      np.testing.assert_array_equal(a, b)
      assert a.dtype == b.dtype
    assert operations(ours, *arguments) == operations(theirs, *arguments)

  @pytest.mark.parametrize(("size", "kernel_size"), [((2, 2), (3, 3)), ((1, 6), (3, 3)), ((3, 4), (5, 1))])
  @pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
  def test_kernel_larger_than_the_feature_map_becomes_a_product(self, size, kernel_size, strides):
    arguments = [x[0] for x in example(1, strides, size=size, kernel_size=kernel_size)]
    ours, theirs = (value_and_gradients(c, strides, "SAME") for c in (convolve, lax_convolve))
    assert_close(jax.jit(ours)(*arguments), jax.jit(theirs)(*arguments))
    assert "stablehlo.convolution(" not in traced(ours, *arguments)

  def test_uses_one_convolution_for_the_result_and_for_each_gradient(self):
    arguments = [x[0] for x in example(1)]
    jaxpr = str(jax.make_jaxpr(value_and_gradients(convolve, (1, 1), "SAME"))(*arguments))
    assert jaxpr.count("= conv_general_dilated[") == 3
    assert "dot_general" not in jaxpr

  @pytest.mark.parametrize(
    ("size", "kernel_size", "settings"),
    [
      ((6, 5), (3, 3, 1, 6), {"feature_group_count": 3}),
      ((6, 5), (3, 3, 3, 6), {"lhs_dilation": (2, 1), "padding": ((1, 1), (1, 1))}),
      ((6, 5), (3, 3, 3, 6), {"rhs_dilation": (1, 2)}),
      ((6,), (3, 3, 6), {"dimension_numbers": ("NWC", "WIO", "NWC")}),
      ((6, 5), (3, 3, 3, 6), {"dimension_numbers": ("NHWC", "HWIO", "NCHW")}),
    ],
  )
  def test_unsupported_forms_fall_back_to_lax(self, size, kernel_size, settings):
    maps, kernel = random_array(2, 2, *size, 3), random_array(2, *kernel_size, seed=1)
    settings = {"dimension_numbers": LAYOUT, "window_strides": (1,) * len(size), "padding": "SAME", **settings}
    ours, theirs = (functools.partial(c, **settings) for c in (convolve, jax.lax.conv_general_dilated))
    np.testing.assert_array_equal(jax.jit(jax.vmap(ours))(maps, kernel), jax.jit(jax.vmap(theirs))(maps, kernel))

  def test_supports_an_empty_result(self):
    found = jax.vmap(lambda x, k: convolve(x, k, (2, 2), "VALID"))(
      jnp.zeros((2, 1, 2, 2, 3)), jnp.zeros((2, 3, 3, 3, 4))
    )
    assert found.shape == (2, 1, 0, 0, 4)

  def test_rejects_what_lax_rejects(self):
    with pytest.raises(TypeError, match="dtype"):
      convolve(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 3, 2), jnp.bfloat16), (1, 1), "SAME")
    with pytest.raises(ValueError, match="feature"):
      convolve(jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 3, 2)), (1, 1), "SAME")


class TestTransformations:
  @pytest.mark.parametrize("axes", [(0, None, 0), (None, 0, 0), (0, 0, None), (None, None, 0)])
  def test_vmap_with_a_shared_argument(self, axes):
    arguments = [x if axis == 0 else x[0] for x, axis in zip(example(3, (2, 1)), axes, strict=True)]
    ours, theirs = (jax.vmap(value_and_gradients(c, (2, 1), "SAME"), axes) for c in (convolve, lax_convolve))
    assert_close(jax.jit(ours)(*arguments), jax.jit(theirs)(*arguments))
    assert set(groups(traced(ours, *arguments))) <= {1}

  @pytest.mark.parametrize("outer", [(0, 0, 0), (0, None, 0), (None, 0, 0)])
  @pytest.mark.parametrize("inner", [(0, 0, 0), (0, None, 0), (None, 0, 0)])
  def test_nested_vmap(self, outer, inner):
    """Maps over 2 networks in the outer vmap and 3 in the inner one."""
    arguments = [
      x.reshape(2, 3, *x.shape[1:])[(slice(None) if o == 0 else 0, slice(None) if i == 0 else 0)]
      for x, o, i in zip(example(6, (2, 2)), outer, inner, strict=True)
    ]
    ours, theirs = (
      jax.vmap(jax.vmap(value_and_gradients(c, (2, 2), "SAME"), inner), outer) for c in (convolve, lax_convolve)
    )
    assert_close(jax.jit(ours)(*arguments), jax.jit(theirs)(*arguments))
    assert set(groups(traced(ours, *arguments))) <= {1}

  def test_vmap_over_other_axes(self):
    maps, kernel, _ = example(3)
    found = jax.vmap(lambda x, k: convolve(x, k, (1, 1), "SAME"), (1, 4), 2)(
      jnp.moveaxis(maps, 0, 1), jnp.moveaxis(kernel, 0, 4)
    )
    expected = jax.vmap(lambda x, k: lax_convolve(x, k, (1, 1), "SAME"))(maps, kernel)
    np.testing.assert_allclose(jnp.moveaxis(found, 2, 0), expected, atol=1e-5)

  def test_pmap(self):
    arguments = [x.reshape(2, 2, *x.shape[1:]) for x in example(4)]
    ours, theirs = (jax.vmap(value_and_gradients(c, (1, 1), "SAME")) for c in (convolve, lax_convolve))
    assert_close(jax.pmap(ours)(*arguments), jax.jit(jax.vmap(theirs))(*arguments))

  def test_rematerialization(self):
    def rematerialized(maps, kernel, strides, padding):
      return jax.checkpoint(lambda x, k: jnp.tanh(convolve(x, k, strides, padding)))(maps, kernel)

    def plain(maps, kernel, strides, padding):
      return jnp.tanh(lax_convolve(maps, kernel, strides, padding))

    arguments = example(2)
    ours, theirs = (jax.vmap(value_and_gradients(c, (1, 1), "SAME")) for c in (rematerialized, plain))
    assert_close(jax.jit(ours)(*arguments), jax.jit(theirs)(*arguments))

  @pytest.mark.parametrize("mapped", [False, True])
  def test_second_derivatives(self, mapped):
    """Compares the gradient of a gradient's squared norm."""
    arguments = example(2)[:2] if mapped else [x[0] for x in example(1)[:2]]

    def penalty(convolution, maps, kernel):
      gradients = jax.grad(lambda x, k: jnp.sum(jnp.tanh(convolution(x, k, (2, 2), "SAME"))), (0, 1))(maps, kernel)
      return sum(jnp.sum(g**2) for g in gradients)

    ours, theirs = (jax.grad(functools.partial(penalty, c), (0, 1)) for c in (convolve, lax_convolve))
    if mapped:
      ours, theirs = jax.vmap(ours), jax.vmap(theirs)
    assert_close(jax.jit(ours)(*arguments), jax.jit(theirs)(*arguments), tolerance=1e-5)

  @pytest.mark.parametrize("settings", [{}, {"strides": 2, "padding": 1}, {"feature_group_count": 3}])
  def test_linen_layer(self, settings):
    theirs = nn.Conv(6, (3, 3), **settings)
    ours = theirs.clone(conv_general_dilated=convolve)
    maps = random_array(2, 2, 6, 5, 3)
    params = jax.vmap(lambda key: theirs.init(key, maps[0]))(jax.random.split(jax.random.key(0)))

    def gradients(layer):
      return jax.jit(jax.vmap(jax.value_and_grad(lambda p, x: jnp.sum(jnp.tanh(layer.apply(p, x))))))(params, maps)

    assert_close(gradients(ours), gradients(theirs))


class TestConv:
  @pytest.mark.parametrize(("groups", "use_bias", "dtype"), [(1, True, jnp.float32), (3, False, jnp.bfloat16)])
  def test_equals_linen_bit_for_bit(self, groups, use_bias, dtype):
    ours = Conv(6, 3, stride=2, padding=1, groups=groups, use_bias=use_bias, dtype=dtype)
    theirs = nn.Conv(6, (3, 3), strides=2, padding=1, feature_group_count=groups, use_bias=use_bias, dtype=dtype)
    x = random_array(2, 7, 6, 3)
    (found, variables), (expected, expected_variables) = (
      each.init_with_output(jax.random.key(0), x) for each in (ours, theirs)
    )
    jax.tree.map(np.testing.assert_array_equal, variables, expected_variables)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == dtype
    if use_bias:
      shifted = jax.tree.map(lambda p: p + 1, variables)
      np.testing.assert_array_equal(ours.apply(shifted, x), theirs.apply(shifted, x))
