"""Finds and reads CK+ in a user's folder, in any of its three forms."""

import dataclasses
import pathlib

from fer_jax.data.builders import photographs
from fer_jax.data.builders.ck_plus import ck48_form, official_form, table_form
from fer_jax.data.builders.ck_plus.selection import Selection
from fer_jax.data.builders.photographs import ReaderResult
from fer_jax.runtime.errors import UserError

_EXPECTED = (
  f"{official_form.IMAGES}/ with {' or '.join(f'{name}/' for name in official_form.LABELS)}, CK+48/<class>/ or "
  f"{table_form.FILE}"
)


def read(folder: pathlib.Path, selection: Selection) -> ReaderResult:
  """Reads CK+ from a folder: the official tree, else CK+48, else ckextended.csv.

  Args:
    folder: Folder that contains one of the forms, directly or a few levels below.
    selection: Frames and classes to take.

  Returns:
    The images after decoding and checking each of them.

  Raises:
    UserError: No form is found, or the form that is found lacks what the selection requires.
  """
  images = official_form.find_images(folder)
  if images is not None:
    return read_official(folder, images, selection)
  tree, table = ck48_form.find(folder), table_form.find(folder)
  if tree is not None:
    return _check_and_compare(ck48_form.read(tree, selection), selection)
  if table is not None:
    found = table_form.read(table, selection)
    counts = {name: table_form.COUNTS[name] for name in selection.class_names}
    return _check_and_compare(found, dataclasses.replace(selection, counts=counts))
  raise photographs.not_found(folder, "CK+", _EXPECTED)


def read_official(folder: pathlib.Path, images: pathlib.Path, selection: Selection) -> ReaderResult:
  """Reads the official tree with its images in `images` and its labels anywhere in `folder`."""
  labels = official_form.find_labels(folder)
  if labels is None:
    raise UserError(
      f"--manual_dir={folder} contains CK+'s images ({images}) without their labels; looked for "
      f"{' and '.join(f'{name}/' for name in official_form.LABELS)}: unpack Emotion_labels.zip next to the images"
    )
  return _check_and_compare(official_form.read(images, labels, selection), selection)


def _check_and_compare(found: ReaderResult, selection: Selection) -> ReaderResult:
  """Decodes and checks the images, and compares their numbers with the published ones."""
  found = photographs.check_images(found, "CK+", channels=1)
  warnings = (*found.warnings, *photographs.count_warning("CK+", found.counts(), selection.counts))
  comparison = _comparison(found, selection) if selection.reported else []
  return dataclasses.replace(found, warnings=warnings, comparison=tuple(comparison))


def _comparison(found: ReaderResult, selection: Selection) -> list[str]:
  """Returns the lines of a table that compares the images with those of the paper with the same classes."""
  title = "table 2 of the paper on separable convolutions"
  lines = photographs.count_table(found.counts(), selection.reported, title)
  # Without "", the subject of the images of ckextended.csv, which does not identify people.
  people = len({photograph.subject for photograph in found.photographs} - {""})
  if people:
    lines.append(photographs.table_line("people", people, selection.reported_people))
  return [*lines, "The paper does not specify which frames of which people it uses."]
