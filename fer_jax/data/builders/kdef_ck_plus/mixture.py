"""Mixes KDEF with CK+'s last frames, as the first paper's table 3 does, and compares the two.

The table has 5,170 pictures, each class a multiple of ten. The paper is silent on which pictures of a surplus were
left out; here they are the last ones of CK+'s, in the order of their files, then the last ones of KDEF's.
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
from fer_jax.errors import UserError

TABLE_3 = {
  **{"angry": 740, "disgust": 750, "fear": 720, "happy": 760},
  **{"sad": 720, "surprise": 780, "neutral": 700},
}


def read(folder: pathlib.Path, *, cut: bool) -> Found:
  """Reads and mixes the two datasets.

  Args:
    folder: holds both trees, each a few levels below at most.
    cut: leave out pictures so that every class is a multiple of ten.

  Returns:
    KDEF's pictures, then CK+'s. Subjects and groups begin with "KDEF-" or "CK-".

  Raises:
    UserError: if either is missing or wrong.
  """
  images = official_form.find_images(folder)
  expected = f"both KDEF's folders (AF01/ ...) and CK+'s ({official_form.IMAGES}/ with Emotion/)"
  if images is None:
    raise photographs.not_found(folder, "CK+", expected)
  if kdef.find(folder) is None:
    raise photographs.not_found(folder, "KDEF", expected)
  return mix(kdef.read(folder, channels=1), ck_plus.read_official(folder, images, selection.LAST), folder, cut=cut)


def mix(portraits: Found, frames: Found, folder: pathlib.Path, *, cut: bool) -> Found:
  """Mixes what was read of KDEF (`portraits`) and of CK+ (`frames`), both in `folder`; arguments as in `read`."""
  portraits, frames = _prefixed(portraits, "KDEF-"), _prefixed(frames, "CK-")
  left_out = surplus(portraits.photographs, frames.photographs) if cut else []
  dropped = {photograph.file for photograph in left_out}
  kept = tuple(
    photograph for photograph in (*portraits.photographs, *frames.photographs) if photograph.file not in dropped
  )
  if not kept:
    raise UserError(f"--manual_dir={folder}: no class has ten pictures; kdef_ck_plus/whole leaves none out")
  warnings = [*portraits.warnings, *frames.warnings]
  if left_out:
    warnings.append(
      f"{len(left_out)} left out, so that every class is a multiple of ten, as in the paper's table 3 (which ones is "
      f"our choice): {', '.join(sorted(dropped))}"
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
  """Returns the pictures to leave out so that every class is a multiple of ten.

  Args:
    portraits: KDEF's.
    frames: CK+'s; the last of these, in the order of their files, go first.
  """
  chosen = []
  for label in EXPRESSIONS:
    of_class = [
      photograph
      for source in (portraits, frames)
      for photograph in sorted(source, key=lambda photograph: photograph.file)
      if photograph.label == label
    ]
    chosen += of_class[len(of_class) // 10 * 10 :]
  return chosen


def comparison(portraits: Found, frames: Found, left_out: Sequence[Photograph]) -> list[str]:
  """Returns a table that sets the mixture's classes beside the paper's, with the reasons where they differ."""
  of_kdef, of_ck = portraits.counts(), frames.counts()
  cut = collections.Counter(photograph.label for photograph in left_out)
  counts, reasons = {}, {}
  for label in EXPRESSIONS:
    counts[label] = of_kdef[label] + of_ck[label] - cut[label]
    because = [
      f"{dataset} has {found[label]} where the paper has {published.get(label, 0)}"
      for dataset, found, published in (("KDEF", of_kdef, kdef.COUNTS), ("CK+", of_ck, selection.LAST.counts))
      if found[label] != published.get(label, 0)
    ]
    if counts[label] % 10:
      because.append("none left out to make a multiple of ten")
    reasons[label] = "; ".join(because)
  return photographs.count_table(counts, TABLE_3, "paper's table 3", reasons)


def _prefixed(found: Found, prefix: str) -> Found:
  """Marks what belongs to one of the two datasets, so that nobody is taken for somebody of the other."""
  return dataclasses.replace(
    found,
    photographs=tuple(
      dataclasses.replace(photograph, subject=prefix + photograph.subject, group=prefix + photograph.group)
      for photograph in found.photographs
    ),
    fixed_squares={prefix + beginning: square for beginning, square in found.fixed_squares.items()},
  )
