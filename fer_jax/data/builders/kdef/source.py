"""Finds KDEF in the folder a user points to, and reads it: `AF01/AF01ANFL.JPG`.

A name is session (A, B), sex (F, M), person (01 - 35), expression (two letters) and angle.
"""

import dataclasses
import pathlib
import re

from fer_jax.data.builders import photographs
from fer_jax.data.builders.photographs import Found, Photograph, Reject
from fer_jax.errors import UserError

ANGLES = ("FL", "HL", "S", "HR", "FR")
FRONTAL = ("S",)
# Of the published files; two that are misnamed, one sad and one surprised, are not among them.
COUNTS = {
  **{"angry": 700, "disgust": 700, "fear": 700, "happy": 700},
  **{"sad": 699, "surprise": 699, "neutral": 700},
}

_CLASS_OF_CODE = {
  **{"AN": "angry", "DI": "disgust", "AF": "fear", "HA": "happy"},
  **{"SA": "sad", "SU": "surprise", "NE": "neutral"},
}
_NAME = re.compile(rf"([AB])([FM]\d\d)({'|'.join(_CLASS_OF_CODE)})({'|'.join(ANGLES)})")
_SESSION = re.compile(r"[AB][FM]\d\d")
_SUFFIXES = (".jpg", ".jpeg")
# Our choice, for portraits of 562 x 762 with the eyes at 48 % of the height: the eyes a third down, the chin inside.
_SQUARE = (0.5, 0.56, 0.75)


def find(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder that holds the sessions' folders, `folder` or a few levels below it; None if there is none."""
  return photographs.only_folder(folder, "KDEF", lambda path: bool(_sessions(path)))


def read(folder: pathlib.Path, angles: tuple[str, ...] = ANGLES, channels: int = 3) -> Found:
  """Reads KDEF from a folder.

  Args:
    folder: holds the sessions' folders, itself or a few levels below.
    angles: which of ANGLES to take.
    channels: 3, or 1 for pictures that are to be stored in grey.

  Returns:
    The pictures by file, every one of them decoded and checked. Files whose names are not KDEF's or do not belong in
    their folder, and pictures that cannot be read, are left out and listed.

  Raises:
    UserError: saying what was looked for in vain, or that no picture can be used.
  """
  root = find(folder)
  if root is None:
    raise photographs.not_found(folder, "KDEF", "folders of sessions such as AF01/ with pictures such as AF01ANFL.JPG")
  named, rejects = _list(root)
  chosen = tuple(photograph for photograph, angle in named if angle in angles)
  if not chosen:
    faults = "; ".join(photographs.reject_lines(rejects)) or "they are empty"
    raise UserError(f"{root} has KDEF's folders but no usable picture such as AF01/AF01ANFL.JPG: {faults}")
  people = {photograph.subject for photograph, _ in named}
  contents = f"{len(named)} pictures of {len(people)} people, {len(chosen)} of them at the angles {', '.join(angles)}"
  origin = {"form": "official", "path": str(root), "contents": contents}
  found = Found(chosen, origin, "photograph", {"": _SQUARE}, tuple(rejects))
  found = photographs.checked(found, "KDEF", channels)
  warnings = photographs.count_warning("KDEF", found.counts(), COUNTS) if angles == ANGLES else []
  return dataclasses.replace(found, warnings=(*found.warnings, *warnings))


def _sessions(folder: pathlib.Path) -> list[pathlib.Path]:
  return [path for path in photographs.folders_in(folder) if _SESSION.fullmatch(path.name.upper())]


def _list(root: pathlib.Path) -> tuple[list[tuple[Photograph, str]], list[Reject]]:
  """Lists the pictures with their angles, and whatever else lies in the tree."""
  rejects = [Reject(path.name, "lies in no session's folder") for path in photographs.files_in(root)]
  named: dict[str, tuple[Photograph, str]] = {}
  sessions = _sessions(root)
  for folder in photographs.folders_in(root):
    if folder not in sessions:
      rejects.append(Reject(f"{folder.name}/", f"a folder of {len(photographs.files_in(folder))} files, no session"))
      continue
    rejects += [
      Reject(f"{folder.name}/{path.name}/", "a folder in a session") for path in photographs.folders_in(folder)
    ]
    for path in photographs.files_in(folder):
      file = path.relative_to(root).as_posix()
      stem = path.stem.upper()
      name = _NAME.fullmatch(stem)
      if name is None or path.suffix.lower() not in _SUFFIXES:
        rejects.append(Reject(file, "the name is not that of a picture such as AF01ANFL.JPG"))
      elif name[1] + name[2] != folder.name.upper():
        rejects.append(Reject(file, "the name does not belong in its folder"))
      elif stem in named:
        rejects.append(Reject(file, "a second picture of its name"))
      else:
        session, subject, code, angle = name.groups()
        group = f"{subject}_{code}_{session}"
        named[stem] = Photograph(file, _CLASS_OF_CODE[code], subject, group, path.read_bytes), angle
  return list(named.values()), rejects
