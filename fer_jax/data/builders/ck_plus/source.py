"""Finds CK+ in the folder a user points to, in whichever form it is, and reads it."""

import dataclasses
import pathlib

from fer_jax.data.builders import photographs
from fer_jax.data.builders.ck_plus import ck48_form, official_form, table_form
from fer_jax.data.builders.ck_plus.selection import Selection
from fer_jax.data.builders.photographs import Found
from fer_jax.errors import UserError

_EXPECTED = (
  f"{official_form.IMAGES}/ with {' or '.join(f'{name}/' for name in official_form.LABELS)}, CK+48/<class>/ or "
  f"{table_form.FILE}"
)


def read(folder: pathlib.Path, selection: Selection) -> Found:
  """Reads CK+ from a folder: the official tree, else CK+48, else ckextended.csv.

  Args:
    folder: holds one of them, itself or a few levels below.
    selection: which frames.

  Returns:
    The pictures, every one of them decoded and checked.

  Raises:
    UserError: saying what was looked for in vain, or what a form cannot give.
  """
  images = official_form.find_images(folder)
  if images is not None:
    return read_official(folder, images, selection)
  tree, table = ck48_form.find(folder), table_form.find(folder)
  if tree is not None:
    return _finished(ck48_form.read(tree, selection), selection)
  if table is not None:
    found = table_form.read(table, selection)
    counts = {name: table_form.COUNTS[name] for name in selection.class_names}
    return _finished(found, dataclasses.replace(selection, counts=counts))
  raise photographs.not_found(folder, "CK+", _EXPECTED)


def read_official(folder: pathlib.Path, images: pathlib.Path, selection: Selection) -> Found:
  """Reads the official tree, whose pictures were found in `images` and whose labels are looked for in `folder`."""
  labels = official_form.find_labels(folder)
  if labels is None:
    raise UserError(
      f"--manual_dir={folder} holds CK+'s pictures ({images}) without their labels; looked for "
      f"{' and '.join(f'{name}/' for name in official_form.LABELS)}: unpack Emotion_labels.zip beside them"
    )
  return _finished(official_form.read(images, labels, selection), selection)


def _finished(found: Found, selection: Selection) -> Found:
  found = photographs.checked(found, "CK+", channels=1)
  warnings = (*found.warnings, *photographs.count_warning("CK+", found.counts(), selection.counts))
  comparison = _comparison(found, selection) if selection.reported else []
  return dataclasses.replace(found, warnings=warnings, comparison=tuple(comparison))


def _comparison(found: Found, selection: Selection) -> list[str]:
  """Returns a table that sets the pictures beside those of the paper that takes the same classes."""
  title = "table 2 of the paper on separable convolutions"
  lines = photographs.count_table(found.counts(), selection.reported, title)
  people = len({photograph.subject for photograph in found.photographs} - {""})
  if people:
    lines.append(photographs.table_line("people", people, selection.reported_people))
  return [*lines, "The paper does not say which frames of which people it took."]
