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
from fer_jax.data.builders.photographs import Found, Photograph
from fer_jax.runtime.errors import UserError

TABLE_3 = {
  **{"angry": 740, "disgust": 750, "fear": 720, "happy": 760},
  **{"sad": 720, "surprise": 780, "neutral": 700},
}


def read(folder: pathlib.Path, *, cut: bool) -> Found:
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


def mix(portraits: Found, frames: Found, folder: pathlib.Path, *, cut: bool) -> Found:
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
  left_out = surplus(portraits.photographs, frames.photographs) if cut else []
  dropped = {photograph.file for photograph in left_out}
  kept = tuple(
    photograph for photograph in (*portraits.photographs, *frames.photographs) if photograph.file not in dropped
  )
  if not kept:
    raise UserError(
      f"--manual_dir={folder}: no class has ten images, expected at least ten of one class: prepare "
      "kdef_ck_plus/whole, which leaves no images out"
    )
  warnings = [*portraits.warnings, *frames.warnings]
  if left_out:
    warnings.append(
      f"{len(left_out)} left out to make every class a multiple of ten, as in the paper's table 3 (the paper does not "
      f"specify which): {', '.join(sorted(dropped))}"
    )
  return Found(
    photographs=kept,
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
    comparison=tuple(comparison(portraits, frames, left_out)),
  )


def surplus(portraits: Sequence[Photograph], frames: Sequence[Photograph]) -> list[Photograph]:
  """Returns the images to leave out so that the size of every class is a multiple of ten.

  Args:
    portraits: Images of KDEF.
    frames: Images of CK+, which are left out before those of KDEF, the last in the order of their files first.
  """
  chosen = []
  for label in EXPRESSIONS:
    of_class = [
      photograph
      for source in (portraits, frames)
      for photograph in sorted(source, key=lambda photograph: photograph.file)
      if photograph.label == label
    ]
    # The last `len(of_class) % 10` images: CK+ comes second in `of_class`, so its images are left out first.
    chosen += of_class[len(of_class) // 10 * 10 :]
  return chosen


def comparison(portraits: Found, frames: Found, left_out: Sequence[Photograph]) -> list[str]:
  """Returns the lines of a table that compares the mixture with the paper's table 3.

  Args:
    portraits: Result of the reader of KDEF.
    frames: Result of the reader of CK+.
    left_out: Images of either dataset that are not in the mixture.

  Returns:
    One line per class, with the reasons for a difference.
  """
  of_kdef, of_ck = portraits.counts(), frames.counts()
  cut = collections.Counter(photograph.label for photograph in left_out)
  counts, reasons = {}, {}
  for label in EXPRESSIONS:
    counts[label] = of_kdef[label] + of_ck[label] - cut[label]
    because = [
      f"{dataset} has {found[label]}, the paper has {published.get(label, 0)}"
      for dataset, found, published in (("KDEF", of_kdef, kdef.COUNTS), ("CK+", of_ck, selection.LAST.counts))
      if found[label] != published.get(label, 0)
    ]
    if counts[label] % 10:
      because.append("not cut to a multiple of ten")
    reasons[label] = "; ".join(because)
  return photographs.count_table(counts, TABLE_3, "paper's table 3", reasons)


def _prefixed(found: Found, prefix: str) -> Found:
  """Returns `found` with a prefix on subjects and groups, so that those of the two datasets never coincide."""
  return dataclasses.replace(
    found,
    photographs=tuple(
      dataclasses.replace(photograph, subject=prefix + photograph.subject, group=prefix + photograph.group)
      for photograph in found.photographs
    ),
    fixed_squares={prefix + beginning: square for beginning, square in found.fixed_squares.items()},
  )
