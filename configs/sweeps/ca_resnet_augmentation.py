"""Effect of each augmentation on a residual network on FER2013: Li & Pan, section 4.2.

  python launch/sweep.py configs/sweeps/ca_resnet_augmentation.py           # ResNet-34, three seeds, for a GPU
  python launch/sweep.py configs/sweeps/ca_resnet_augmentation.py:small     # ResNet-18, 400 steps, two CPU cores
  python launch/sweep.py configs/sweeps/ca_resnet_augmentation.py:demo      # built-in faces, a few steps

Augmentation reduces overfitting. A short run of a narrow network does not overfit: at the small size every augmentation
only makes the task harder, so no gain is expected.
"""

from collections.abc import Mapping
from typing import Any

from configs.ca_resnet import BEST_AUGMENTATION, FILE, TABLE1
from configs.sweeps import size_of
from fer_jax.config.sweep import Candidate, Figure, Sweep

# Augmentations of table 1, applied one at a time with the probability that they have together.
SINGLE = ("flip", "crop", "rotation", "noise", "gamma", "erase")
NO_AUGMENTATION_ACCURACY, ALL_SIX_ACCURACY = 0.60, 0.68  # validation accuracy stated in the text


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size = size_of(variant)
  network = "resnet18" if variant else "resnet34"

  def candidate(name: str, recipe: str, augmentation: Mapping[str, Any], reported: float | None = None) -> Candidate:
    overrides = tuple(f"--config.augmentation.{key}={value}" for key, value in augmentation.items())
    printed = {} if reported is None else {"validation accuracy": reported}
    return size.candidate(name, FILE, network + recipe, overrides, reported=printed)

  single = [candidate(name, ",plain", {name: TABLE1[name], "probability": TABLE1["probability"]}) for name in SINGLE]
  return Sweep(
    title="Augmentations",
    citation="Li & Pan, section 4.2",
    claim="Without augmentation ResNet-34 stays below 60 % on the validation set; random crops and the like bring "
    "8 points, and all six methods about 68 %.",
    candidates=(
      candidate("none", ",plain", {}, None if variant else NO_AUGMENTATION_ACCURACY),
      *single,
      candidate("all of table 1", "", {}, None if variant else ALL_SIX_ACCURACY),
      candidate("ours", ",plain", BEST_AUGMENTATION),
    ),
    figures=(Figure("points", "validation accuracy"), Figure("curves", "training accuracy")),
    reference="none",
  )
