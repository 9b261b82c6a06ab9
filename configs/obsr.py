"""OBSR-Net: bilinear ResNet-34 with ImageNet weights, trained with gradient centralization.

Lyu et al. 2024, "Facial Expression Recognition via Optimized Bilinear ResNet34", Computer Systems & Applications
33(11), 27-37. The pretrained extractors are frozen while the new head is trained; then all layers are trained.

  python -m fer_jax.apps.fetch resnet34                                 # downloads ImageNet weights, prints their PATH
  python -m fer_jax.main --config=configs/obsr.py --config.pretrained.path=PATH    # FER2013, for a GPU
  python -m fer_jax.main --config=configs/obsr.py:votes                 # without ImageNet: pretrain on votes,
  python -m fer_jax.main --config=configs/obsr.py --config.pretrained.path=workdir/obsr_votes       # then fine-tune it
  python -m fer_jax.main --config=configs/obsr.py:small,scratch         # two CPU cores
  python -m fer_jax.main --config=configs/obsr.py:demo                  # minutes, built-in data, nothing to prepare

Variants, joined by commas:
  resnet34, pretrained, bilinear   first three rows of table 5: plain ResNet-34; with pretrained weights; with bilinear
                                   pooling. The fourth row, with gradient centralization, is the default
  votes    pretraining if the ImageNet weights are not available: plain ResNet on the soft votes of FER+
  scratch  any row with random initial weights
  ck_plus  CK+ with Adam instead of FER2013 with AdamW; ten folds over images, or over people with
           --config.folds.by=subjects (the paper does not specify how CK+ is split)
  small    width 16 and depth 18 on images of 48 pixels and short runs, for a CPU
  demo     small network on the built-in faces, with random initial weights

As printed: batches of 16, learning rate 1e-4, 200 epochs, cross-entropy. Unspecified in the paper: resizing from 48 to
224 pixels (here bilinear), augmentation (here mirroring and shifts), parameters with weight decay (here the kernels,
with AdamW's usual 0.01), and duration of the phase that trains only the head (here a twentieth of the run).
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from configs import select_variants
from fer_jax.config import complete

VARIANTS = ("ck_plus", "small", "demo", "resnet34", "pretrained", "bilinear", "votes", "scratch")

# Table 5: accuracy in percent, by dataset and variant, in the order of the rows.
TABLE5 = {
  "fer2013": {"resnet34": 70.55, "pretrained": 74.29, "bilinear": 75.61, "": 77.65},
  "ck_plus": {"resnet34": 97.81, "pretrained": 97.98, "bilinear": 98.31, "": 98.82},
}
# Tables 1 and 2: precision, recall and F1 of each class for the complete system.
CLASSES = {
  "fer2013": {
    "angry": (0.870, 0.790, 0.828),
    "disgust": (0.934, 0.864, 0.898),
    "fear": (0.835, 0.773, 0.803),
    "happy": (0.879, 0.880, 0.879),
    "sad": (0.481, 0.616, 0.540),
    "surprise": (0.761, 0.844, 0.800),
    "neutral": (0.617, 0.667, 0.641),
  },
  "ck_plus": {
    "angry": (1.0, 1.0, 1.0),
    "disgust": (1.0, 1.0, 1.0),
    "fear": (1.0, 1.0, 1.0),
    "happy": (1.0, 1.0, 1.0),
    "sad": (1.0, 1.0, 1.0),
    "surprise": (1.0, 0.953, 0.976),
    "contempt": (0.818, 1.0, 0.9),
  },
}
NOTES = {
  "fer2013": "77.65 % on the private test set has not been reproduced. In table 1, disgust (55 test images) is the "
  "best class and sad the worst; elsewhere the order differs.",
  "ck_plus": "The split is random over images, the last three of each sequence: near-identical frames of one person "
  "are in both training and test.",
}


def get_config(variant: str = "") -> ConfigDict:
  """Returns the config for a comma-separated list of VARIANTS."""
  selected = select_variants(variant, VARIANTS, "configs/obsr.py")
  config = _default()
  for name in selected:
    _APPLY[name](config)
  _compare(config, selected)
  return complete(config)


def _default() -> ConfigDict:
  config = ConfigDict()
  config.batch_size = 16
  config.duration = "200 epochs"
  config.log_every = "100 steps"
  config.data = {"name": "fer2013", "image_size": 224}
  config.model = {"name": "bilinear", "depth": 34, "stem": "imagenet", "width": 64}
  config.pretrained = {"required": True}
  config.augmentation = {"flip": 0.5, "shift": 16}
  config.schedule = ("head", "whole")
  config.phases = {
    "head": {
      "objective": {"name": "backprop"},
      "train": ("classifier",),
      "duration": 0.05,
      "optimizer": _optimizer(1e-3),
    },
    "whole": {
      "objective": {"name": "backprop"},
      "train": ("*",),
      "duration": 0.95,
      "optimizer": _optimizer(1e-4),
    },
  }
  return config


def _optimizer(learning_rate: float) -> dict[str, str | float]:
  return {
    "name": "adamw",
    "learning_rate": learning_rate,
    "schedule": "constant",
    "weight_decay": 0.01,
    "centralize": "direction",
  }


def _ck_plus(config: ConfigDict) -> None:
  config.data.name = "ck_plus"
  config.folds = {"by": "images", "count": 10}
  config.replicas = 0
  for phase in config.phases.values():
    phase.optimizer.update({"name": "adam", "weight_decay": 0.0})


def _small(config: ConfigDict) -> None:
  config.batch_size = 32
  config.duration = "3 epochs"
  config.log_every = "20 steps"
  config.data.image_size = 0
  config.model.update({"depth": 18, "width": 16})
  config.augmentation.shift = 3
  for phase in config.phases.values():
    phase.optimizer.update({"learning_rate": 3e-3, "schedule": "cosine", "warmup": 0.05})


def _demo(config: ConfigDict) -> None:
  _small(config)
  config.data = {"name": "synthetic_faces"}
  config.model.width = 8
  config.duration = "600 steps"
  config.evaluate_every = "100 steps"
  config.checkpoint_every = "100 steps"
  config.log_every = "10 steps"
  config.pretrained.required = False


def _resnet34(config: ConfigDict) -> None:
  _pretrained(config)
  _scratch(config)


def _pretrained(config: ConfigDict) -> None:
  model = config.model
  config.model = {"name": "resnet", "depth": model.depth, "stem": model.stem, "width": model.width}
  _bilinear(config)


def _bilinear(config: ConfigDict) -> None:
  for phase in config.phases.values():
    phase.optimizer.centralize = ""


def _votes(config: ConfigDict) -> None:
  _resnet34(config)
  if config.data.name == "fer2013":
    config.data.labels = "ferplus_soft"


def _scratch(config: ConfigDict) -> None:
  """Removes the pretrained weights, and with them the phase that trains only the head."""
  config.pretrained.required = False
  config.schedule = ("whole",)
  config.phases = {"whole": {**config.phases.whole.to_dict(), "duration": 1.0}}


def _compare(config: ConfigDict, selected: Sequence[str]) -> None:
  """Adds the figures of the paper to the config, if it reports any for this row and dataset."""
  row = next((name for name in ("resnet34", "pretrained", "bilinear") if name in selected), "")
  dataset = config.data.name
  if "votes" in selected or dataset not in TABLE5:
    return
  config.paper = {
    "title": "Lyu et al. 2024, OBSR-Net" + (f", the row {row} of table 5" if row else ""),
    "reference": "Computer Systems & Applications 33(11), 27-37",
    "reported": {"test accuracy": TABLE5[dataset][row] / 100},
    "by_class": {} if row else CLASSES[dataset],
    "note": NOTES[dataset],
  }


_APPLY = dict(
  zip(VARIANTS, (_ck_plus, _small, _demo, _resnet34, _pretrained, _bilinear, _votes, _scratch), strict=True)
)
