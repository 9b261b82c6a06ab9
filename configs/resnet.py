"""The deep residual network of 6n + 2 layers on KDEF and CK+, and its plain twin, by ten-fold cross-validation.

Lu, Zhu, Hao & Yan, "Facial Expression Recognition Based on Deep Residual Network", after He et al. 2016
(arXiv:1512.03385). Figure 9 compares 20 to 74 layers with and without the shortcut branches; table 4 is of 74 with.

  python -m fer_jax.main --config=configs/resnet.py               # 74 layers, ten folds over images, for a GPU
  python -m fer_jax.main --config=configs/resnet.py:subjects      # the same, and nobody is in training and test
  python -m fer_jax.main --config=configs/resnet.py:depth=20,kind=plain,folds=10
  python -m fer_jax.main --config=configs/resnet.py:small,subjects,single     # one fold, two CPU cores
  python -m fer_jax.main --config=configs/resnet.py:demo          # minutes, drawn people, nothing to prepare

Variants, joined by commas:
  depth=N, kind=residual|plain, folds=N   the depth 6n + 2, with shortcut branches or without, the number of folds
  images, groups, subjects, one_subject_out   what is never on both sides of a fold. "images" is the paper's, and the
            default: KDEF has ten pictures of a person's expression, so that nearly every test image has a close
            relative in training. "groups" keeps a sequence, or a pose, together, "subjects" a person: the honest form
  first4    the first convolution has 4 channels, as printed
  transfer  in place of all that: the network of the package, which knows FER2013, fine-tuned at 48 pixels
  small     48 pixels, narrow and short, for a CPU
  demo      a little network and three folds over drawn people
  single    one fold in the place of all: config.folds.number

As printed: cross-entropy in batches of 24, images of 128 pixels, a horizontal mirror as the only augmentation, kernels
from N(0, sqrt(2 / fan-in)), the classifier from zero, ten folds stratified by class. The paper doubles the training
set by its mirror images; here each image is mirrored with probability 1/2 whenever it is seen, so an epoch has half as
many steps. The paper does not say how many channels there are (here 16, 32, 64, as He et al.), which optimiser (here
Adam), at what learning rate (0.001, to zero by a cosine) or for how long (60 epochs), nor how a fold's epoch was
chosen: here a tenth of its training part is held out, by the same unit as the folds, to choose the parameters.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from configs import chosen_variants
from configs.fer2013 import transfer
from fer_jax.config import complete

FILE = "configs/resnet.py"
UNITS = ("images", "groups", "subjects", "one_subject_out")
VARIANTS = ("small", "demo", "first4", "single", *UNITS, "transfer")
KEYS = ("depth", "kind", "folds")  # with a value each, after the words

# Figure 9: mean accuracy in percent over the ten folds, by kind and depth.
FIG9 = {
  "residual": {20: 86.77, 38: 88.97, 56: 89.48, 74: 90.79},
  "plain": {20: 87.02, 38: 87.20, 56: 86.71, 74: 86.23},
}
# The diagonal of table 4: recall in percent, of the residual network of 74 layers.
TABLE4 = {
  "angry": 88.92,
  "disgust": 90.93,
  "fear": 82.22,
  "happy": 97.89,
  "sad": 86.39,
  "surprise": 92.69,
  "neutral": 96.14,
}
TABLE4_DEPTH = 74
NOTE = (
  "The paper's folds are drawn over images, and KDEF shows each person in two sessions from five angles: the same "
  "people stand in training and test. "
)
AS_HERE = "So they do here; the variant `subjects` keeps them apart."
NOT_HERE = "Here less is shared, or nothing: a lower figure than the paper's says little about the network."


def get_config(variant: str = "") -> ConfigDict:
  """Returns the config of a comma-separated list of VARIANTS and of KEYS with their values, such as depth=20."""
  items = [item for item in variant.split(",") if item]
  values = dict(item.split("=", 1) for item in items if item.startswith(tuple(f"{key}=" for key in KEYS)))
  words = [item for item in items if item.partition("=")[0] not in values]
  chosen = chosen_variants(",".join(words), (*VARIANTS, *(f"{key}=..." for key in KEYS)), FILE)
  if len(words) + len(values) < len(items) or len(set(chosen) & set(UNITS)) > 1:
    raise ValueError(f"{FILE}:{variant} says one thing twice: expected one of {', '.join(UNITS)}, and each key once")
  config = _default()
  for name in chosen:
    _MAKE[name](config)
  if "transfer" not in chosen:
    config.model.depth = _number(values, "depth", config.model.depth)
    config.model.kind = values.get("kind", config.model.kind)
  elif {"depth", "kind"} & values.keys():
    raise ValueError(f"{FILE}:{variant}: the network of the package has its own depth; expected no depth and no kind")
  config.folds.count = _number(values, "folds", config.folds.count)
  _compare(config)
  return complete(config)


def _default() -> ConfigDict:
  config = ConfigDict()
  config.batch_size = 24
  config.duration = "60 epochs"
  config.log_every = "20 steps"
  config.replicas = 0
  config.data = {"name": "kdef_ck_plus", "image_size": 128}
  config.folds = {"by": "images", "count": 10}
  config.model = {"name": "cifar_resnet", "depth": 74, "kind": "residual", "width": 16, "first": 0}
  config.augmentation = {"flip": 0.5, "shift": 0}
  config.schedule = ("whole",)
  config.phases = {
    "whole": {
      "objective": {"name": "backprop"},
      "optimizer": {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"},
    },
  }
  return config


def _small(config: ConfigDict) -> None:
  config.duration = "10 epochs"
  config.replica_strategy = "loop"  # on a CPU, always: a convolution side by side is two to four times slower
  config.data.image_size = 48
  config.model.update({"depth": 20, "width": 8})


def _demo(config: ConfigDict) -> None:
  config.duration = "20 epochs"
  config.replica_strategy = "loop"
  config.evaluate_every = "2 epochs"
  config.checkpoint_every = "2 epochs"
  config.data = {"name": "drawn_kdef_ck_plus", "image_size": 32}
  config.folds = {"by": "subjects", "count": 3}
  config.model.update({"depth": 8, "width": 8})
  config.phases.whole.optimizer.learning_rate = 1e-2  # a small network, and few steps


def _first4(config: ConfigDict) -> None:
  config.model.first = 4


def _single(config: ConfigDict) -> None:
  config.replicas = 1


def _by(unit: str) -> Callable[[ConfigDict], None]:
  return lambda config: config.folds.update({"by": unit})


def _number(values: Mapping[str, str], key: str, default: int) -> int:
  if key in values and not values[key].isdecimal():
    raise ValueError(f"{FILE}: {key}={values[key]}: expected a whole number")
  return int(values.get(key, default))


def _compare(config: ConfigDict) -> None:
  """Says what the paper reports, where it reports something."""
  depth, kind = config.model.depth, config.model.get("kind", "")
  if config.data.name != "kdef_ck_plus" or depth not in FIG9.get(kind, {}):
    return
  in_table4 = (kind, depth) == ("residual", TABLE4_DEPTH)
  config.paper = {
    "title": f"Lu, Zhu, Hao & Yan, the {kind} network of {depth} layers",
    "reported": {"test accuracy": round(FIG9[kind][depth] / 100, 4)},
    "by_class": {name: (round(recall / 100, 4),) for name, recall in TABLE4.items()} if in_table4 else {},
    "note": NOTE + (AS_HERE if config.folds.by == "images" else NOT_HERE),
  }


_MAKE = dict(zip(VARIANTS, (_small, _demo, _first4, _single, *map(_by, UNITS), transfer), strict=True))
