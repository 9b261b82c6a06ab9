"""Finds and reads JAFFE in a user's folder: files such as `KA.AN1.39.tiff`.

A file name consists of the person (two letters), the expression (two letters) with its repetition, and a serial number.
"""

import dataclasses
import os
import pathlib
import re

from fer_jax.data.builders import photographs
from fer_jax.data.builders.photographs import Photograph, ReaderResult, Reject
from fer_jax.runtime.errors import UserError

PEOPLE = ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")
COUNTS = {"angry": 30, "disgust": 29, "fear": 32, "happy": 31, "sad": 31, "surprise": 30, "neutral": 30}
# Table 2 of the paper on a residual network of depthwise separable convolutions with squeeze-excitation.
TABLE_2 = {**COUNTS, "sad": 32, "neutral": 29}

CLASS_BY_CODE = {
  "AN": "angry",
  "DI": "disgust",
  "FE": "fear",
  "HA": "happy",
  "SA": "sad",
  "SU": "surprise",
  "NE": "neutral",
}
_NAME = re.compile(rf"({'|'.join(PEOPLE)})\.({'|'.join(CLASS_BY_CODE)})\d+\.\d+")
_EXAMPLE = "KA.AN1.39.tiff"
# Chosen by us (not from a paper) for portraits of 256 x 256 pixels with hair and shoulders and the eyes at half the
# height: in the square, the eyes are a third of the way down and the chin is inside.
_SQUARE = (0.5, 0.6, 0.6)


def read(folder: pathlib.Path) -> ReaderResult:
  """Reads JAFFE from a folder.

  Args:
    folder: Folder that contains the images, in any subfolder.

  Returns:
    The images by name, after decoding and checking each of them. Other files in the same folders and unreadable images
    are left out and become rejects.

  Raises:
    UserError: There is no image, no image is usable, or the folder contains the dataset more than once.
  """
  files = photographs.files_below(folder)
  image_files = [path for path in files if _match_name(path)]
  if not image_files:
    raise photographs.not_found(folder, "JAFFE", f"images such as {_EXAMPLE}, in any subfolder")
  # Rejects are reported only below the common parent, so unrelated files elsewhere in `folder` are ignored.
  root = pathlib.Path(os.path.commonpath([path.parent for path in image_files]))
  images, rejects = _list_photographs(image_files, root)
  rejects += [
    Reject(path.relative_to(root).as_posix(), f"unexpected file name, expected an image such as {_EXAMPLE}")
    for path in files
    if path.is_relative_to(root) and not _match_name(path)
  ]
  people = {photograph.subject for photograph in images}
  origin = {
    "form": "official",
    "path": str(root),
    "contents": f"{len(images)} images of {len(people)} of the {len(PEOPLE)} people",
  }
  found = ReaderResult(tuple(images), origin, "photograph", {"": _SQUARE}, tuple(rejects))
  found = photographs.check_images(found, "JAFFE", channels=1)
  warnings = photographs.count_warning("JAFFE", found.counts(), COUNTS)
  return dataclasses.replace(
    found, warnings=(*found.warnings, *warnings), comparison=tuple(_comparison(found.counts()))
  )


def _match_name(path: pathlib.Path) -> re.Match[str] | None:
  """Returns the match of a file name with groups (person, expression), or None if it is not an image of JAFFE."""
  return _NAME.fullmatch(path.stem.upper()) if path.suffix.lower() in photographs.SUFFIXES else None


def _list_photographs(files: list[pathlib.Path], root: pathlib.Path) -> tuple[list[Photograph], list[Reject]]:
  """Returns the images sorted by name, and the rejects that have the name of an earlier image."""
  first: dict[str, pathlib.Path] = {}
  images, rejects = [], []
  for path in sorted(files, key=lambda path: (path.stem.upper(), path)):
    file = path.relative_to(root).as_posix()
    earlier = first.setdefault(path.stem.upper(), path)
    name = _match_name(path)
    if earlier.parent != path.parent:
      raise UserError(
        f"{root} contains {path.stem} twice, in {earlier.parent} and in {path.parent}: pass as --manual_dir the folder "
        "of a single copy of JAFFE"
      )
    if earlier != path:
      rejects.append(Reject(file, "another image with the same name"))
    elif name is not None:
      subject, code = name.groups()
      images.append(Photograph(file, CLASS_BY_CODE[code], subject, f"{subject}_{code}", path.read_bytes))
  return images, rejects


def _comparison(counts: dict[str, int]) -> list[str]:
  """Returns the lines of a table that compares the numbers of images with those in the paper."""
  # For two classes, the paper's numbers differ from those of the published files.
  reasons = {
    name: f"the published dataset has {COUNTS[name]}"
    for name, count in counts.items()
    if count == COUNTS[name] != TABLE_2[name]
  }
  return photographs.count_table(counts, TABLE_2, "table 2 of the paper on separable convolutions", reasons)
