"""FER2013 on two CPU cores: one recipe for every network of this project, and a long run of the best one.

  python -m fer_jax.main --config=configs/fer2013.py                    # 60 epochs: three hours of CPU time
  python -m fer_jax.main --config=configs/fer2013.py:league,densenet    # 30 minutes of processor time
  python -m fer_jax.main --config=configs/fer2013.py:demo               # built-in faces, a minute

Variants, joined by commas:
  league    short recipe that compares networks at equal processor time
  demo      a few steps on the built-in faces
  NAME      a network of NETWORKS instead of the default one

docs/results.md contains the table of the league and the selection of the recipe; docs/model_card.md describes the
network that the package ships.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import select_variants
from fer_jax.config import complete

FILE = "configs/fer2013.py"
# Widths are chosen for 48x48 pixels and two CPU cores. The time per epoch is not measured yet.
NETWORKS: dict[str, dict[str, Any]] = {
  "resnet20": {"name": "cifar_resnet", "depth": 20},
  "plain20": {"name": "cifar_resnet", "depth": 20, "kind": "plain"},
  "resnet74": {"name": "cifar_resnet", "depth": 74, "width": 8},
  "plain74": {"name": "cifar_resnet", "depth": 74, "width": 8, "kind": "plain"},
  "ca_resnet": {"name": "ca_resnet", "width": 32, "halve": False},
  "bilinear": {"name": "bilinear", "depth": 18, "width": 24},
  "bilinear_gc": {"name": "bilinear", "depth": 18, "width": 24},
  "hsic_dense": {"name": "hsic_dense", "convs": 4, "growth": 32, "stem": 32, "transition": 64, "head_grid": 3},
  "separable_se": {"name": "separable_se", "width": 8, "residual": True},
  "two_channel": {"name": "two_channel", "width": 8, "residual": True},
  "mini_xception": {"name": "mini_xception"},
  "resnet18": {"name": "resnet", "depth": 18, "stem": "strided", "width": 32},
  "se_resnet18": {"name": "resnet", "depth": 18, "stem": "strided", "width": 32, "squeeze_excite": True},
  # Wider, with fewer blocks in the stages that have most parameters: 2.66 M parameters.
  "se_resnet": {
    "name": "resnet",
    "depth": 18,
    "stem": "strided",
    "width": 40,
    "squeeze_excite": True,
    "blocks": (2, 3, 2, 1),
  },
  "vgg13": {"name": "vgg", "depth": 13, "batch_norm": True, "width": 16, "hidden": 256},
  "densenet": {"name": "densenet", "growth": 12, "stem": "imagenet"},
  "mobilenet_v3": {"name": "mobilenet_v3", "size": "small"},
}
DEFAULT = "se_resnet"  # the network in the package
VARIANTS = ("league", "demo", *NETWORKS)


def get_config(variant: str = "") -> ConfigDict:
  """Returns the config for a comma-separated list of VARIANTS, with at most one network.

  Raises:
    ValueError: A variant is unknown, or there are several networks.
  """
  selected = select_variants(variant, VARIANTS, FILE)
  networks = [name for name in selected if name in NETWORKS]
  if len(networks) > 1:
    raise ValueError(f"{FILE}:{variant}: expected one network, not {' and '.join(networks)}")
  (network,) = networks or [DEFAULT]
  config = _default()
  config.model = dict(NETWORKS[network])
  if network == "bilinear_gc":
    config.phases.whole.optimizer.centralize = "gradient"
  if "league" in selected:
    _league(config)
  if "demo" in selected:
    _demo(config)
  return complete(config)


def _default() -> ConfigDict:
  config = ConfigDict()
  config.batch_size = 128
  config.duration = "60 epochs"
  config.evaluate_every = "2 epochs"
  config.checkpoint_every = "1 epoch"
  config.log_every = "20 steps"
  config.views = "flip"
  config.clock = "cpu"
  config.data = {"name": "fer2013", "labels": "ferplus_blend"}
  config.augmentation = {"flip": 0.5, "shift": 3, "rotation": (0.0, 15.0), "scale": (0.85, 1.15)}
  config.mixing = {"cutmix": 1.0, "probability": 0.5}
  config.schedule = ("whole",)
  config.phases = {
    "whole": {
      "objective": {"name": "backprop", "label_smoothing": 0.1},
      "optimizer": {
        "name": "sgd",
        "learning_rate": 0.1,
        "schedule": "cosine",
        "warmup": 0.02,
        "weight_decay": 5e-4,
        "coupled_decay": True,
      },
      "average": 0.999,
    },
  }
  return config


def transfer(config: ConfigDict) -> None:
  """Changes the config of a small dataset to fine-tune the shipped network: first its classifier, then all layers."""
  config.data.image_size = 48
  config.model = dict(NETWORKS[DEFAULT])
  config.pretrained = {"path": "default", "required": True}
  config.expansion = {}
  config.augmentation = _default().augmentation
  config.views = "flip"
  config.duration = "20 epochs"
  config.evaluate_every = "2 epochs"
  optimizer = {"name": "sgd", "schedule": "cosine", "weight_decay": 5e-4, "coupled_decay": True}
  objective = {"name": "backprop", "label_smoothing": 0.1}
  config.schedule = ("head", "whole")
  config.phases = {
    "head": {
      "objective": objective,
      "train": ("classifier",),
      "duration": 0.25,
      "optimizer": {**optimizer, "learning_rate": 0.05},
    },
    "whole": {"objective": objective, "duration": 0.75, "optimizer": {**optimizer, "learning_rate": 0.01}},
  }


def _league(config: ConfigDict) -> None:
  """Adapts the recipe to a short run: little augmentation, and a time budget."""
  config.data.labels = "original"  # as in the papers
  config.budget_minutes = 30.0
  config.duration = "30 epochs"
  config.evaluate_every = "1 epoch"
  config.augmentation = {"flip": 0.5, "shift": 3, "rotation": (0.0, 10.0)}
  config.mixing = {}
  config.phases.whole.optimizer.warmup = 0.05
  config.phases.whole.average = 0.998


def _demo(config: ConfigDict) -> None:
  config.data = {"name": "synthetic_faces"}
  config.batch_size = 64
  config.duration = "100 steps"
  config.evaluate_every = "50 steps"
  config.checkpoint_every = "100 steps"
