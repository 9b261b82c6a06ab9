"""Facial expression recognition in JAX: published systems, made real, fast and comparable.

Nothing of the package is imported here, so that `from fer_jax.optim import ...` costs jax and optax alone.
"""

import os
import sys
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from fer_jax.predictor import Predictor

__version__ = "0.1.0"

# jaxlib 0.10, the newest for Python 3.11, prints two kilobytes for every program that it finds compiled, about features
# that are none of a CPU (prefer-no-gather). It reads the level once, as jax is imported; 1 is what jax sets itself, in
# a process that started this one.
_loud = any(each.version.startswith("0.10.") for each in metadata.distributions(name="jaxlib"))
if _loud and "jax" not in sys.modules and os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
  os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def load(path: "str | os.PathLike[str] | None" = None, **options: Any) -> "Predictor":
  """Loads a trained network: `fer_jax.load().predict(images)`.

  Args:
    path: Folder of a finished run, or a .safetensors file made of one; None is the network that the package ships.
    **options: See `fer_jax.predictor.load`.

  Warns:
    UserWarning: the network has learned from drawn faces alone.
  """
  from fer_jax import predictor

  loaded = predictor.load(path, **options)
  if loaded.classifier.caution:
    warnings.warn(loaded.classifier.caution, stacklevel=2)
  return loaded
