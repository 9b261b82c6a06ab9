"""Accuracy gap between HSIC bottleneck and back-propagation: same network, epochs and augmentation, three seeds.

The variant `small` takes 10 epochs of `configs/hsic.py:small`; hsic_cost.py has shorter runs and runs of equal time.
"""

from configs.sweeps import Size, size_of
from fer_jax.config.sweep import Figure, Sweep

BACKPROP = "back-propagation"
# Seconds are of processor time, so that other programs on the machine do not matter.
TEN_EPOCHS = ("--config.duration=10 epochs", "--config.evaluate_every=1 epoch", "--config.clock=cpu")


def ten_epochs(variant: str) -> Size:
  """Returns the size of a variant; runs of `small` take 10 epochs."""
  size = size_of(variant)
  return size._replace(overrides=TEN_EPOCHS) if variant == "small" else size


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`, always with three seeds."""
  size = ten_epochs(variant)._replace(seeds=(0, 1, 2))
  return Sweep(
    title="The gap to back-propagation",
    citation="Han et al. 2023, doi:10.12677/sea.2023.122019",
    claim="Without back-propagation the network reaches 0.97 on the test images and 0.9946 in training, and converges "
    "after about 2,500 steps; with back-propagation it has not converged after 10,000.",
    candidates=(
      size.candidate("HSIC bottleneck"),
      size.candidate(BACKPROP, variant="backprop"),
      size.candidate("HSIC bottleneck, layer by layer", variant="layerwise"),
    ),
    figures=(
      Figure("curves", "validation accuracy"),
      Figure("curves", "training accuracy", "On the training batches."),
      Figure("points", "test accuracy"),
    ),
    reference=BACKPROP,
  )
