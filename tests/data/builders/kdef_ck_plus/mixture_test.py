"""Class counts of the mixture, computed from the published counts without images."""

import pathlib
from collections import Counter

import pytest

from fer_jax.data.builders.kdef_ck_plus import mixture
from fer_jax.data.builders.photographs import Photograph, ReaderResult
from fer_jax.runtime.errors import UserError

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
# The paper's tables 1, 2 and 3.
KDEF = dict(zip(CLASSES, (700, 700, 700, 700, 699, 699, 700), strict=True))
CK_PLUS = dict(zip(CLASSES, (45, 59, 25, 69, 28, 83, 0), strict=True))
MIXED = dict(zip(CLASSES, (740, 750, 720, 760, 720, 780, 700), strict=True))


def found(dataset: str, counts: dict[str, int]) -> ReaderResult:
  """Returns a reader's result with the given counts; the file numbers alternate between the classes."""
  rows = sorted((number, label) for label, count in counts.items() for number in range(count))
  photographs = tuple(
    Photograph(f"{dataset}/{position:04d}", label, f"P{number % 7}", f"{number}", bytes)
    for position, (number, label) in enumerate(rows)
  )
  origin = {"form": "", "path": "", "contents": dataset, "sha256": dataset}
  return ReaderResult(photographs, origin, "photograph", {"": (0.5, 0.5, 0.5)})


def mixed(kdef=KDEF, ck_plus=CK_PLUS, cut=True) -> ReaderResult:
  return mixture.mix(found("KDEF", kdef), found("CK+", ck_plus), pathlib.Path("x"), cut=cut)


def test_published_counts_give_table_3_of_the_paper():
  whole = mixed()
  assert whole.counts() == Counter(MIXED)
  assert len(whole.photographs) == 5170
  (line,) = whole.warnings
  assert line.startswith("37 left out to make every class a multiple of ten")
  assert line.count("CK+/") == 37
  assert whole.comparison[1:] == (
    *(f"{label:<10}{count:>6}{count:>8}" for label, count in MIXED.items()),
    f"{'total':<10}{5170:>6}{5170:>8}",
  )


def test_last_files_of_ck_plus_are_left_out():
  kdef, ck_plus = found("KDEF", KDEF), found("CK+", CK_PLUS)
  left_out = mixture.surplus(kdef.photographs, ck_plus.photographs)
  assert Counter(photograph.label for photograph in left_out) == Counter(
    {"angry": 5, "disgust": 9, "fear": 5, "happy": 9, "sad": 7, "surprise": 2}
  )
  for label in CLASSES:
    files = sorted(photograph.file for photograph in ck_plus.photographs if photograph.label == label)
    dropped = sorted(photograph.file for photograph in left_out if photograph.label == label)
    assert dropped == files[len(files) - len(dropped) :]


def test_last_files_of_kdef_are_left_out_where_ck_plus_has_too_few():
  kdef, ck_plus = found("KDEF", {"angry": 16}), found("CK+", {"angry": 3})
  left_out = mixture.surplus(kdef.photographs, ck_plus.photographs)
  expected = [f"CK+/{number:04d}" for number in range(3)] + [f"KDEF/{number:04d}" for number in range(10, 16)]
  assert sorted(photograph.file for photograph in left_out) == expected


def test_no_files_are_left_out_of_the_whole_mixture():
  whole = mixed(cut=False)
  assert whole.counts() == Counter({label: KDEF[label] + CK_PLUS[label] for label in CLASSES})
  assert not whole.warnings
  lines = dict(line.split(maxsplit=1) for line in whole.comparison[1:-1])
  assert lines["angry"].split(maxsplit=2) == ["745", "740", "not cut to a multiple of ten"]
  assert lines["neutral"].split() == ["700", "700"]


def test_comparison_explains_differing_counts():
  lines = mixed(kdef=KDEF | {"sad": 690}, ck_plus=CK_PLUS | {"fear": 0}).comparison
  by_class = dict(line.split(maxsplit=1) for line in lines[1:])
  assert by_class["sad"].split(maxsplit=2) == ["710", "720", "KDEF has 690, the paper has 699"]
  assert by_class["fear"].split(maxsplit=2) == ["700", "720", "CK+ has 0, the paper has 25"]
  assert by_class["angry"].split() == ["740", "740"]
  assert by_class["total"].split() == ["5140", "5170"]


def test_subjects_and_groups_are_prefixed_with_their_dataset():
  whole = mixed()
  assert {photograph.subject[:-1] for photograph in whole.photographs} == {"KDEF-P", "CK-P"}
  for photograph in whole.photographs:
    prefix = "CK-" if photograph.file.startswith("CK+") else "KDEF-"
    assert photograph.subject.startswith(prefix) and photograph.group.startswith(prefix)
  assert set(whole.fixed_squares) == {"KDEF-", "CK-"}


def test_rejects_fewer_than_ten_images_in_every_class():
  with pytest.raises(UserError, match="no class has ten images.*kdef_ck_plus/whole, which leaves no images out"):
    mixed(kdef={"angry": 5}, ck_plus={"angry": 4})
