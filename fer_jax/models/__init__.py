"""One file a published network. `MODELS` maps a name in `config.model.name` to its settings' class."""

from typing import Protocol

import jax.numpy as jnp

from fer_jax.models.hsic_dense import HsicDense
from fer_jax.models.network import Network


class ModelSettings(Protocol):
  """A network's hyper-parameters: a frozen dataclass whose fields are the keys of `config.model`."""

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network for K classes, computing in `dtype`, normalising over `axis_name`."""


MODELS: dict[str, type[ModelSettings]] = {"hsic_dense": HsicDense}
