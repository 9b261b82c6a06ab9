"""Three learning rates of the hidden layers: Han et al. 2023 (doi:10.12677/sea.2023.122019), fig. 14."""

from configs.sweeps import size_of
from fer_jax.config.sweep import Figure, Sweep


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size, key = size_of(variant), "--config.phases.bottleneck.optimizer.learning_rate"
  return Sweep(
    title="Learning rate of the HSIC bottleneck",
    citation="Han et al. 2023, doi:10.12677/sea.2023.122019, figure 14",
    claim="0.001 and 0.005 converge equally fast, 0.005 to the best model; 0.0005 is clearly slower. No figures are "
    "printed.",
    candidates=tuple(
      size.candidate(f"{rate:g}", overrides=(f"{key}={rate:g}",), value=rate) for rate in (0.0005, 0.001, 0.005)
    ),
    figures=(Figure("curves", "validation accuracy"), Figure("points", "validation accuracy")),
    swept="learning rate",
  )
