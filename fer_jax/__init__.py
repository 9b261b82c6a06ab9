"""Facial expression recognition in JAX: published systems, made real, fast and comparable.

Nothing is imported here, so that `from fer_jax.optim import ...` costs jax and optax alone.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from fer_jax.predictor import Predictor

__version__ = "0.1.0"


def load(workdir: str, **options: Any) -> "Predictor":
  """Loads what a finished run has learned: `fer_jax.load("workdir/hsic_demo").predict(images)`.

  See `fer_jax.predictor.load`.
  """
  from fer_jax import predictor

  return predictor.load(workdir, **options)
