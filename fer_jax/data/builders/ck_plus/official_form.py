"""CK+ in its official form: `cohn-kanade-images/S005/001/*.png` and `Emotion/S005/001/*_emotion.txt`."""

import dataclasses
import pathlib
import re

from fer_jax.data.builders import photographs
from fer_jax.data.builders.ck_plus.selection import CONTEMPT, NEUTRAL, Selection
from fer_jax.data.builders.photographs import Found, Photograph, Reject
from fer_jax.runtime.errors import UserError

IMAGES = "cohn-kanade-images"
LABELS = ("Emotion", "Emotion_labels")

# Class by the number in the Emotion file. 0 is neutral, which no sequence of the published dataset has.
_CLASS_OF_CODE = {1: "angry", 2: CONTEMPT, 3: "disgust", 4: "fear", 5: "happy", 6: "sad", 7: "surprise"}
_FRAME = re.compile(r"(S\d{3})_(\d{3})_(\d{8})", re.IGNORECASE)
_NOTE = re.compile(r"(S\d{3})_(\d{3})_(\d{8})_emotion", re.IGNORECASE)
# Chosen by us (not from a paper) for frames of 640 x 490 pixels with the face near the middle.
_SQUARE = (0.5, 0.5, 0.7)


@dataclasses.dataclass(frozen=True)
class _Sequence:
  """One labelled sequence.

  Attributes:
    name: Name of the sequence, such as S005_001.
    subject: Identifier of the person, such as S005.
    frames: Files of the frames in temporal order.
    label: Class from the Emotion file.
  """

  name: str
  subject: str
  frames: tuple[pathlib.Path, ...]
  label: str


def find_images(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder of the sequences, `folder` or a few levels below it, or None if there is none."""
  return photographs.only_folder(folder, "CK+", lambda path: _holds_people(path, (IMAGES, f"extended-{IMAGES}")))


def find_labels(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder of the Emotion files, `folder` or a few levels below it, or None if there is none."""
  return photographs.only_folder(folder, "CK+'s Emotion files", lambda path: _holds_people(path, LABELS))


def read(images: pathlib.Path, labels: pathlib.Path, selection: Selection) -> Found:
  """Returns the selected frames of every sequence that has a label.

  Args:
    images: The folder cohn-kanade-images.
    labels: The folder Emotion or Emotion_labels.
    selection: Frames and classes to take.

  Returns:
    The images by person, sequence and frame, not decoded yet. The rejects are files with unexpected names or in the
    wrong folder, unreadable Emotion files, and labelled sequences with too few frames.

  Raises:
    UserError: No sequence has a label.
  """
  classes, faults = _read_labels(labels)
  rejects = [*_strays(images), *_strays(labels), *faults]
  # Folder of every sequence by its key (S005/001), the same key as in `classes`.
  folders = {_key(path): path for person in _people(images) for path in photographs.folders_in(person)}
  for key in sorted(classes.keys() - folders.keys()):
    rejects.append(Reject(f"{labels.name}/{key}", f"label without images in {images.name}"))
  if not classes.keys() & folders.keys():
    raise UserError(
      f"{labels} contains no label of a sequence in {images}; expected files such as "
      f"{LABELS[0]}/S005/001/S005_001_00000011_emotion.txt: unpack Emotion_labels.zip again"
    )
  found = []
  for key, label in sorted(classes.items()):
    if key in folders and label in selection.class_names:
      sequence = _read_sequence(folders[key], images, label, rejects)
      found += _select(sequence, images, selection, rejects)
  labelled = classes.keys() & folders.keys()
  contents = (
    f"{len(folders)} sequences of {len(_people(images))} people; {len(labelled)} have a label, "
    f"{len(folders) - len(labelled)} have none and are left out"
  )
  if CONTEMPT not in selection.class_names:
    contents += f", and so are {sum(classes[key] == CONTEMPT for key in labelled)} of contempt"
  origin = {"form": "official", "path": str(images), "contents": contents}
  return Found(tuple(found), origin, "photograph", {"": _SQUARE}, tuple(rejects))


def _holds_people(path: pathlib.Path, names: tuple[str, ...]) -> bool:
  return path.name.lower() in {name.lower() for name in names} and bool(_people(path))


def _people(folder: pathlib.Path) -> list[pathlib.Path]:
  return [path for path in photographs.folders_in(folder) if re.fullmatch(r"[Ss]\d{3}", path.name)]


def _strays(root: pathlib.Path) -> list[Reject]:
  """Returns the files and folders of a tree that are outside its sequence folders."""
  people = _people(root)
  files = [path for folder in (root, *people) for path in photographs.files_in(folder)]
  rejects = [Reject(path.relative_to(root.parent).as_posix(), "not inside a sequence folder") for path in files]
  others = [folder for folder in photographs.folders_in(root) if folder not in people]
  return rejects + [Reject(f"{root.name}/{folder.name}/", "not a person's folder such as S005") for folder in others]


def _key(folder: pathlib.Path) -> str:
  """Returns the key of the sequence in a folder, such as S005/001."""
  return f"{folder.parent.name.upper()}/{folder.name}"


def _read_labels(labels: pathlib.Path) -> tuple[dict[str, str], list[Reject]]:
  """Returns the class of every labelled sequence by its key, and the Emotion files that are invalid."""
  classes: dict[str, str] = {}
  rejects: list[Reject] = []
  for folder in (inside for person in _people(labels) for inside in photographs.folders_in(person)):
    for path in photographs.files_in(folder):
      fault = _label_fault(path, _key(folder), classes)
      if fault:
        rejects.append(Reject(path.relative_to(labels.parent).as_posix(), fault))
      else:
        classes[_key(folder)] = _CLASS_OF_CODE[_code(path)]
  return classes, rejects


def _label_fault(path: pathlib.Path, key: str, classes: dict[str, str]) -> str:
  """Returns a description of the fault of an Emotion file; "" if it is valid."""
  name = _NOTE.fullmatch(path.stem)
  if name is None or path.suffix.lower() != ".txt":
    return "unexpected file name, expected an Emotion file such as S005_001_00000011_emotion.txt"
  if f"{name[1].upper()}/{name[2]}" != key:
    return "the file name does not match its folder"
  if _code(path) not in _CLASS_OF_CODE:
    return "no number from 1 to 7 in the file"
  return "another label of the same sequence" if key in classes else ""


def _code(path: pathlib.Path) -> int:
  """Returns the number in an Emotion file, or -1 if there is none."""
  try:
    # The files contain text such as "   3.0000000e+00".
    code = float(path.read_text(encoding="ascii"))
    return int(code) if code.is_integer() else -1
  except (OSError, ValueError):
    return -1


def _read_sequence(folder: pathlib.Path, images: pathlib.Path, label: str, rejects: list[Reject]) -> _Sequence:
  """Returns a sequence with its frames in temporal order; appends the faulty files to `rejects`."""
  frames, faults = photographs.frames_in(folder, images.parent, _number)
  rejects += faults
  subject = folder.parent.name.upper()
  return _Sequence(f"{subject}_{folder.name}", subject, tuple(frames), label)


def _number(path: pathlib.Path) -> int | str:
  """Returns the number of a frame, or a description of the fault in its name."""
  name = _FRAME.fullmatch(path.stem)
  if name is None or path.suffix.lower() not in photographs.SUFFIXES:
    return "unexpected file name, expected a frame such as S005_001_00000011.png"
  belongs = f"{name[1].upper()}/{name[2]}" == _key(path.parent)
  return int(name[3]) if belongs else "the file name does not match its folder"


def _select(sequence: _Sequence, images: pathlib.Path, selection: Selection, rejects: list[Reject]) -> list[Photograph]:
  """Returns the selected frames of a sequence; a sequence with too few frames is appended to `rejects` instead."""
  needed = selection.last_frames + selection.neutral
  if len(sequence.frames) < needed:
    rejects.append(Reject(sequence.name, f"sequence with fewer than {needed} frames"))
    return []
  chosen = [(sequence.frames[0], NEUTRAL)] if selection.neutral else []
  chosen += [(path, sequence.label) for path in sequence.frames[-selection.last_frames :]]
  return [
    Photograph(path.relative_to(images.parent).as_posix(), label, sequence.subject, sequence.name, path.read_bytes)
    for path, label in chosen
  ]
