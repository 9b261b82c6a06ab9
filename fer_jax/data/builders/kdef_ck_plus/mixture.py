"""Mixes KDEF with CK+'s last frames as in table 3 of the first paper, and compares the mixture with that table.

The table has 5,170 images, and the size of each class is a multiple of ten. The paper does not specify which surplus
images were left out. Here they are the last images of CK+ in the order of their files, then the last images of KDEF.
"""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

from fer_jax.data.builders import photographs
from fer_jax.data.builders.ck_plus import official_form, selection
from fer_jax.data.builders.ck_plus import source as ck_plus
from fer_jax.data.builders.kdef import source as kdef
from fer_jax.data.builders.photograph_builder import EXPRESSIONS
from fer_jax.data.builders.photographs import Photograph, ReaderResult
from fer_jax.runtime.errors import UserError

TABLE_3 = {"angry": 740, "disgust": 750, "fear": 720, "happy": 760, "sad": 720, "surprise": 780, "neutral": 700}


def read(folder: pathlib.Path, *, cut: bool) -> ReaderResult:
  """Reads and mixes the two datasets.

  Args:
    folder: Folder that contains both trees, each at most a few levels below.
    cut: Whether to leave out images until the size of every class is a multiple of ten.

  Returns:
    The images of KDEF, then those of CK+. Subjects and groups begin with "KDEF-" or "CK-".

  Raises:
    UserError: One of the datasets is missing or invalid.
  """
  images = official_form.find_images(folder)
  expected = f"both KDEF's folders (AF01/ ...) and CK+'s ({official_form.IMAGES}/ with Emotion/)"
  if images is None:
    raise photographs.not_found(folder, "CK+", expected)
  if kdef.find(folder) is None:
    raise photographs.not_found(folder, "KDEF", expected)
  return mix(kdef.read(folder, channels=1), ck_plus.read_official(folder, images, selection.LAST), folder, cut=cut)


def mix(portraits: ReaderResult, frames: ReaderResult, folder: pathlib.Path, *, cut: bool) -> ReaderResult:
  """Mixes the images of KDEF and CK+.

  Args:
    portraits: Result of the reader of KDEF.
    frames: Result of the reader of CK+.
    folder: Folder that contains both datasets, for messages and `origin`.
    cut: Whether to leave out images until the size of every class is a multiple of ten.

  Returns:
    The images of KDEF, then those of CK+. Subjects and groups begin with "KDEF-" or "CK-".

  Raises:
    UserError: No class has ten images, so `cut` leaves no images.
  """
  portraits, frames = _prefixed(portraits, "KDEF-"), _prefixed(frames, "CK-")
  excluded = surplus(portraits.photographs, frames.photographs) if cut else []
  excluded_files = {photograph.file for photograph in excluded}
  remaining = tuple(
    photograph for photograph in (*portraits.photographs, *frames.photographs) if photograph.file not in excluded_files
  )
  if not remaining:
    raise UserError(
      f"--manual_dir={folder}: no class has ten images, expected at least ten of one class: prepare "
      "kdef_ck_plus/whole, which leaves no images out"
    )
  warnings = [*portraits.warnings, *frames.warnings]
  if excluded:
    warnings.append(
      f"{len(excluded)} left out to make every class a multiple of ten, as in the paper's table 3 (the paper does not "
      f"specify which): {', '.join(sorted(excluded_files))}"
    )
  return ReaderResult(
    photographs=remaining,
    origin={
      "form": "KDEF and CK+",
      "path": str(folder),
      "contents": f"KDEF: {portraits.origin['contents']}. CK+: {frames.origin['contents']}",
      "sha256": hashlib.sha256((portraits.origin["sha256"] + frames.origin["sha256"]).encode()).hexdigest(),
    },
    framing="photograph",
    fixed_squares={**portraits.fixed_squares, **frames.fixed_squares},
    rejects=(*portraits.rejects, *frames.rejects),
    warnings=tuple(warnings),
    comparison=tuple(comparison(portraits, frames, excluded)),
  )


def surplus(portraits: Sequence[Photograph], frames: Sequence[Photograph]) -> list[Photograph]:
  """Returns the images to leave out so that the size of every class is a multiple of ten.

  Args:
    portraits: Images of KDEF.
    frames: Images of CK+, which are left out before those of KDEF, the last in the order of their files first.
  """
  chosen = []
  for label in EXPRESSIONS:
    class_photographs = [
      photograph
      for source in (portraits, frames)
      for photograph in sorted(source, key=lambda photograph: photograph.file)
      if photograph.label == label
    ]
    # The last `len(class_photographs) % 10` images: CK+ comes second, so its images are left out first.
    chosen += class_photographs[len(class_photographs) // 10 * 10 :]
  return chosen


def comparison(portraits: ReaderResult, frames: ReaderResult, excluded: Sequence[Photograph]) -> list[str]:
  """Returns the lines of a table that compares the mixture with the paper's table 3.

  Args:
    portraits: Result of the reader of KDEF.
    frames: Result of the reader of CK+.
    excluded: Images of either dataset that are not in the mixture.

  Returns:
    One line per class, with the reasons for a difference.
  """
  kdef_counts, ck_plus_counts = portraits.counts(), frames.counts()
  cut = collections.Counter(photograph.label for photograph in excluded)
  counts, reasons = {}, {}
  for label in EXPRESSIONS:
    counts[label] = kdef_counts[label] + ck_plus_counts[label] - cut[label]
    differences = [
      f"{dataset} has {found[label]}, the paper has {published.get(label, 0)}"
      for dataset, found, published in (
        ("KDEF", kdef_counts, kdef.COUNTS),
        ("CK+", ck_plus_counts, selection.LAST.counts),
      )
      if found[label] != published.get(label, 0)
    ]
    if counts[label] % 10:
      differences.append("not cut to a multiple of ten")
    reasons[label] = "; ".join(differences)
  return photographs.count_table(counts, TABLE_3, "paper's table 3", reasons)


def _prefixed(found: ReaderResult, prefix: str) -> ReaderResult:
  """Returns `found` with a prefix on subjects and groups, so that those of the two datasets never coincide."""
  return dataclasses.replace(
    found,
    photographs=tuple(
      dataclasses.replace(photograph, subject=prefix + photograph.subject, group=prefix + photograph.group)
      for photograph in found.photographs
    ),
    fixed_squares={prefix + subject_prefix: square for subject_prefix, square in found.fixed_squares.items()},
  )
