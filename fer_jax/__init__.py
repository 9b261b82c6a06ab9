"""Facial expression recognition in JAX: fast, comparable implementations of published systems.

Submodules are not imported here, so `from fer_jax.optim import ...` loads only jax and optax.
"""

import os
import sys
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from fer_jax.inference.predictor import Predictor

__version__ = "0.2.0"

# jaxlib 0.10, the newest for Python 3.11, logs two kilobytes for each program it finds in the compilation cache, about
# "features" that no CPU has (prefer-no-gather). The log level is read once, when jax is imported. A level of 1 may have
# been set by jax itself in a parent process, so it is replaced too; any other level is the user's and is kept.
_prints_messages = any(
  distribution.version.startswith("0.10.") for distribution in metadata.distributions(name="jaxlib")
)
if _prints_messages and "jax" not in sys.modules and os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
  os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def load(path: "str | os.PathLike[str] | None" = None, **options: Any) -> "Predictor":
  """Loads a trained network: `fer_jax.load().predict(images)`.

  Args:
    path: Folder of a finished run, or .safetensors file exported from one; None loads the network shipped with the
      package.
    **options: Keyword arguments of `fer_jax.inference.predictor.load_predictor`.

  Returns:
    Predictor that detects and classifies the faces in images.

  Warns:
    UserWarning: The network was trained on drawn faces only.
  """
  # Imported here so that importing the package stays cheap.
  from fer_jax.inference.predictor import load_predictor

  predictor = load_predictor(path, **options)
  if predictor.model.caution:
    warnings.warn(predictor.model.caution, stacklevel=2)
  return predictor
