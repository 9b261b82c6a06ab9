"""HSIC bottleneck and back-propagation on one network: Han et al. 2023 (doi:10.12677/sea.2023.122019), fig. 10-11."""

from configs.sweeps import size_of
from fer_jax.config.sweep import Figure, Sweep


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size = size_of(variant)
  return Sweep(
    title="HSIC bottleneck and back-propagation",
    citation="Han et al. 2023, doi:10.12677/sea.2023.122019, figures 10 and 11",
    claim="The HSIC bottleneck converges after about 2,500 steps, to an accuracy of 0.9946; back-propagation of the "
    "same network has not converged after 10,000. The text does not state which images are meant; here the figures are "
    "compared with training accuracy.",
    candidates=(
      size.candidate("HSIC bottleneck", reported={"training accuracy": 0.9946, "steps to converge": 2500}),
      size.candidate("HSIC bottleneck as printed", variant="paper"),
      size.candidate("back-propagation", variant="backprop"),
    ),
    figures=(
      Figure(
        "curves", "validation accuracy", "In the printed form, the classifier is trained only in the second phase."
      ),
      Figure("curves", "validation loss"),
      Figure("curves", "training accuracy", "On the training batches."),
      Figure("curves", "training loss", "Cross-entropy of the classifier, for any objective of the hidden layers."),
    ),
  )
