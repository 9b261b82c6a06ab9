"""Facial expression recognition in JAX: published systems, made real, fast and comparable.

Nothing is imported here, so that `from fer_jax.optim import ...` costs jax and optax alone.
"""

__version__ = "0.1.0"
