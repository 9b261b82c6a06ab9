"""Finds JAFFE in the folder a user points to, and reads it: `KA.AN1.39.tiff`.

A name is person (two letters), expression (two letters) with its repetition, and a serial number.
"""

import dataclasses
import os
import pathlib
import re

from fer_jax.data.builders import photographs
from fer_jax.data.builders.photographs import Found, Photograph, Reject
from fer_jax.errors import UserError

PEOPLE = ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")
COUNTS = {
  **{"angry": 30, "disgust": 29, "fear": 32, "happy": 31},
  **{"sad": 31, "surprise": 30, "neutral": 30},
}
# Of the paper on a residual network of depthwise separable convolutions with squeeze-excitation.
TABLE_2 = {**COUNTS, "sad": 32, "neutral": 29}

_CLASS_OF_CODE = {
  **{"AN": "angry", "DI": "disgust", "FE": "fear", "HA": "happy"},
  **{"SA": "sad", "SU": "surprise", "NE": "neutral"},
}
_NAME = re.compile(rf"({'|'.join(PEOPLE)})\.({'|'.join(_CLASS_OF_CODE)})\d+\.\d+")
_EXAMPLE = "KA.AN1.39.tiff"
# Our choice, for portraits of 256 x 256 with hair and shoulders, the eyes half-way down: these a third down, the chin
# inside.
_SQUARE = (0.5, 0.6, 0.6)


def read(folder: pathlib.Path) -> Found:
  """Reads JAFFE from a folder.

  Args:
    folder: holds the pictures, anywhere below it.

  Returns:
    The pictures by name, every one of them decoded and checked. Other files that lie among them, and pictures that
    cannot be read, are left out and listed.

  Raises:
    UserError: if there is no picture, none can be used, or the dataset is there more than once.
  """
  files = photographs.files_below(folder)
  named = [path for path in files if _name(path)]
  if not named:
    raise photographs.not_found(folder, "JAFFE", f"pictures such as {_EXAMPLE}, anywhere below it")
  root = pathlib.Path(os.path.commonpath([path.parent for path in named]))
  pictures, rejects = _list(named, root)
  rejects += [
    Reject(path.relative_to(root).as_posix(), f"the name is not that of a picture such as {_EXAMPLE}")
    for path in files
    if path.is_relative_to(root) and not _name(path)
  ]
  people = {photograph.subject for photograph in pictures}
  origin = {
    "form": "official",
    "path": str(root),
    "contents": f"{len(pictures)} pictures of {len(people)} of the {len(PEOPLE)} people",
  }
  found = Found(tuple(pictures), origin, "photograph", {"": _SQUARE}, tuple(rejects))
  found = photographs.checked(found, "JAFFE", channels=1)
  warnings = photographs.count_warning("JAFFE", found.counts(), COUNTS)
  return dataclasses.replace(
    found, warnings=(*found.warnings, *warnings), comparison=tuple(_comparison(found.counts()))
  )


def _name(path: pathlib.Path) -> re.Match[str] | None:
  """Takes a file's name apart; None if it is not that of a picture."""
  return _NAME.fullmatch(path.stem.upper()) if path.suffix.lower() in photographs.SUFFIXES else None


def _list(files: list[pathlib.Path], root: pathlib.Path) -> tuple[list[Photograph], list[Reject]]:
  """Lists the pictures by name, and those that have another's name."""
  first: dict[str, pathlib.Path] = {}
  pictures, rejects = [], []
  for path in sorted(files, key=lambda path: (path.stem.upper(), path)):
    file = path.relative_to(root).as_posix()
    earlier = first.setdefault(path.stem.upper(), path)
    name = _name(path)
    if earlier.parent != path.parent:
      raise UserError(
        f"{root} holds {path.stem} twice, in {earlier.parent} and in {path.parent}: give as --manual_dir the folder "
        "of one JAFFE"
      )
    if earlier != path:
      rejects.append(Reject(file, "a second picture of its name"))
    elif name is not None:
      subject, code = name.groups()
      pictures.append(Photograph(file, _CLASS_OF_CODE[code], subject, f"{subject}_{code}", path.read_bytes))
  return pictures, rejects


def _comparison(counts: dict[str, int]) -> list[str]:
  reasons = {
    name: f"the published files are {COUNTS[name]}"
    for name, count in counts.items()
    if count == COUNTS[name] != TABLE_2[name]
  }
  return photographs.count_table(counts, TABLE_2, "table 2 of the paper on separable convolutions", reasons)
