"""Finds and reads KDEF in a user's folder: files such as `AF01/AF01ANFL.JPG`.

A file name consists of the session (A, B), sex (F, M), person (01 - 35), expression (two letters) and angle.
"""

import dataclasses
import pathlib
import re

from fer_jax.data.builders import photographs
from fer_jax.data.builders.photographs import Photograph, ReaderResult, Reject
from fer_jax.runtime.errors import UserError

# Full left, half left, straight, half right, full right.
ANGLES = ("FL", "HL", "S", "HR", "FR")
FRONTAL = ("S",)
# Number of published files of each class, without two misnamed files (one sad, one surprised).
COUNTS = {"angry": 700, "disgust": 700, "fear": 700, "happy": 700, "sad": 699, "surprise": 699, "neutral": 700}

CLASS_BY_CODE = {
  "AN": "angry",
  "DI": "disgust",
  "AF": "fear",
  "HA": "happy",
  "SA": "sad",
  "SU": "surprise",
  "NE": "neutral",
}
_NAME = re.compile(rf"([AB])([FM]\d\d)({'|'.join(CLASS_BY_CODE)})({'|'.join(ANGLES)})")
_SESSION = re.compile(r"[AB][FM]\d\d")
_SUFFIXES = (".jpg", ".jpeg")
# Chosen by us (not from a paper) for portraits of 562 x 762 pixels with the eyes at 48 % of the height: in the square,
# the eyes are a third of the way down and the chin is inside.
_SQUARE = (0.5, 0.56, 0.75)


def find(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder that contains the session folders, or None.

  The search covers `folder` and a few levels below it.
  """
  return photographs.only_folder(folder, "KDEF", lambda path: bool(_session_folders(path)))


def read(folder: pathlib.Path, angles: tuple[str, ...] = ANGLES, channels: int = 3) -> ReaderResult:
  """Reads KDEF from a folder.

  Args:
    folder: Folder that contains the session folders, directly or a few levels below.
    angles: Camera angles to include, a subset of ANGLES.
    channels: Number of channels to store, 3 (colour) or 1 (grey).

  Returns:
    The images by file name, after decoding and checking each of them. Files with unexpected names or in the wrong
    folder, and unreadable images, are left out and become rejects.

  Raises:
    UserError: The dataset is not found, or no image is usable.
  """
  root = find(folder)
  if root is None:
    raise photographs.not_found(folder, "KDEF", "session folders such as AF01/ with images such as AF01ANFL.JPG")
  named, rejects = _list_photographs(root)
  chosen = tuple(photograph for photograph, angle in named if angle in angles)
  if not chosen:
    faults = "; ".join(photographs.reject_lines(rejects)) or "they are empty"
    raise UserError(f"{root} has KDEF's folders but no usable image such as AF01/AF01ANFL.JPG: {faults}")
  people = {photograph.subject for photograph, _ in named}
  contents = f"{len(named)} images of {len(people)} people, {len(chosen)} of them at the angles {', '.join(angles)}"
  origin = {"form": "official", "path": str(root), "contents": contents}
  found = ReaderResult(chosen, origin, "photograph", {"": _SQUARE}, tuple(rejects))
  found = photographs.check_images(found, "KDEF", channels)
  # The published counts are for all angles.
  warnings = photographs.count_warning("KDEF", found.counts(), COUNTS) if angles == ANGLES else []
  return dataclasses.replace(found, warnings=(*found.warnings, *warnings))


def _session_folders(folder: pathlib.Path) -> list[pathlib.Path]:
  return [path for path in photographs.folders_in(folder) if _SESSION.fullmatch(path.name.upper())]


def _list_photographs(root: pathlib.Path) -> tuple[list[tuple[Photograph, str]], list[Reject]]:
  """Returns the images with their angles, and all other files and folders of the tree as rejects."""
  rejects = [Reject(path.name, "not inside a session folder") for path in photographs.files_in(root)]
  # By file name without suffix, in capitals: image and angle.
  named: dict[str, tuple[Photograph, str]] = {}
  sessions = _session_folders(root)
  for folder in photographs.folders_in(root):
    if folder not in sessions:
      rejects.append(Reject(f"{folder.name}/", f"not a session folder, {len(photographs.files_in(folder))} files"))
      continue
    rejects += [
      Reject(f"{folder.name}/{path.name}/", "unexpected subfolder of a session")
      for path in photographs.folders_in(folder)
    ]
    for path in photographs.files_in(folder):
      file = path.relative_to(root).as_posix()
      stem = path.stem.upper()
      name = _NAME.fullmatch(stem)
      if name is None or path.suffix.lower() not in _SUFFIXES:
        rejects.append(Reject(file, "unexpected file name, expected an image such as AF01ANFL.JPG"))
      elif name[1] + name[2] != folder.name.upper():
        rejects.append(Reject(file, "the file name does not match its folder"))
      elif stem in named:
        rejects.append(Reject(file, "another image with the same name"))
      else:
        session, subject, code, angle = name.groups()
        group = f"{subject}_{code}_{session}"
        named[stem] = Photograph(file, CLASS_BY_CODE[code], subject, group, path.read_bytes), angle
  return list(named.values()), rejects
