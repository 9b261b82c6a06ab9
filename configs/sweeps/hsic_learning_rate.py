"""Three learning rates of the hidden layers: Han et al. 2023 (doi:10.12677/sea.2023.122019), fig. 14.

python launch/sweep.py configs/sweeps/hsic_learning_rate.py
"""

from configs.sweeps import size_of
from fer_jax.config.sweep import Figure, Sweep

LEARNING_RATE = "--config.phases.bottleneck.optimizer.learning_rate"


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size = size_of(variant)
  return Sweep(
    title="Learning rate of the HSIC bottleneck",
    citation="Han et al. 2023, doi:10.12677/sea.2023.122019, figure 14",
    claim="0.001 and 0.005 converge equally fast, 0.005 to the best model; 0.0005 is clearly slower. No figures are "
    "printed.",
    candidates=tuple(
      size.candidate(f"{rate:g}", overrides=(f"{LEARNING_RATE}={rate:g}",), value=rate)
      for rate in (0.0005, 0.001, 0.005)
    ),
    figures=(Figure("curves", "validation accuracy"), Figure("points", "validation accuracy")),
    swept="learning rate",
  )
