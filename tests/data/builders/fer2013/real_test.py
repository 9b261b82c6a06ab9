"""The real FER2013, where a checkout has it beside the repository."""

import pathlib
import subprocess
import sys

import pytest

from fer_jax.data import arrays, builders
from fer_jax.data.audit import audit

REPOSITORY = pathlib.Path(__file__).resolve().parents[4]
DATA = REPOSITORY.parent / "shared" / "data" / "fer2013"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "make_csv.py").is_file(), reason=f"the real FER2013 is not in {DATA}")
def test_counts_duplicates_and_votes_of_the_real_dataset(tmp_path):
  subprocess.run([sys.executable, DATA / "make_csv.py", tmp_path, "--ferplus"], check=True, capture_output=True)
  builder = builders.prepare("fer2013", str(tmp_path / "data"), str(tmp_path))
  assert builder.info.metadata["warnings"] == []
  dataset = arrays.load("fer2013", str(tmp_path / "data"))
  counts = {
    split: [int((dataset.label[dataset.rows(split)] == label).sum()) for label in range(7)] for split in arrays.SPLITS
  }
  assert counts == {
    "train": [3995, 436, 4097, 7215, 4830, 3171, 4965],
    "validation": [467, 56, 496, 895, 653, 415, 607],
    "test": [491, 55, 528, 879, 594, 416, 626],
  }
  assert audit(dataset) == [
    "34034 distinct images in 35887 rows: 1516 appear more than once",
    "57 of these groups of duplicates have conflicting labels",
    "280 of the 3589 validation images also appear in train",
    "288 of the 3589 test images also appear in train",
    "12 images are constant (all pixels equal)",
  ]
  assert len(set(dataset.group.tolist())) == 34034
  ferplus = arrays.load("fer2013", str(tmp_path / "data"), labels="ferplus_hard")
  assert len(dataset) - len(ferplus) == 399
