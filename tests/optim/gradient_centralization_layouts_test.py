"""Axes of gradient centralization: layouts, axis functions and masks, and networks of four libraries."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fer_jax.optim import centralize_gradients
from tests.optim.gradient_centralization_test import network, random, unit_means, update

IMAGES, LABELS = jnp.abs(random((8, 6, 6, 2))), jnp.arange(8) % 5
DIRECTION = (optax.scale_by_adam(), optax.add_decayed_weights(0.1))


@jax.tree_util.register_pytree_with_keys_class
class Weighted:
  """A pytree with an attribute `weight`, like an Equinox layer."""

  def __init__(self, weight):
    self.weight = weight

  def tree_flatten_with_keys(self):
    return [(jax.tree_util.GetAttrKey("weight"), self.weight)], None

  def tree_flatten(self):
    return [self.weight], None

  @classmethod
  def tree_unflatten(cls, _, children):
    return cls(*children)

  def __call__(self, inputs):
    return self.weight @ inputs


class TestLayout:
  def test_output_first_rejects_a_flax_kernel(self):
    transform, params = centralize_gradients("output_first"), network()
    message = (
      r"layout='output_first' does not fit \['conv'\]\['kernel'\] \(3, 3, 2, 4\), a Flax kernel: expected "
      "layout='output_last', or an `axes` function that decides for this leaf"
    )
    with pytest.raises(ValueError, match=message):
      transform.init(params)
    with pytest.raises(ValueError, match=message):
      transform.update(params, optax.EmptyState())
    with pytest.raises(ValueError, match=message):
      jax.jit(transform.update)(params, optax.EmptyState())

  def test_output_last_rejects_an_equinox_weight(self):
    transform, params = centralize_gradients(), {"layers": [Weighted(random((3, 2)))]}
    message = r"does not fit \['layers'\]\[0\]\.weight \(3, 2\), an Equinox weight: expected layout='output_first'"
    with pytest.raises(ValueError, match=message):
      transform.init(params)
    with pytest.raises(ValueError, match=message):
      transform.update(params, optax.EmptyState())

  def test_reads_names_inside_nnx_variables(self):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    model.scale = nnx.Param(random((2, 2)))
    state = nnx.state(model, nnx.Param)
    with pytest.raises(ValueError, match=r"\['kernel'\]\.value \(3, 2\), a Flax kernel"):
      centralize_gradients("output_first").init(state)
    found = update(centralize_gradients(), state)
    np.testing.assert_array_equal(found["scale"][...], model.scale[...])
    np.testing.assert_allclose(found["kernel"][...].sum(0), 0, atol=1e-6)

  def test_weights_of_dictionaries_and_nnx_may_have_any_layout(self):
    model = nnx.Linear(3, 2, use_bias=False, rngs=nnx.Rngs(0))
    model.weight = nnx.Param(random((3, 2)))
    for params in ({"weight": random((3, 2))}, nnx.state(model, nnx.Param), model):
      for leaf in jax.tree.leaves(update(centralize_gradients(), params)):
        np.testing.assert_allclose(leaf.sum(0), 0, atol=1e-6)

  def test_reads_names_inside_linen_metadata(self):
    dense = nn.Dense(2, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model")))
    params = dense.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    with pytest.raises(ValueError, match="a Flax kernel"):
      centralize_gradients("output_first").init(params)

  def test_rejects_an_unknown_layout(self):
    with pytest.raises(ValueError, match="layout='HWIO': expected one of output_last, output_first"):
      centralize_gradients("HWIO")


def attention_axes(path, leaf):
  """Returns the axes of attention kernels in Flax: [in, heads, depth], and [heads, depth, out] for the output."""
  is_projection = any(getattr(key, "key", None) in ("query", "key", "value") for key in path)
  return (0,) if is_projection and leaf.ndim == 3 else None


class TestAxes:
  def test_dense_general_with_several_output_axes(self):
    dense = nn.DenseGeneral((3, 4))
    params = dense.init(jax.random.key(0), jnp.ones((2, 5)))["params"]
    gradients = jax.grad(lambda p: jnp.square(dense.apply({"params": p}, jnp.abs(random((2, 5))))).sum())(params)
    transform = centralize_gradients(axes=lambda path, leaf: (0,) if leaf.ndim == 3 else None)
    found = update(transform, gradients)
    np.testing.assert_allclose(found["kernel"].sum(0), 0, atol=1e-5)
    np.testing.assert_array_equal(found["bias"], gradients["bias"])

  def test_attention_block(self):
    block = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6)
    tokens = random((1, 5, 4))
    params = block.init(jax.random.key(0), tokens)["params"]
    gradients = jax.grad(lambda p: jnp.square(block.apply({"params": p}, tokens)).sum())(params)
    assert gradients["query"]["bias"].ndim == 2
    default = update(centralize_gradients(), gradients)
    found = update(centralize_gradients(axes=attention_axes), gradients)
    for name in ("query", "key", "value"):
      np.testing.assert_allclose(found[name]["kernel"].sum(0), 0, atol=1e-5)
      for tree in (default, found):
        np.testing.assert_array_equal(tree[name]["bias"], gradients[name]["bias"])
    np.testing.assert_allclose(found["out"]["kernel"].sum((0, 1)), 0, atol=1e-5)
    assert jnp.abs(default["value"]["kernel"].sum(0)).max() > 1e-3

  def test_scanned_layer(self):
    class Layer(nn.Module):
      @nn.compact
      def __call__(self, carry, _):
        return nn.relu(nn.Dense(4)(carry)), None

    stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()
    inputs = jnp.abs(random((2, 4)))
    params = stack.init(jax.random.key(0), inputs, None)["params"]
    gradients = jax.grad(lambda p: jnp.square(stack.apply({"params": p}, inputs, None)[0]).sum())(params)["Dense_0"]
    transform = centralize_gradients(axes=lambda path, leaf: (-2,) if leaf.ndim == 3 else None)
    found = update(transform, gradients)
    np.testing.assert_allclose(found["kernel"].sum(1), 0, atol=1e-5)
    np.testing.assert_array_equal(found["bias"], gradients["bias"])

  def test_axis_function_applies_to_layers_of_any_library(self):
    found = update(centralize_gradients(axes=lambda path, leaf: (1,)), Weighted(random((3, 2))))
    np.testing.assert_allclose(found.weight.sum(1), 0, atol=1e-6)

  @pytest.mark.parametrize("axes", [(2,), (-3,), (0, 0), (0, -2)])
  def test_rejects_axes_that_a_leaf_does_not_have(self, axes):
    transform, params = centralize_gradients(axes=lambda path, leaf: axes), {"kernel": random((3, 2))}
    message = r"axes: \(.*\) of \['kernel'\] \(3, 2\): expected distinct axes below 2"
    with pytest.raises(ValueError, match=message):
      transform.init(params)
    with pytest.raises(ValueError, match=message):
      transform.update(params, optax.EmptyState())

  def test_none_uses_the_axes_of_the_layout(self):
    params = {"kernel": random((5, 3, 4)), "w": random((3, 3, 2, 4)), "bias": random((3, 4)), "table": random((4, 3))}
    axes = {"kernel": (0,), "table": ()}
    transform = centralize_gradients(axes=lambda path, leaf: axes.get(path[-1].key))
    found = update(transform, params)
    np.testing.assert_allclose(found["kernel"].sum(0), 0, atol=1e-5)
    np.testing.assert_allclose(found["w"].sum((0, 1, 2)), 0, atol=1e-5)
    for name in ("bias", "table"):
      np.testing.assert_array_equal(found[name], params[name])

  def test_none_respects_layout_and_conv_only(self):
    params = {"a": random((2, 3, 3, 3)), "b": random((2, 3)), "c": random((2, 3))}
    axes = {"c": (1,)}
    transform = centralize_gradients("output_first", conv_only=True, axes=lambda path, leaf: axes.get(path[-1].key))
    found = update(transform, params)
    np.testing.assert_allclose(found["a"].sum((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_array_equal(found["b"], params["b"])
    np.testing.assert_allclose(found["c"].sum(1), 0, atol=1e-5)


class TestMask:
  @pytest.mark.parametrize(
    "mask",
    [
      pytest.param({name: name == "dense" for name in network()}, id="prefix"),
      pytest.param({name: dict.fromkeys(("kernel", "bias"), name == "dense") for name in network()}, id="tree"),
      pytest.param(lambda updates: {name: name == "dense" for name in updates}, id="function"),
    ],
  )
  def test_masked_leaves_are_unchanged(self, mask):
    gradients = network()
    found = update(centralize_gradients(mask=mask), gradients)
    assert jnp.abs(unit_means(found)["dense"]).max() < 1e-6
    for name in ("conv", "depthwise"):
      jax.tree.map(np.testing.assert_array_equal, found[name], gradients[name])

  def test_reads_names_above_and_below_the_leaves_of_the_mask(self):
    params = {"layer": {"kernel": random((3, 2)), "bias": random((3, 2))}}
    seen = []

    def axes(path, leaf):
      seen.append(jax.tree_util.keystr(path))
      return ()

    for mask in ({"layer": True}, {"layer": {"kernel": True, "bias": True}}):
      found = update(centralize_gradients(mask=mask), params)["layer"]
      np.testing.assert_array_equal(found["bias"], params["layer"]["bias"])
      centralize_gradients(axes=axes, mask=mask).init(params)
    assert seen == ["['layer']['bias']", "['layer']['kernel']"] * 2

  def test_masked_leaves_may_have_any_layout(self):
    params = {"head": {"kernel": random((3, 2))}, "body": Weighted(random((3, 2)))}
    found = update(centralize_gradients("output_first", mask={"head": False, "body": True}), params)
    np.testing.assert_array_equal(found["head"]["kernel"], params["head"]["kernel"])
    np.testing.assert_allclose(found["body"].weight.sum(1), 0, atol=1e-6)

  @pytest.mark.parametrize("keep", [True, False])
  def test_callable_pytree_is_used_as_a_mask(self, keep):  # Equinox modules are callable
    params = Weighted(random((3, 2)))
    found = update(centralize_gradients("output_first", mask=Weighted(keep)), params)
    assert np.allclose(found.weight.sum(1), 0, atol=1e-6) is keep

  def test_mask_equals_optax_masked(self):
    gradients = network()
    mask = {name: name == "dense" for name in gradients}
    expected = update(centralize_gradients(mask=mask), gradients)
    found = update(optax.masked(centralize_gradients(), mask), gradients)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def linen_network():
  class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.relu(nn.Conv(4, (3, 3))(x))
      x = nn.relu(nn.Conv(4, (3, 3), feature_group_count=4)(x))
      return nn.Dense(5)(nn.LayerNorm()(x.mean((1, 2))))

  return Network()


def cross_entropy(logits):
  return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def assert_centralized_step(before, after, axes):
  """Asserts that all parameters changed, and that the kernels kept the mean of each unit."""
  for (path, old), new in zip(jax.tree_util.tree_flatten_with_path(before)[0], jax.tree.leaves(after), strict=True):
    name = jax.tree_util.keystr(path)
    assert np.abs(new - old).max() > 1e-5, name
    if old.ndim > 1 and any(kernel in name for kernel in ("kernel", ".weight", "['w']")):
      np.testing.assert_allclose(old.mean(axes(old)), new.mean(axes(old)), atol=1e-6, err_msg=name)


def all_but_last(leaf):
  return tuple(range(leaf.ndim - 1))


class TestLibraries:
  """One training step of each library with AdamW, whose direction is centralized."""

  transform = optax.chain(*DIRECTION, centralize_gradients(), optax.scale(-0.01))

  def test_linen(self):
    model = linen_network()
    params = model.init(jax.random.key(0), IMAGES)["params"]

    @jax.jit
    def step(params, state):
      gradients = jax.grad(lambda p: cross_entropy(model.apply({"params": p}, IMAGES)))(params)
      updates, state = self.transform.update(gradients, state, params)
      return optax.apply_updates(params, updates), state

    assert_centralized_step(params, step(params, self.transform.init(params))[0], all_but_last)

  def test_nnx(self):
    class Model(nnx.Module):
      def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 5, rngs=rngs)

      def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, self.transform, wrt=nnx.Param)
    # The bias before a batch normalisation has no gradient: only weight decay changes it, and only if it is not zero.
    model.conv.bias[...] = jnp.ones(4)
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))

    @nnx.jit
    def step(model, optimizer):
      optimizer.update(model, nnx.grad(lambda m: cross_entropy(m(IMAGES)))(model))

    step(model, optimizer)
    assert_centralized_step(before, nnx.state(model, nnx.Param), all_but_last)

  def test_equinox(self):
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed: pip install equinox")
    keys = jax.random.split(jax.random.key(0), 2)
    model = eqx.nn.Sequential(
      [
        eqx.nn.Conv2d(2, 4, 3, key=keys[0]),
        eqx.nn.Lambda(lambda x: jax.nn.relu(x).mean((1, 2))),
        eqx.nn.Linear(4, 5, key=keys[1]),
      ]
    )
    transform = optax.chain(*DIRECTION, centralize_gradients("output_first"), optax.scale(-0.01))

    @eqx.filter_jit
    def step(model, state):
      gradients = eqx.filter_grad(lambda m: cross_entropy(jax.vmap(m)(jnp.moveaxis(IMAGES, -1, 1))))(model)
      updates, state = transform.update(gradients, state, eqx.filter(model, eqx.is_array))
      return eqx.apply_updates(model, updates), state

    params = eqx.filter(model, eqx.is_array)
    assert model.layers[0].bias.shape == (4, 1, 1)  # optax.centralize would keep it constant
    after, _ = step(model, transform.init(params))
    assert_centralized_step(params, eqx.filter(after, eqx.is_array), lambda leaf: tuple(range(1, leaf.ndim)))
    with pytest.raises(ValueError, match="an Equinox weight: expected layout='output_first'"):
      self.transform.init(params)
    masked = centralize_gradients("output_first", mask=jax.tree.map(lambda p: p.ndim == 4, params))
    assert update(masked, params).layers[2].weight is params.layers[2].weight

  @pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
  def test_haiku(self, data_format):
    hk = pytest.importorskip("haiku", reason="Haiku is not installed: pip install dm-haiku")
    images = IMAGES if data_format == "NHWC" else jnp.moveaxis(IMAGES, -1, 1)

    def forward(x):
      x = jax.nn.relu(hk.Conv2D(4, 3, data_format=data_format)(x))
      return hk.Linear(5)(x.mean((1, 2) if data_format == "NHWC" else (2, 3)))

    model = hk.without_apply_rng(hk.transform(forward))
    params = model.init(jax.random.key(0), images)

    @jax.jit
    def step(params, state):
      gradients = jax.grad(lambda p: cross_entropy(model.apply(p, images)))(params)
      updates, state = self.transform.update(gradients, state, params)
      return optax.apply_updates(params, updates), gradients

    after, gradients = step(params, self.transform.init(params))
    assert_centralized_step(params, after, all_but_last)
    assert gradients["conv2_d"]["b"].ndim == (1 if data_format == "NHWC" else 3)
    found = update(centralize_gradients(), gradients)
    np.testing.assert_array_equal(found["conv2_d"]["b"], gradients["conv2_d"]["b"])
