"""Deep residual network with 6n + 2 layers on KDEF and CK+, and its plain counterpart, with ten-fold cross-validation.

Lu, Zhu, Hao & Yan, "Facial Expression Recognition Based on Deep Residual Network", after He et al. 2016
(arXiv:1512.03385). Figure 9 compares 20 to 74 layers with and without shortcut branches; table 4 is for 74 layers with
shortcuts.

  python -m fer_jax.main --config=configs/resnet.py               # 74 layers, ten folds over images, for a GPU
  python -m fer_jax.main --config=configs/resnet.py:subjects      # the same, with folds over people
  python -m fer_jax.main --config=configs/resnet.py:depth=20,kind=plain,folds=10
  python -m fer_jax.main --config=configs/resnet.py:small,subjects,single     # one fold, two CPU cores
  python -m fer_jax.main --config=configs/resnet.py:demo          # minutes, drawn people, nothing to prepare

Variants, joined by commas:
  depth=N, kind=residual|plain, folds=N   depth 6n + 2, with or without shortcut branches, and number of folds
  images, groups, subjects, one_subject_out   unit that is never split between training and test. "images" is the
            paper's and the default: KDEF has ten images of each person's expression, so nearly every test image has a
            close relative in training. "groups" keeps a sequence or pose together. "subjects" keeps a person together,
            which is the only way to measure performance on unseen people
  first4    the first convolution has 4 channels, as printed
  transfer  fine-tune the network shipped with the package, which was trained on FER2013, at 48 pixels
  small     48 pixels, narrow network and short runs, for a CPU
  demo      small network and three folds over drawn people
  single    only one fold, config.folds.number

As printed: cross-entropy in batches of 24, images of 128 pixels, horizontal mirroring as the only augmentation, kernels
from N(0, sqrt(2 / fan-in)), classifier initialised to zero, ten folds stratified by class. The paper doubles the
training set by mirrored images; here each image is mirrored with probability 1/2 whenever it is read, so an epoch has
half as many steps. Unspecified in the paper: number of channels (here 16, 32, 64, as in He et al.), optimiser (here
Adam), learning rate (here 0.001 with cosine decay to zero), duration (here 60 epochs), and selection of the epoch of a
fold (here by a validation split: a tenth of the training part, split by the same unit as the folds).
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from configs import select_variants
from configs.fer2013 import transfer
from fer_jax.config import complete

FILE = "configs/resnet.py"
UNITS = ("images", "groups", "subjects", "one_subject_out")
VARIANTS = ("small", "demo", "first4", "single", *UNITS, "transfer")
KEYS = ("depth", "kind", "folds")  # variants of the form key=value

# Figure 9: mean accuracy over the ten folds in percent, by kind and depth.
FIG9 = {
  "residual": {20: 86.77, 38: 88.97, 56: 89.48, 74: 90.79},
  "plain": {20: 87.02, 38: 87.20, 56: 86.71, 74: 86.23},
}
# Diagonal of table 4: recall in percent of the residual network with 74 layers.
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
  "people appear in training and test. "
)
AS_HERE = "The same applies here; the variant `subjects` separates people."
NOT_HERE = "Here fewer people or none are shared: a figure below the paper's is little evidence against the network."


def get_config(variant: str = "") -> ConfigDict:
  """Returns the config for a comma-separated list of VARIANTS, and of KEYS with values, such as depth=20.

  Raises:
    ValueError: A variant is unknown, repeated or contradicts another.
  """
  items = [item for item in variant.split(",") if item]
  values = dict(item.split("=", 1) for item in items if item.startswith(tuple(f"{key}=" for key in KEYS)))
  words = [item for item in items if item.partition("=")[0] not in values]
  selected = select_variants(",".join(words), (*VARIANTS, *(f"{key}=..." for key in KEYS)), FILE)
  if len(words) + len(values) < len(items) or len(set(selected) & set(UNITS)) > 1:
    raise ValueError(f"{FILE}:{variant}: repeated variants: expected one of {', '.join(UNITS)}, and each key once")
  config = _default()
  for name in selected:
    _APPLY[name](config)
  if "transfer" not in selected:
    config.model.depth = _number(values, "depth", config.model.depth)
    config.model.kind = values.get("kind", config.model.kind)
  elif {"depth", "kind"} & values.keys():
    raise ValueError(f"{FILE}:{variant}: the shipped network has a fixed depth; expected no depth and no kind")
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
  config.replica_strategy = "loop"  # on a CPU, convolutions under vmap are two to four times slower
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
  config.phases.whole.optimizer.learning_rate = 1e-2  # higher, for a small network and few steps


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
  """Adds the figures of the paper to the config, if it reports any for this network and dataset."""
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


_APPLY = dict(zip(VARIANTS, (_small, _demo, _first4, _single, *map(_by, UNITS), transfer), strict=True))
