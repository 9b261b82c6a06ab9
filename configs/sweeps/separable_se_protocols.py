"""Separable network on three datasets, expanded before and after they are split: Li et al., table 4.

  python launch/sweep.py configs/sweeps/separable_se_protocols.py           # real photographs, three seeds; for a GPU
  python launch/sweep.py configs/sweeps/separable_se_protocols.py:small     # narrow networks, two CPU cores
  python launch/sweep.py configs/sweeps/separable_se_protocols.py:demo      # five folds of drawn people, two CPU cores

In the paper, a dataset is expanded by augmented copies and then split, so nearly every test image has copies in
training. In the honest protocol, it is split into ten folds over people, and then only the training part is expanded.
The difference between the two figures of a dataset is the effect of shared copies and shared people.
"""

from configs.separable_se import FILE, TABLE4
from configs.sweeps import SIZES, size_of
from fer_jax.config.sweep import Candidate, Figure, Sweep

TITLES = {"ck_plus": "CK+", "jaffe": "JAFFE", "oulu_casia": "Oulu-CASIA", "drawn": "drawn people"}
PROTOCOLS = {"paper": "as in the paper", "honest": "no person on both sides"}
# As many copies per image as in the paper; with fewer, the leak has little effect.
LARGE_EXPANSION = ("--config.expansion.factor=20", "--config.duration=4 epochs")
DEMO = {"paper": LARGE_EXPANSION, "honest": (*LARGE_EXPANSION, "--config.folds.count=5")}


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size_of(variant)
  datasets = ("drawn",) if variant == "demo" else tuple(TABLE4)
  return Sweep(
    title="Expanded before the split, and after it",
    citation="Li et al., depthwise separable convolution with squeeze and excitation, table 4",
    claim="After expansion, then splitting over images, 97.57 % on CK+, 96.24 % on JAFFE and 94.09 % on Oulu-CASIA.",
    candidates=tuple(_candidate(variant, dataset, protocol) for dataset in datasets for protocol in PROTOCOLS),
    figures=(Figure("points", "test accuracy", "As in the paper, test images have copies in training."),),
  )


def _candidate(variant: str, dataset: str, protocol: str) -> Candidate:
  size = SIZES[variant]
  demo = DEMO[protocol] if variant == "demo" else ()
  printed = protocol == "paper" and dataset in TABLE4
  return Candidate(
    f"{TITLES[dataset]}, {PROTOCOLS[protocol]}",
    f"{FILE}:{','.join(word for word in (dataset, protocol, variant) if word)}",
    demo,
    # A run over people is the mean over ten folds already, so one seed is enough.
    size.seeds if protocol == "paper" else size.seeds[:1],
    reported={"test accuracy": round(TABLE4[dataset] / 100, 4)} if printed else {},
  )
