import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.optim import Optimizer
from fer_jax.optim.factory import CENTRALIZATIONS, OPTIMIZERS

STEPS = 20
RATE = 0.05


def kernels(params):
  return jax.tree.map(lambda p: p.ndim > 1, params)


def cosine(rate=RATE):
  return optax.cosine_decay_schedule(rate, STEPS)


def minus_mean(least_ndim=2):
  """Returns gradient centralization of kernels whose last axis is the output axis."""

  def centralized(gradient):
    over = tuple(range(gradient.ndim - 1))
    return gradient - gradient.mean(over, keepdims=True) if gradient.ndim >= least_ndim else gradient

  return optax.stateless(lambda updates, _: jax.tree.map(centralized, updates))


def trajectory(transform, with_progress=False):
  """Returns the parameters after each of STEPS steps along a fixed sequence of gradients."""
  rng = np.random.default_rng(0)
  params = {
    "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32), "bias": jnp.ones(4)},
    "dense": {"kernel": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)},
  }

  @jax.jit
  def advance(params, state, gradients, progress):
    extra = {"progress": progress} if with_progress else {}
    updates, state = transform.update(gradients, state, params, **extra)
    return optax.apply_updates(params, updates), state

  state, found = transform.init(params), []
  for step in range(STEPS):
    gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    params, state = advance(params, state, gradients, np.float32(step / STEPS))
    found.append(params)
  return found


@pytest.mark.parametrize(
  ("ours", "reference"),
  [
    pytest.param(Optimizer("adam", RATE, "constant"), optax.adam(RATE), id="adam"),
    pytest.param(Optimizer("adam", RATE, "cosine", b1=0.8, b2=0.9), optax.adam(cosine(), 0.8, 0.9), id="adam moments"),
    pytest.param(
      Optimizer("adam", RATE, "cosine", weight_decay=0.1, coupled_decay=True),
      optax.chain(optax.add_decayed_weights(0.1, mask=kernels), optax.adam(cosine())),
      id="adam with coupled decay",
    ),
    pytest.param(
      Optimizer("sgd", RATE, "constant", weight_decay=0.1, coupled_decay=True),
      optax.chain(optax.add_decayed_weights(0.1, mask=kernels), optax.sgd(RATE, momentum=0.9, nesterov=True)),
      id="sgd with coupled decay",
    ),
    pytest.param(
      Optimizer("adamw", RATE, "cosine", weight_decay=0.1),
      optax.adamw(cosine(), weight_decay=0.1, mask=kernels),
      id="adamw",
    ),
    pytest.param(
      Optimizer("adam", RATE, "cosine", weight_decay=0.1),
      optax.adamw(cosine(), weight_decay=0.1, mask=kernels),
      id="adam with decoupled decay",
    ),
    pytest.param(
      Optimizer("adamw", RATE, "cosine", warmup=0.2, weight_decay=0.1),
      optax.adamw(optax.warmup_cosine_decay_schedule(0.0, RATE, 4, STEPS), weight_decay=0.1, mask=kernels),
      id="warmup",
    ),
    pytest.param(
      Optimizer("sgd", RATE, "cosine", momentum=0.8), optax.sgd(cosine(), momentum=0.8, nesterov=True), id="sgd"
    ),
    pytest.param(
      Optimizer("sgd", RATE, "linear", clip_norm=1.0, weight_decay=0.1),
      optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.trace(0.9, nesterov=True),
        optax.add_decayed_weights(0.1, kernels),
        optax.scale_by_learning_rate(optax.linear_schedule(RATE, 0.0, STEPS)),
      ),
      id="clipping before decay",
    ),
    pytest.param(
      Optimizer("adamw", RATE, "cosine", weight_decay=0.1, clip_norm=1.0, centralize="direction"),
      optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.1, kernels),
        minus_mean(),
        optax.scale_by_learning_rate(cosine()),
      ),
      id="centralized direction with decay",
    ),
    pytest.param(
      Optimizer("adam", RATE, "cosine", weight_decay=0.1, clip_norm=1.0, centralize="gradient"),
      optax.chain(optax.clip_by_global_norm(1.0), minus_mean(), optax.adamw(cosine(), weight_decay=0.1, mask=kernels)),
      id="centralized gradient after clipping",
    ),
    pytest.param(
      Optimizer("sgd", RATE, "cosine", centralize="direction", centralize_conv_only=True),
      optax.chain(optax.trace(0.9, nesterov=True), minus_mean(4), optax.scale_by_learning_rate(cosine())),
      id="centralized direction of convolutions only",
    ),
  ],
)
def test_chain_equals_optax(ours, reference):
  for found, expected in zip(trajectory(ours.build(), with_progress=True), trajectory(reference), strict=True):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, expected)


def test_clipping_bounds_the_norm_and_keeps_the_direction():
  transform = Optimizer("sgd", 1.0, "constant", momentum=0.0, clip_norm=0.5).build()
  gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
  updates, _ = transform.update(gradients, transform.init(gradients), gradients, progress=jnp.float32(0))
  np.testing.assert_allclose(updates["a"], [-0.3, 0])
  np.testing.assert_allclose(updates["b"], [[-0.4]], rtol=1e-6)
  small = jax.tree.map(lambda g: g / 100, gradients)
  updates, _ = transform.update(small, transform.init(small), small, progress=jnp.float32(0))
  np.testing.assert_allclose(updates["a"], [-0.03, 0], rtol=1e-6)


def test_learning_rate_depends_only_on_progress():
  transform = Optimizer("sgd", 1.0, "linear", momentum=0.0).build()
  gradient = jnp.ones(2)
  state = transform.init(gradient)
  for progress in (0.5, 0.0, 1.0):
    updates, state = transform.update(gradient, state, gradient, progress=jnp.float32(progress))
    np.testing.assert_allclose(updates, np.full(2, progress - 1))


def test_schedule_factor_is_that_of_the_chain():
  optimizer = Optimizer("sgd", 0.1, "cosine", warmup=0.5, momentum=0.0)
  transform, gradient = optimizer.build(), jnp.ones(1)
  for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
    updates, _ = transform.update(gradient, transform.init(gradient), gradient, progress=jnp.float32(progress))
    np.testing.assert_allclose(updates[0], -0.1 * optimizer.schedule_factor(jnp.float32(progress)), atol=1e-8)


def test_lr_scale_multiplies_the_scheduled_rate():
  transform, gradient = Optimizer("sgd", 0.1, "plateau", momentum=0.0).build(), jnp.ones(1)
  updates, _ = transform.update(gradient, transform.init(gradient), gradient, progress=jnp.float32(0.5), lr_scale=0.25)
  np.testing.assert_allclose(updates, [-0.025])


def test_step_schedule_decays_at_the_end_of_each_interval():
  epochs, optimizer = 300, Optimizer(schedule="step", decay_factor=0.9, decay_start=50 / 300, decay_every=1 / 300)
  found = [float(optimizer.schedule_factor(jnp.float32(epoch / epochs))) for epoch in range(epochs)]
  np.testing.assert_allclose(found, [0.9 ** max(epoch - 50, 0) for epoch in range(epochs)], rtol=1e-4)


def test_plateau_lowers_the_rate_once_per_patience():
  optimizer = Optimizer(schedule="plateau", decay_factor=0.5, decay_patience=3)
  assert [optimizer.lr_factor_at(count) for count in range(8)] == [1, 1, 1, 0.5, 1, 1, 0.5, 1]
  assert Optimizer(schedule="cosine", decay_patience=3).lr_factor_at(3) == 1


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"name": "adamax"}, f"optimizer.name='adamax': expected one of {', '.join(OPTIMIZERS)}"),
    ({"schedule": "steps"}, "optimizer.schedule='steps': expected one of constant, cosine, linear, one_cycle, plateau"),
    ({"schedule": "one_cycle", "warmup": 0.1}, "optimizer.warmup=0.1: expected 0 with schedule=one_cycle"),
    ({"decay_factor": 0.0}, "optimizer.decay_factor=0.0: expected a number in (0, 1]"),
    ({"decay_factor": 1.5}, "optimizer.decay_factor=1.5: expected a number in (0, 1]"),
    ({"decay_start": 1.0}, "optimizer.decay_start=1.0: expected a fraction of the phase"),
    ({"decay_every": 0.0}, "optimizer.decay_every=0.0: expected a fraction of the phase"),
    ({"decay_patience": 0}, "optimizer.decay_patience=0: expected a number of evaluations, 1 or more"),
    ({"centralize": "both"}, "optimizer.centralize='both': expected one of empty, direction, gradient"),
    ({"warmup": 1.0}, "optimizer.warmup=1.0: expected a fraction of the phase"),
    ({"warmup": -0.1}, "optimizer.warmup=-0.1: expected a fraction of the phase"),
  ],
)
def test_rejects_unknown_names_and_values_out_of_range(settings, message):
  with pytest.raises(ValueError, match=r"optimizer\.") as raised:
    Optimizer(**settings)
  assert str(raised.value).startswith(message)


@pytest.mark.parametrize("centralize", CENTRALIZATIONS)
def test_only_centralized_directions_keep_unit_means_under_decay(centralize):
  first, *_, last = trajectory(
    Optimizer("adamw", RATE, weight_decay=0.1, centralize=centralize).build(), with_progress=True
  )
  for layer, over in (("conv", (0, 1, 2)), ("dense", 0)):
    change = jnp.abs(first[layer]["kernel"].mean(over) - last[layer]["kernel"].mean(over)).max()
    assert (change < 1e-5) == (centralize == "direction")


def test_muon_orthogonalizes_kernels_and_uses_adam_for_the_rest():
  rng = np.random.default_rng(0)
  params = {"kernel": jnp.zeros((3, 3, 8, 16)), "bias": jnp.zeros(16)}
  gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
  updates = {}
  for name in ("muon", "adam"):
    transform = Optimizer(name=name, learning_rate=RATE, schedule="constant").build()
    updates[name], _ = transform.update(gradients, transform.init(params), params, progress=jnp.float32(0))
  np.testing.assert_allclose(updates["muon"]["bias"], updates["adam"]["bias"], rtol=1e-6)
  update = np.asarray(updates["muon"]["kernel"], np.float64).reshape(-1, 16)
  values = np.linalg.svd(update, compute_uv=False) / (RATE * 0.2 * np.sqrt(72))  # the longer side of 72 x 16
  assert 0.6 < values.min() <= values.max() < 1.3  # five Newton-Schulz steps approximate 1
  u, _, vt = np.linalg.svd(np.asarray(gradients["kernel"], np.float64).reshape(-1, 16), full_matrices=False)
  direction = -(u @ vt)
  assert (direction * update).sum() > 0.98 * np.linalg.norm(direction) * np.linalg.norm(update)


def test_import_requires_only_jax_and_optax():
  program = (
    "import sys, jax, jax.numpy, optax\n"
    "before = set(sys.modules)\n"
    "import fer_jax.optim\n"
    "new = {name for name in sys.modules.keys() - before if name.split('.')[0] not in sys.stdlib_module_names}\n"
    "print(sorted(name for name in new if not name.startswith('fer_jax.optim') and name != 'fer_jax'))\n"
    "heavy = {'flax', 'tensorflow', 'orbax', 'ml_collections', 'grain', 'equinox', 'haiku', 'torch', 'cv2'}\n"
    "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))\n"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  assert done.stdout.splitlines() == ["[]", "[]"]
