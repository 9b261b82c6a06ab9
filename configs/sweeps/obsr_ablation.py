"""Effect of each part of OBSR-Net on FER2013: Lyu et al. 2024 (Computer Systems & Applications 33(11)), table 5.

  python launch/sweep.py configs/sweeps/obsr_ablation.py:imagenet=resnet34-b627a593.pth    # as in the paper
  python launch/sweep.py configs/sweeps/obsr_ablation.py                                   # without ImageNet's weights
  python launch/sweep.py configs/sweeps/obsr_ablation.py:small                             # two CPU cores

Without a file of weights, a ResNet is first trained on the soft votes of FER+ with each seed, and the rows start from
its parameters. They then have more updates and cleaner labels than the plain network; as a control, another row trains
the plain network for twice as long.
"""

from configs import obsr
from configs.sweeps import size_of
from fer_jax.config.sweep import Figure, Sweep

CONFIG = "configs/obsr.py"
VOTES_NAME, FULL_NAME = "ResNet on FER+ votes", "+ gradient centralization (OBSR-Net)"
# Rows of table 5 except the first -> variant of configs/obsr.py.
VARIANTS = {"+ pretrained": "pretrained", "+ bilinear": "bilinear", FULL_NAME: ""}
# Size -> duration of the control run.
DOUBLED_DURATION = {"": "400 epochs", "small": "6 epochs", "demo": "24 steps"}


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`, optionally with "imagenet=FILE", separated by a comma."""
  parts = [word for word in variant.split(",") if word]
  files = [word.removeprefix("imagenet=") for word in parts if word.startswith("imagenet=")]
  name = ",".join(word for word in parts if not word.startswith("imagenet="))
  size = size_of(name)
  if name != "demo":
    size = size._replace(overrides=(), seeds=(0, 1, 2))  # the duration of configs/obsr.py
  weights = tuple(f"--config.pretrained.path={file}" for file in files)
  doubled_duration = (f"--config.duration={DOUBLED_DURATION[name]}",)
  replacement_candidates = (
    size.candidate(VOTES_NAME, CONFIG, "votes"),
    size.candidate("ResNet, twice as long", CONFIG, "resnet34", overrides=doubled_duration),
  )
  return Sweep(
    title="OBSR-Net, part by part",
    citation="Lyu et al. 2024, Computer Systems & Applications 33(11), 27-37, table 5",
    claim="Every part adds accuracy, 7.1 points in all: ImageNet's weights 3.7, bilinear pooling 1.3, gradient "
    "centralization 2.0.",
    candidates=(
      size.candidate("ResNet", CONFIG, "resnet34", reported=_printed("resnet34")),
      *(() if weights else replacement_candidates),
      *(
        size.candidate(
          title,
          CONFIG,
          variant_name,
          weights,
          reported=_printed(variant_name),
          init_from="" if weights else VOTES_NAME,
        )
        for title, variant_name in VARIANTS.items()
      ),
    ),
    figures=(Figure("curves", "validation accuracy"), Figure("points", "test accuracy")),
    reference=FULL_NAME,
  )


def _printed(variant_name: str) -> dict[str, float]:
  return {"test accuracy": obsr.TABLE5["fer2013"][variant_name] / 100}
