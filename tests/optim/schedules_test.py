import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.optim import SCHEDULES, scale_by_progress
from fer_jax.optim.schedules import stepwise, with_warmup

STEPS = 40
PROGRESS = np.arange(STEPS + 1, dtype=np.float32) / STEPS
EXACT = {
  "constant": np.ones_like,
  "cosine": lambda progress: 0.5 * (1 + np.cos(np.pi * progress)),
  "linear": lambda progress: 1 - progress,
  "plateau": np.ones_like,
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("warmup", [0, 0.2, 0.9])
def test_equals_the_closed_form_after_the_warmup(name, warmup):
  progress = np.arange(STEPS + 1) / STEPS
  remaining = (progress - warmup) / (1 - warmup)
  expected = np.where(progress < warmup, progress / (warmup or 1), EXACT[name](remaining))
  found = jnp.broadcast_to(with_warmup(SCHEDULES[name], warmup)(PROGRESS), PROGRESS.shape)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_warmup_delays_the_intervals_of_a_stepwise_schedule():
  found = with_warmup(stepwise(0.0, 0.25, 0.5), 0.2)(PROGRESS)
  step = np.arange(STEPS + 1)
  np.testing.assert_allclose(found, np.where(step < 8, step / 8, 0.5 ** np.maximum((step - 8) // 8, 0)), atol=1e-6)


def test_one_cycle_equals_optax():
  steps = 40  # a multiple of ten: the peak is then at one of optax's steps
  expected = optax.cosine_onecycle_schedule(steps, 1.0, pct_start=0.3, div_factor=25, final_div_factor=1e4)
  progress = np.arange(steps + 1, dtype=np.float32) / steps
  np.testing.assert_allclose(SCHEDULES["one_cycle"](progress), [expected(s) for s in range(steps + 1)], atol=1e-6)


def test_stepwise_equals_optax_piecewise_constant():
  expected = optax.piecewise_constant_schedule(1.0, {13 + 4 * k: 0.5 for k in range(1, 8)})
  found = stepwise(13 / STEPS, 4 / STEPS, 0.5)(PROGRESS)
  np.testing.assert_allclose(found, [expected(step) for step in range(STEPS + 1)], rtol=1e-6)


def test_scale_by_progress_depends_only_on_its_argument():
  transform = scale_by_progress(0.5, SCHEDULES["linear"])
  updates = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([4.0])}
  state = transform.init(updates)
  for progress in (0.25, 0.75, 0.25):
    found, state = transform.update(updates, state, None, progress=jnp.float32(progress), other="ignored")
    for name, value in updates.items():
      np.testing.assert_allclose(found[name], -0.5 * (1 - progress) * value)
  assert state == optax.EmptyState()


def test_scale_by_progress_keeps_the_dtype():
  transform = scale_by_progress(0.5, SCHEDULES["cosine"])
  found, _ = transform.update(jnp.ones(3, jnp.bfloat16), optax.EmptyState(), progress=jnp.float32(0.5))
  assert found.dtype == jnp.bfloat16


def test_scale_by_progress_requires_progress():
  with pytest.raises(TypeError, match="progress"):
    scale_by_progress(0.5, SCHEDULES["cosine"]).update(jnp.ones(3), optax.EmptyState())
