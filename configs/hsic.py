"""The HSIC bottleneck: a dense network with a feature pyramid, trained with local losses.

Han et al. 2023, "Facial expression recognition based on convolutional neural network" (doi:10.12677/sea.2023.122019),
after Ma, Lewis & Kleijn 2019 (arXiv:1908.01580). Training has two phases. In the first, hidden layers have local
losses: the dependence of their activations on the label and on the input. In the second, only the attentive classifier
is trained, on frozen features. docs/hsic.md has the measurements that led to the default.

  python -m fer_jax.main --config=configs/hsic.py              # 7 M parameters, FER2013, for a GPU
  python -m fer_jax.main --config=configs/hsic.py:small --config.budget_minutes=8     # for two CPU cores
  python -m fer_jax.main --config=configs/hsic.py:demo         # minutes, built-in data, nothing to prepare

Variants, joined by commas:
  paper     7 M parameters and the printed objective: trace, Gaussian kernel, beta 100, Adam at 0.005 without a schedule
  small     0.17 M parameters and short runs, for a CPU
  demo      small network on the built-in faces
  layerwise every layer learns from its own loss alone, in its plain form: less accurate
  backprop  same network and data, trained by back-propagation of the cross-entropy

By default only the first block has local losses. It has about two thirds of the multiplications and of the activations.
Each loss trains its layer and the earlier layers of the block, and no gradient enters the block from
later layers. The other blocks and the pyramid form a unit with the classifier, trained by its cross-entropy. The kernel
of every layer of the first block is learned, by two dense layers between the layer and its loss that are not used at
inference, and the losses read every second row and column of its feature maps.

The default differs from `paper` where the printed form does not learn. After batch normalisation, the trace form with a
Gaussian kernel can be lowered by moving all rows together or all rows apart, independently of the label. Centred kernel
alignment (CKA) of centred, pooled, cosine-normalised activations is scale-invariant. A label kernel with equal weight
per class preserves the signal of disgust (1.5 % of FER2013). Alignment over a grid preserves positions, which global
average pooling discards; the classifier therefore reads a 3x3 grid of each pyramid level. It is trained from the first
phase on, so validation accuracy is meaningful from the first epoch.
"""

from ml_collections import ConfigDict

from configs import select_variants
from fer_jax.config import complete

VARIANTS = ("paper", "small", "demo", "layerwise", "backprop")


def get_config(variant: str = "") -> ConfigDict:
  """Returns the config for a comma-separated list of VARIANTS."""
  config = _default()
  for name in select_variants(variant, VARIANTS, "configs/hsic.py"):
    _APPLY[name](config)
  return complete(config)


def _default() -> ConfigDict:
  config = ConfigDict()
  config.seed = 0
  config.batch_size = 128
  config.eval_batch_size = 256
  config.duration = "10000 steps"
  config.evaluate_every = "2 epochs"
  config.checkpoint_every = "1 epoch"
  config.log_every = "20 steps"
  config.precision = "float32"
  config.budget_minutes = 0.0
  config.data = {"name": "fer2013", "data_dir": "", "labels": "original"}
  config.model = {"name": "hsic_dense", "blocks": 3, "convs": 5, "growth": 128, "head_grid": 3, "activation": "relu"}
  config.augmentation = {"flip": 0.5, "shift": 4}
  config.schedule = ("bottleneck", "deepening")
  config.phases = {
    "bottleneck": {
      "objective": {
        "name": "hsic_bottleneck",
        "measure": "cka",
        "kernel": "cosine",
        "sigma": (5.0,),
        "beta": 100.0,
        "balanced": True,
        "grid": 3,
        "head_layers": 2,
        "head_features": 256,
        "sampling": 2,
        "group": "block",
        "unit": "block",
        "classifier_blocks": 3,
      },
      "train": ("*",),
      "duration": 0.9,
      "optimizer": _adamw(5e-3, 1e-4),
    },
    "deepening": {
      "objective": {"name": "backprop"},
      "train": ("classifier",),
      "duration": 0.1,
      "optimizer": _adamw(1e-3, 1e-4),
    },
  }
  config.paper = {
    "title": "Han et al. 2023, non-back-propagation dense network",
    "reference": "doi:10.12677/sea.2023.122019",
    "reported": {"test accuracy": 0.97, "seconds a step": 0.049286, "parameters": 7e6},
    "note": "0.97 on FER2013 is far above every other published result (73 to 76 % for the best single networks) and "
    "has not been reproduced; the seconds are for an RTX 2080 at batch 128.",
  }
  return config


def _adamw(learning_rate: float, weight_decay: float) -> dict[str, str | float]:
  # The gradient norm is usually 20 to 70. Without clipping, a rare spike in one layer inflates Adam's second moment
  # and stalls the layer for hundreds of steps (docs/hsic_dense.md).
  return {
    "name": "adamw",
    "learning_rate": learning_rate,
    "schedule": "cosine",
    "warmup": 0.02,
    "weight_decay": weight_decay,
    "clip_norm": 100.0,
  }


def _layerwise(config: ConfigDict) -> None:
  config.phases.bottleneck.objective.update(
    {"grid": 6, "head_layers": 0, "sampling": 1, "group": "triple", "unit": "layer", "classifier_blocks": 0}
  )


def _paper(config: ConfigDict) -> None:
  _layerwise(config)
  config.augmentation = {"flip": 0.0, "shift": 0}
  config.model.head_grid = 1
  adam = {"name": "adam", "learning_rate": 0.005, "schedule": "constant"}
  bottleneck, deepening = config.phases.bottleneck, config.phases.deepening
  bottleneck.objective.update({"measure": "trace", "kernel": "gaussian", "balanced": False, "grid": 0})
  bottleneck.train = ("block*", "pyramid*")
  bottleneck.optimizer = adam
  deepening.optimizer = adam


def _small(config: ConfigDict) -> None:
  config.model.update({"convs": 4, "growth": 16, "stem": 32, "transition": 48, "pyramid": 32})
  config.duration = "1500 steps"


def _demo(config: ConfigDict) -> None:
  config.data = {"name": "synthetic_faces", "data_dir": "", "labels": "original"}
  config.model.update({"convs": 3, "growth": 16, "stem": 24, "transition": 32, "pyramid": 32})
  config.augmentation = {"flip": 0.5, "shift": 2}
  config.duration = "300 steps"
  config.evaluate_every = "100 steps"
  config.checkpoint_every = "100 steps"
  config.log_every = "10 steps"
  del config.paper


def _backprop(config: ConfigDict) -> None:
  optimizer = config.phases.bottleneck.optimizer
  config.schedule = ("backprop",)
  config.phases = {
    "backprop": {
      "objective": {"name": "backprop"},
      "train": ("*",),
      "duration": 1.0,
      "optimizer": optimizer.to_dict(),
    }
  }
  if "paper" in config:
    del config.paper


_APPLY = dict(zip(VARIANTS, (_paper, _small, _demo, _layerwise, _backprop), strict=True))
