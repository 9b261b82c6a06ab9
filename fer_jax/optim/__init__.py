"""Optax transforms and chains that any optax project can import: nothing here needs more than jax and optax."""

from fer_jax.optim.factory import Optimizer
from fer_jax.optim.gradient_centralization import centralize_gradients, gc_adam, gc_adamw, gc_sgd
from fer_jax.optim.schedules import SCHEDULES, scale_by_progress
