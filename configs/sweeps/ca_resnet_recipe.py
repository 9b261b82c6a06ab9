"""Ablation of our recipe for FER2013: each run removes, replaces or adds one part.

  python launch/sweep.py configs/sweeps/ca_resnet_recipe.py           # three seeds, for a GPU
  python launch/sweep.py configs/sweeps/ca_resnet_recipe.py:small     # narrow, halved images, 400 steps, two CPU cores
  python launch/sweep.py configs/sweeps/ca_resnet_recipe.py:demo      # built-in faces, a few steps

Regularisation hampers a short run and helps a long one, so only the full size is a guide for the recipe.
"""

from configs.ca_resnet import FILE
from configs.sweeps import size_of
from fer_jax.config.sweep import Figure, Sweep

PHASE = "--config.phases.whole"
HALVED_IMAGES = "halved images"
# Name of the run -> overrides of configs/ca_resnet.py:best.
ABLATIONS = {
  "without cutmix": ("--config.mixing.cutmix=0.0",),
  "mixup in its place": ("--config.mixing.cutmix=0.0", "--config.mixing.mixup=0.2"),
  "without averaged weights": (f"{PHASE}.average=0.0",),
  "without label smoothing": (f"{PHASE}.objective.label_smoothing=0.0",),
  "without erasing": ("--config.augmentation.erase=0.0",),
  "without rotation and scale": ("--config.augmentation.rotation=(0.0, 0.0)", "--config.augmentation.scale=(1.0, 1.0)"),
  "without shift": ("--config.augmentation.shift=0",),
  HALVED_IMAGES: ("--config.model.halve=True",),
  "AdamW": (
    f"{PHASE}.optimizer.name=adamw",
    f"{PHASE}.optimizer.learning_rate=0.001",
    f"{PHASE}.optimizer.weight_decay=0.05",
    f"{PHASE}.optimizer.coupled_decay=False",
  ),
  "one cycle": (f"{PHASE}.optimizer.schedule=one_cycle", f"{PHASE}.optimizer.warmup=0.0"),
  "gradient centralization": (f"{PHASE}.optimizer.centralize=gradient",),
  "focal loss, gamma 2": (f"{PHASE}.objective.loss=focal",),
  "eq. 4 of the paper": (f"{PHASE}.objective.loss=focal_one_vs_rest",),
  "without duplicates of the test images": ("--config.data.drop=train_duplicates",),
}


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size = size_of(variant)
  recipe = "our recipe"
  ablations = dict(ABLATIONS)
  common_overrides = (
    (*ablations.pop(HALVED_IMAGES), "--config.views=single") if variant else ()
  )  # cheaper, for two CPU cores
  return Sweep(
    title="Our recipe, part by part",
    citation="ours",
    claim="Not from a paper: effect of each choice of our recipe on validation accuracy.",
    candidates=(
      size.candidate(recipe, FILE, "best", common_overrides),
      *(size.candidate(name, FILE, "best", (*common_overrides, *overrides)) for name, overrides in ablations.items()),
    ),
    figures=(Figure("points", "validation accuracy"), Figure("points", "test accuracy")),
    reference=recipe,
  )
