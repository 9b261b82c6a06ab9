"""Gradient centralization: its algebra, and comparison with optax and with the official algorithm in float64."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.optim import centralize_gradients, gc_adam, gc_adamw, gc_sgd, gradient_centralization

# Shape of a kernel in Flax's layout, and the permutation to PyTorch's.
KERNELS = {
  "conv": ((3, 3, 2, 4), (3, 2, 0, 1)),
  "conv of one axis": ((5, 2, 4), (2, 1, 0)),
  "conv of three axes": ((2, 3, 2, 2, 3), (4, 3, 0, 1, 2)),
  "depthwise conv": ((3, 3, 1, 4), (3, 2, 0, 1)),
  "dense": ((6, 4), (1, 0)),
}
RATE, B1, B2, EPS, DECAY, MOMENTUM = 0.05, 0.8, 0.95, 0.03, 0.1, 0.7


def random(shape, seed=0, dtype=jnp.float32):
  return jnp.asarray(np.random.default_rng(seed).normal(0.5, 1.0, shape), dtype)


def network(seed=0):
  """Returns random parameters of a small Flax network, or gradients of the same shapes."""
  shapes = {"conv": (3, 3, 2, 4), "depthwise": (3, 3, 1, 4), "dense": (6, 5)}
  return {
    name: {"kernel": random(shape, seed), "bias": random(shape[-1:], seed + 100)} for name, shape in shapes.items()
  }


def update(transform, gradients, params=None):
  return transform.update(gradients, transform.init(gradients if params is None else params), params)[0]


def unit_means(tree):
  """Returns the mean over the inputs of every output unit, for each kernel."""
  return {name: jnp.mean(layer["kernel"], tuple(range(layer["kernel"].ndim - 1))) for name, layer in tree.items()}


def trained(transform, steps=50):
  """Returns the parameters before and after `steps` steps along random gradients whose means are far from zero."""
  params = network()

  @jax.jit
  def advance(carry, step):
    params, state = carry
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    gradients = jax.tree.map(lambda p, key: 0.5 + jax.random.normal(key, p.shape), params, keys)
    updates, state = transform.update(gradients, state, params)
    return (optax.apply_updates(params, updates), state), None

  (after, _), _ = jax.lax.scan(advance, (params, transform.init(params)), jnp.arange(steps))
  return params, after


class TestAlgebra:
  @pytest.mark.parametrize("name", KERNELS)
  def test_result_has_mean_zero(self, name):
    shape, _ = KERNELS[name]
    found = np.asarray(update(centralize_gradients(), random(shape)))
    np.testing.assert_allclose(found.reshape(-1, shape[-1]).sum(0), 0, atol=1e-5)

  @pytest.mark.parametrize("name", KERNELS)
  def test_equals_the_projection_i_minus_e_e_t(self, name):
    shape, _ = KERNELS[name]
    gradient = random(shape)
    inputs = gradient.size // shape[-1]
    e = np.full((inputs, 1), inputs**-0.5)
    expected = (np.eye(inputs) - e @ e.T) @ np.asarray(gradient, np.float64).reshape(inputs, -1)
    found = update(centralize_gradients(), gradient)
    np.testing.assert_allclose(found.reshape(inputs, -1), expected, atol=1e-6)
    np.testing.assert_allclose(update(centralize_gradients(), found), found, atol=1e-6)

  @pytest.mark.parametrize("name", KERNELS)
  def test_equals_optax_on_the_transposed_kernel(self, name):
    shape, order = KERNELS[name]
    gradient = random(shape)
    transposed = update(optax.centralize(), gradient.transpose(order))
    found = update(centralize_gradients(), gradient)
    np.testing.assert_allclose(found.transpose(order), transposed, atol=1e-6)
    first = update(centralize_gradients("output_first"), gradient.transpose(order))
    np.testing.assert_allclose(first, transposed, atol=1e-6)
    assert not np.allclose(update(optax.centralize(), gradient), found, atol=1e-2)

  def test_changes_a_softmax_head_unlike_optax(self):
    features, label = jnp.abs(random((16, 8))), jnp.arange(16) % 5

    def loss(kernel):
      return optax.softmax_cross_entropy_with_integer_labels(features @ kernel, label).mean()

    gradient = jax.grad(loss)(random((8, 5), seed=1))
    np.testing.assert_allclose(update(optax.centralize(), gradient), gradient, atol=1e-6)
    assert jnp.abs(update(centralize_gradients(), gradient) - gradient).max() > 1e-2


class TestChains:
  @pytest.mark.parametrize(
    "transform",
    [
      pytest.param(optax.chain(centralize_gradients(), optax.sgd(RATE)), id="plain SGD"),
      pytest.param(gc_sgd(RATE, weight_decay=DECAY), id="gc_sgd"),
      pytest.param(gc_sgd(RATE, nesterov=True), id="gc_sgd, Nesterov"),
      pytest.param(gc_sgd(RATE, location="gradient"), id="gc_sgd, gradient"),
      pytest.param(gc_adam(RATE), id="gc_adam"),
      pytest.param(gc_adamw(RATE, weight_decay=DECAY), id="gc_adamw"),
    ],
  )
  def test_each_unit_keeps_its_initial_mean(self, transform):
    before, after = trained(transform)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), unit_means(before), unit_means(after))
    change = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), before, after)
    assert min(jax.tree.leaves(change)) > 1e-2

  @pytest.mark.parametrize(
    "transform",
    [
      pytest.param(gc_adam(RATE, location="gradient"), id="gc_adam"),
      pytest.param(gc_adamw(RATE, location="gradient"), id="gc_adamw"),
      pytest.param(gc_sgd(RATE, weight_decay=DECAY, location="gradient"), id="gc_sgd with decay"),
    ],
  )
  def test_centralized_gradients_do_not_keep_means_with_moments_or_decay(self, transform):
    before, after = map(unit_means, trained(transform))
    assert all(jnp.abs(before[name] - after[name]).max() > 1e-2 for name in before)

  @pytest.mark.parametrize("location", ["gradient", "direction"])
  @pytest.mark.parametrize(
    ("transform", "name", "constants"),
    [
      (gc_sgd, "sgd", {"momentum": MOMENTUM}),
      (gc_sgd, "sgd", {"momentum": MOMENTUM, "nesterov": True, "weight_decay": DECAY}),
      (gc_adam, "adam", {"b1": B1, "b2": B2, "eps": EPS}),
      (gc_adamw, "adamw", {"b1": B1, "b2": B2, "eps": EPS, "weight_decay": DECAY}),
    ],
  )
  def test_equals_the_official_algorithm(self, transform, name, constants, location):
    ours = transform(RATE, location=location, **constants)
    params = network()
    state = ours.init(params)
    theirs = jax.tree.map(Official(name, location, **constants), params)
    for step in range(1, 7):
      gradients = network(seed=step)
      updates, state = ours.update(gradients, state, params)
      params = optax.apply_updates(params, updates)
      jax.tree.map(lambda weight, gradient: weight.step(gradient), theirs, gradients)
      expected = jax.tree.map(lambda weight: weight.in_flax_layout(), theirs)
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), params, expected)

  @pytest.mark.parametrize("nesterov", [False, True])
  def test_sgd_without_decay_is_equal_for_both_locations(self, nesterov):
    (_, direction), (_, gradient) = (
      trained(gc_sgd(RATE, nesterov=nesterov, location=location)) for location in ("direction", "gradient")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), direction, gradient)

  def test_passes_on_the_decay_mask_and_the_arguments_of_centralization(self):
    params, gradients = network(), network(seed=1)
    plain = update(gc_adamw(RATE, weight_decay=0.0, conv_only=True), gradients, params)
    masked = update(gc_adamw(RATE, weight_decay=DECAY, decay_mask=False, conv_only=True), gradients, params)
    jax.tree.map(np.testing.assert_array_equal, plain, masked)
    assert jnp.abs(unit_means(plain)["dense"]).max() > 1e-3
    assert jnp.abs(unit_means(plain)["conv"]).max() < 1e-6

  def test_learning_rate_may_be_a_schedule(self):
    transform = gc_sgd(lambda step: jnp.where(step < 1, 1.0, 0.5), momentum=0.0)
    gradients = network()
    state = transform.init(gradients)
    first, state = transform.update(gradients, state)
    second, _ = transform.update(gradients, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 2 * b, rtol=1e-6), first, second)

  @pytest.mark.parametrize("transform", [gc_sgd, gc_adam, gc_adamw])
  def test_inject_hyperparams(self, transform):
    params, gradients = network(), network(seed=1)
    decay = {} if transform is gc_adam else {"weight_decay": DECAY}
    injected = optax.inject_hyperparams(transform)(learning_rate=RATE, layout="output_last", conv_only=True, **decay)
    state = injected.init(params)
    found, state = jax.jit(injected.update)(gradients, state, params)
    expected = update(transform(RATE, conv_only=True, **decay), gradients, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    assert float(state.hyperparams["learning_rate"]) == pytest.approx(RATE)

  def test_inject_hyperparams_with_functions_as_static_arguments(self):
    gradients = {"a": random((2, 3, 4))}
    functions = {"axes": lambda path, leaf: (0,), "mask": lambda updates: {"a": True}}
    injected = optax.inject_hyperparams(gc_sgd, static_args=tuple(functions))(learning_rate=1.0, **functions)
    np.testing.assert_allclose(update(injected, gradients, gradients)["a"].sum(0), 0, atol=1e-6)

  def test_sgd_without_decay_needs_no_parameters(self):
    assert update(gc_sgd(RATE), network())["conv"]["kernel"].shape == (3, 3, 2, 4)

  @pytest.mark.parametrize("transform", [gc_sgd, gc_adam, gc_adamw])
  def test_rejects_an_unknown_location(self, transform):
    with pytest.raises(ValueError, match="location='moments': expected one of direction, gradient"):
      transform(RATE, location="moments")


class Official:
  """One parameter and its moments in the official optimisers, in float64 and PyTorch's layout."""

  def __init__(self, name, location, *, momentum=0.0, nesterov=False, b1=0.0, b2=0.0, eps=0.0, weight_decay=0.0):
    self.name, self.location = name, location
    self.momentum, self.nesterov, self.b1, self.b2, self.eps = momentum, nesterov, b1, b2, eps
    self.decay = weight_decay

  def __call__(self, weight):
    copy = Official(self.name, self.location)
    copy.__dict__.update(vars(self), t=0, m=0.0, v=0.0, buffer=None)
    copy.w = self.to_torch(weight)
    return copy

  @staticmethod
  def to_torch(weight):
    weight = np.asarray(weight, np.float64)
    return np.moveaxis(weight, (-1, -2), (0, 1)) if weight.ndim > 1 else weight

  def in_flax_layout(self):
    return np.moveaxis(self.w, (0, 1), (-1, -2)) if self.w.ndim > 1 else self.w

  @staticmethod
  def centralized(gradient):
    if gradient.ndim < 2:
      return gradient
    rows = gradient.reshape(len(gradient), -1)
    return (rows - rows.mean(1, keepdims=True)).reshape(gradient.shape)

  def step(self, gradient):
    gradient = self.to_torch(gradient)
    if self.location == "gradient":
      gradient = self.centralized(gradient)
    direction = self.sgd(gradient) if self.name == "sgd" else self.adam(gradient)
    if self.location == "direction":
      direction = self.centralized(direction)
    self.w = self.w - RATE * direction

  def sgd(self, gradient):
    d = gradient + self.decay * self.w
    self.buffer = d if self.buffer is None else self.momentum * self.buffer + d
    return d + self.momentum * self.buffer if self.nesterov else self.buffer

  def adam(self, gradient):
    self.t += 1
    self.m = self.b1 * self.m + (1 - self.b1) * gradient
    self.v = self.b2 * self.v + (1 - self.b2) * gradient**2
    root = np.sqrt(self.v) / np.sqrt(1 - self.b2**self.t) + self.eps
    return self.m / (1 - self.b1**self.t) / root + (self.decay * self.w if self.name == "adamw" else 0.0)


class TestLeaves:
  @pytest.mark.parametrize(
    "tree", [{}, (), None, {"a": None, "b": ()}, [jnp.float32(2)], {"x": jnp.arange(4.0)}, {"x": 3.0}]
  )
  def test_trees_without_kernels_are_unchanged(self, tree):
    found = update(centralize_gradients(), tree)
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, found, tree)

  def test_supports_none_leaves(self):
    found = update(centralize_gradients(), {"a": None, "b": random((3, 2))})
    assert found["a"] is None
    np.testing.assert_allclose(found["b"].sum(0), 0, atol=1e-6)

  @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn])
  def test_low_precision_is_averaged_in_float32_and_keeps_its_dtype(self, dtype):
    gradient = random((8, 8, 16, 4), dtype=dtype)
    found = update(centralize_gradients(), gradient)
    assert found.dtype == dtype
    exact = np.asarray(gradient, np.float32)
    expected = jnp.asarray(exact - exact.mean((0, 1, 2), keepdims=True), dtype)
    step = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=step, atol=1e-6)

  def test_float16_mean_does_not_overflow(self):
    gradient = jnp.full((64, 64, 2, 1), 3e4, jnp.float16).at[0, 0, 0, 0].add(64)
    found = update(centralize_gradients(), gradient).astype(np.float32)
    assert np.isfinite(found).all()
    assert found[0, 0, 0, 0] == 64

  def test_complex_gradients(self):
    gradient = random((3, 4)) + 1j * random((3, 4), seed=1)
    found = update(centralize_gradients(), gradient)
    assert found.dtype == jnp.complex64
    np.testing.assert_allclose(found.sum(0), 0, atol=1e-6)

  def test_accepts_float64_numpy_arrays(self):
    np.testing.assert_allclose(update(centralize_gradients(), np.arange(6.0).reshape(3, 2)).sum(0), 0)

  @pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool, jax.dtypes.float0])
  def test_other_dtypes_are_unchanged(self, dtype):
    tree = {"kernel": np.ones((3, 2), dtype)}
    assert update(centralize_gradients(), tree)["kernel"] is tree["kernel"]

  @pytest.mark.parametrize("layout", ["output_last", "output_first"])
  def test_kernels_with_one_input_per_unit_are_unchanged(self, layout):
    gradient = random((1, 1, 1, 4))
    gradient = gradient if layout == "output_last" else gradient.transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(update(centralize_gradients(layout), gradient), gradient)
    assert update(centralize_gradients(), jnp.zeros((0, 3))).shape == (0, 3)

  @pytest.mark.parametrize("layout", ["output_last", "output_first"])
  @pytest.mark.parametrize(
    ("name", "shape"),
    [
      *((name, shape) for name in ("bias", "scale") for shape in ((2, 4), (4, 1, 1), (2, 3, 4))),
      *((name, shape) for name in ("b", "offset") for shape in ((4, 1, 1), (1, 4, 1, 1), (1, 4))),  # names in Haiku
    ],
  )
  def test_biases_and_scales_of_any_rank_are_unchanged(self, layout, name, shape):
    tree = {"layer": {name: random(shape)}}
    np.testing.assert_array_equal(update(centralize_gradients(layout), tree)["layer"][name], tree["layer"][name])

  def test_kernels_may_be_named_b(self):
    found = update(centralize_gradients(), {"a": random((3, 2)), "b": random((3, 2))})
    np.testing.assert_allclose(found["b"].sum(0), 0, atol=1e-6)

  def test_conv_only_changes_only_kernels_of_four_or_more_axes(self):
    tree = {name: random(shape) for name, (shape, _) in KERNELS.items()}
    found = update(centralize_gradients(conv_only=True), tree)
    changed = {name for name, leaf in tree.items() if not np.array_equal(leaf, found[name])}
    assert changed == {"conv", "depthwise conv", "conv of three axes"}


class TestTransformations:
  def test_jit_vmap_and_scan(self):
    transform = centralize_gradients()
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(network(seed) for seed in range(4)))
    each = [update(transform, network(seed)) for seed in range(4)]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    def apply(gradients):
      return update(transform, gradients)

    for many in (
      jax.jit(jax.vmap(apply)),
      jax.pmap(apply),
      lambda tree: jax.lax.scan(lambda carry, one: (carry, apply(one)), 0, tree)[1],
    ):
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), many(stack), expected)

  def test_commutes_with_the_mean_over_devices(self):
    transform = centralize_gradients()
    stack = random((4, 3, 3, 2, 5))
    before = jax.pmap(lambda g: update(transform, jax.lax.pmean(g, "d")), "d", out_axes=None)(stack)
    after = jax.pmap(lambda g: jax.lax.pmean(update(transform, g), "d"), "d", out_axes=None)(stack)
    np.testing.assert_allclose(before, after, atol=1e-6)

  def test_state_is_empty(self):
    transform = centralize_gradients()
    state = transform.init(network())
    assert state == optax.EmptyState()
    assert transform.update(network(), state, network())[1] == state

  def test_docstring_example(self):
    assert doctest.testmod(gradient_centralization) == (0, 3)


class TestInjectedHyperparameters:
  """optax.inject_hyperparams calls functions as schedules; centralization must not be switched off silently."""

  MASK = staticmethod(lambda updates: jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, updates))
  FUNCTIONS = (("mask", MASK.__func__), ("axes", lambda path, leaf=None: (0,)))

  @pytest.mark.parametrize(("name", "function"), FUNCTIONS)
  @pytest.mark.parametrize("optimizer", [gc_sgd, gc_adam, gc_adamw])
  def test_functions_are_refused_or_static(self, optimizer, name, function):
    params = network()
    injected = optax.inject_hyperparams(optimizer)(learning_rate=RATE, **{name: function})
    with pytest.raises(ValueError, match=rf"{name}=.*: expected a function.*static_args=\('axes', 'mask'\)"):
      injected.init(params)
    static = optax.inject_hyperparams(optimizer, static_args=("axes", "mask"))(learning_rate=RATE, **{name: function})
    found = update(static, network(1), params)
    expected = update(optimizer(RATE, **{name: function}), network(1), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)

  def test_other_hyperparameters_and_trees_can_be_injected(self):
    params, mask = network(), {"conv": True, "depthwise": False, "dense": True}
    injected = optax.inject_hyperparams(gc_adam)(learning_rate=optax.constant_schedule(RATE), mask=mask)
    found, expected = (update(each, network(1), params) for each in (injected, gc_adam(RATE, mask=mask)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
