"""Dense network against standard networks: Han et al. 2023 (doi:10.12677/sea.2023.122019), fig. 15, and five more."""

from configs.sweeps import size_of
from configs.sweeps.hsic_table1 import PRINTED
from fer_jax.config.sweep import Figure, Sweep

# Key of configs.baselines.BASELINES -> name in tables.
NAMES = {
  "alexnet": "AlexNet",
  "bn_inception": "Inception v2",
  "resnet50": "ResNet-50",
  "vgg19": "VGG-19",
  "se_resnet18": "SE-ResNet-18",
  "densenet121": "DenseNet-121",
  "mobilenet_v3": "MobileNetV3",
  "mini_xception": "mini-Xception",
}


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size = size_of(variant)
  return Sweep(
    title="The dense network and well-known ones at equal steps",
    citation="Han et al. 2023, doi:10.12677/sea.2023.122019, figure 15 (AlexNet, Inception v2, ResNet-50)",
    claim="Trained by the HSIC bottleneck, the dense network converges clearly faster than AlexNet, Inception v2 and "
    "ResNet-50 by back-propagation, all at learning rate 0.005 and batch 128, and ends near the same accuracy.",
    candidates=(
      size.candidate("dense network, HSIC bottleneck", reported=_printed("hsic")),
      size.candidate("dense network, back-propagation", variant="backprop"),
      *(size.candidate(title, "configs/baselines.py", name, reported=_printed(name)) for name, title in NAMES.items()),
    ),
    figures=(Figure("curves", "validation accuracy"), Figure("points", "test accuracy")),
  )


def _printed(name: str) -> dict[str, float]:
  return {"test accuracy": PRINTED[name][-1]} if name in PRINTED else {}
