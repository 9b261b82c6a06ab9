"""Optax transforms and chains for any optax project. The public functions depend on jax and optax only."""

from fer_jax.optim.factory import Optimizer
from fer_jax.optim.gradient_centralization import centralize_gradients, gc_adam, gc_adamw, gc_sgd
from fer_jax.optim.schedules import SCHEDULES, scale_by_progress
