import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.optim import SCHEDULES, scale_by_progress
from fer_jax.optim.schedules import stepwise, with_warmup

STEPS = 40
PROGRESS = np.arange(STEPS + 1, dtype=np.float32) / STEPS
OPTAX = {
  "constant": lambda steps: optax.constant_schedule(1.0),
  "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
  "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
  "plateau": lambda steps: optax.constant_schedule(1.0),
}


@pytest.mark.parametrize("name", OPTAX)
def test_equals_optax(name):
  expected = OPTAX[name](STEPS)(jnp.arange(STEPS + 1))
  np.testing.assert_allclose(SCHEDULES[name](PROGRESS), np.broadcast_to(expected, STEPS + 1), atol=1e-6)


@pytest.mark.parametrize("name", OPTAX)
@pytest.mark.parametrize("rising", [0, 8, 36])
def test_warmup_equals_optax_s_joined_schedules(name, rising):
  expected = optax.join_schedules(
    [optax.linear_schedule(0.0, 1.0, max(rising, 1)), OPTAX[name](STEPS - rising)], [rising]
  )
  found = with_warmup(SCHEDULES[name], rising / STEPS)(PROGRESS)
  np.testing.assert_allclose(found, [expected(step) for step in range(STEPS + 1)], atol=1e-6)


def test_one_cycle_equals_optax_s():
  steps = 40  # a multiple of ten, so that the peak is at a step of optax's
  expected = optax.cosine_onecycle_schedule(steps, 1.0, pct_start=0.3, div_factor=25, final_div_factor=1e4)
  progress = np.arange(steps + 1, dtype=np.float32) / steps
  np.testing.assert_allclose(SCHEDULES["one_cycle"](progress), [expected(s) for s in range(steps + 1)], atol=1e-6)


def test_stepwise_equals_optax_s_piecewise_constant():
  expected = optax.piecewise_constant_schedule(1.0, {13 + 4 * k: 0.5 for k in range(1, 8)})
  found = stepwise(13 / STEPS, 4 / STEPS, 0.5)(PROGRESS)
  np.testing.assert_allclose(found, [expected(step) for step in range(STEPS + 1)], rtol=1e-6)


def test_scales_by_the_progress_it_is_told_and_keeps_nothing():
  transform = scale_by_progress(0.5, SCHEDULES["linear"])
  updates = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([4.0])}
  state = transform.init(updates)
  for progress in (0.25, 0.75, 0.25):
    found, state = transform.update(updates, state, None, progress=jnp.float32(progress), other="ignored")
    for name, value in updates.items():
      np.testing.assert_allclose(found[name], -0.5 * (1 - progress) * value)
  assert state == optax.EmptyState()


def test_keeps_the_dtype_of_updates():
  transform = scale_by_progress(0.5, SCHEDULES["cosine"])
  found, _ = transform.update(jnp.ones(3, jnp.bfloat16), optax.EmptyState(), progress=jnp.float32(0.5))
  assert found.dtype == jnp.bfloat16


def test_progress_must_be_told():
  with pytest.raises(TypeError, match="progress"):
    scale_by_progress(0.5, SCHEDULES["cosine"]).update(jnp.ones(3), optax.EmptyState())
