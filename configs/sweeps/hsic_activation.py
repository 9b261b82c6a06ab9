"""Three activation functions: Han et al. 2023 (doi:10.12677/sea.2023.122019), fig. 13."""

from configs.sweeps import size_of
from fer_jax.config.sweep import Figure, Sweep


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size = size_of(variant)
  return Sweep(
    title="Activation function",
    citation="Han et al. 2023, doi:10.12677/sea.2023.122019, figure 13",
    claim="tanh and elu come out nearly equal, and below relu. No figures are printed.",
    candidates=tuple(
      size.candidate(name, overrides=(f"--config.model.activation={name}",), value=name)
      for name in ("relu", "tanh", "elu")
    ),
    figures=(Figure("curves", "validation accuracy"), Figure("points", "validation accuracy")),
    swept="activation",
  )
