"""Standard networks for comparison with configs/hsic.py, trained by back-propagation.

Data, augmentation, optimiser and durations are those of configs/hsic.py:backprop; only the network differs. Han et al.
2023 (doi:10.12677/sea.2023.122019) compare their network with AlexNet, Inception v2 and ResNet-50 in this way (fig. 15,
table 1).

  python -m fer_jax.main --config=configs/baselines.py:resnet50               # FER2013, for a GPU
  python -m fer_jax.main --config=configs/baselines.py:resnet50,small --config.budget_minutes=8   # two CPU cores
  python -m fer_jax.main --config=configs/baselines.py:mini_xception,demo     # minutes, built-in data

A variant is the name of a network, optionally with "small" (narrower, shorter run) or "demo" (the same network
on the built-in faces). VGG-19 uses batch normalisation, as is usual today. AlexNet has none and may need a lower
learning rate than the common 0.005: --config.phases.backprop.optimizer.learning_rate=0.0005.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import hsic
from fer_jax.config import complete

SIZES = ("small", "demo")


class Baseline(NamedTuple):
  """Settings of a network.

  Attributes:
    model: Value of `config.model`.
    small_changes: Changes to it for two CPU cores.
  """

  model: dict[str, Any]
  small_changes: dict[str, Any]


BASELINES = {
  "alexnet": Baseline({"name": "alexnet"}, {"hidden": 512}),
  "bn_inception": Baseline({"name": "bn_inception"}, {"stem": "imagenet"}),
  "resnet18": Baseline({"name": "resnet", "depth": 18}, {"width": 16, "stem": "imagenet"}),
  "resnet34": Baseline({"name": "resnet", "depth": 34}, {"width": 16, "stem": "imagenet"}),
  "resnet50": Baseline({"name": "resnet", "depth": 50}, {"width": 16}),
  "vgg19": Baseline({"name": "vgg", "depth": 19, "batch_norm": True}, {"width": 16, "hidden": 512}),
  "se_resnet18": Baseline({"name": "resnet", "depth": 18, "squeeze_excite": True}, {"width": 16}),
  "densenet121": Baseline({"name": "densenet"}, {"growth": 12, "stem": "imagenet"}),
  "mobilenet_v3": Baseline({"name": "mobilenet_v3"}, {"size": "small"}),
  "mini_xception": Baseline({"name": "mini_xception"}, {}),
  "xception": Baseline({"name": "xception"}, {"width": 8}),
}


def get_config(variant: str = "") -> ConfigDict:
  """Returns the config of a network in BASELINES, optionally with one of SIZES, separated by a comma."""
  parts = [word for word in variant.split(",") if word]
  names = [word for word in parts if word not in SIZES]
  sizes = [word for word in parts if word in SIZES]
  if len(names) != 1 or names[0] not in BASELINES or len(sizes) > 1:
    raise ValueError(
      f"configs/baselines.py has no variant {variant!r}: expected one of {', '.join(BASELINES)}, "
      f"alone or with ,{' or ,'.join(SIZES)}"
    )
  baseline = BASELINES[names[0]]
  config = hsic.get_config(",".join([*sizes, "backprop"]))
  config.model = {**baseline.model, **(baseline.small_changes if sizes else {})}
  return complete(config)
