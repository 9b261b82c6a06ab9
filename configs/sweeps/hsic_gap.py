"""Accuracy gap between HSIC bottleneck and back-propagation: same network, epochs and augmentation, three seeds."""

from configs.sweeps import size_of
from fer_jax.config.sweep import Figure, Sweep

BACKPROP = "back-propagation"


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`, always with three seeds."""
  size = size_of(variant)._replace(seeds=(0, 1, 2))
  return Sweep(
    title="The gap to back-propagation",
    citation="Han et al. 2023, doi:10.12677/sea.2023.122019",
    claim="Without back-propagation the network reaches 0.97 on the test images and 0.9946 in training, and converges "
    "after about 2,500 steps; with back-propagation it has not converged after 10,000.",
    candidates=(
      size.candidate("HSIC bottleneck", overrides=("--config.phases.bottleneck.objective.unit=layer",)),
      size.candidate("HSIC bottleneck, units of a block", variant="blockwise"),
      size.candidate(BACKPROP, variant="backprop"),
    ),
    figures=(
      Figure("curves", "validation accuracy"),
      Figure("curves", "training accuracy", "On the training batches."),
      Figure("points", "test accuracy"),
    ),
    reference=BACKPROP,
  )
