"""CK+ as it is published: `cohn-kanade-images/S005/001/*.png` and `Emotion/S005/001/*_emotion.txt`."""

import dataclasses
import pathlib
import re

from fer_jax.data.builders import photographs
from fer_jax.data.builders.ck_plus.selection import CONTEMPT, NEUTRAL, Selection
from fer_jax.data.builders.photographs import Found, Photograph, Reject
from fer_jax.errors import UserError

IMAGES = "cohn-kanade-images"
LABELS = ("Emotion", "Emotion_labels")

# By the number in the Emotion files; 0 is neutral, which no sequence of the published set has.
_CLASS_OF_CODE = {1: "angry", 2: CONTEMPT, 3: "disgust", 4: "fear", 5: "happy", 6: "sad", 7: "surprise"}
_FRAME = re.compile(r"(S\d{3})_(\d{3})_(\d{8})", re.IGNORECASE)
_NOTE = re.compile(r"(S\d{3})_(\d{3})_(\d{8})_emotion", re.IGNORECASE)
# Our choice. A frame is 640 x 490 with the face near its middle.
_SQUARE = (0.5, 0.5, 0.7)


@dataclasses.dataclass(frozen=True)
class _Sequence:
  """The frames of one sequence, and what its Emotion file says."""

  name: str
  subject: str
  frames: tuple[pathlib.Path, ...]
  label: str


def find_images(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder of the sequences, `folder` or a few levels below it; None where there is none."""
  return photographs.only_folder(folder, "CK+", lambda path: _holds_people(path, (IMAGES, f"extended-{IMAGES}")))


def find_labels(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder of the Emotion files, likewise."""
  return photographs.only_folder(folder, "CK+'s Emotion files", lambda path: _holds_people(path, LABELS))


def read(images: pathlib.Path, labels: pathlib.Path, selection: Selection) -> Found:
  """Lists the frames of every sequence that has a label.

  Args:
    images: the folder cohn-kanade-images.
    labels: the folder Emotion or Emotion_labels.
    selection: which frames.

  Returns:
    The pictures by person, sequence and frame. Left out and listed are files whose names are not CK+'s or do not
    belong where they lie, Emotion files that cannot be read, and labelled sequences with too few frames.

  Raises:
    UserError: if no sequence has a label.
  """
  classes, faults = _read_labels(labels)
  rejects = [*_strays(images), *_strays(labels), *faults]
  folders = {_key(path): path for person in _people(images) for path in photographs.folders_in(person)}
  for key in sorted(classes.keys() - folders.keys()):
    rejects.append(Reject(f"{labels.name}/{key}", f"a label without pictures in {images.name}"))
  if not classes.keys() & folders.keys():
    raise UserError(
      f"{labels} holds no label of a sequence in {images}; expected {LABELS[0]}/S005/001/S005_001_00000011_emotion.txt "
      "and its like: unpack Emotion_labels.zip again"
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
  """Lists what lies in a tree outside the folders of its sequences."""
  people = _people(root)
  files = [path for folder in (root, *people) for path in photographs.files_in(folder)]
  rejects = [Reject(path.relative_to(root.parent).as_posix(), "lies in no sequence's folder") for path in files]
  others = [folder for folder in photographs.folders_in(root) if folder not in people]
  return rejects + [Reject(f"{root.name}/{folder.name}/", "a folder of no person such as S005") for folder in others]


def _key(folder: pathlib.Path) -> str:
  """Names the sequence that a folder holds: S005/001."""
  return f"{folder.parent.name.upper()}/{folder.name}"


def _read_labels(labels: pathlib.Path) -> tuple[dict[str, str], list[Reject]]:
  """Returns the class of every sequence that has one, by its key, and the files that are wrong."""
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
  """Says what is wrong with an Emotion file; "" if nothing is."""
  name = _NOTE.fullmatch(path.stem)
  if name is None or path.suffix.lower() != ".txt":
    return "the name is not that of an Emotion file such as S005_001_00000011_emotion.txt"
  if f"{name[1].upper()}/{name[2]}" != key:
    return "the name does not belong in its folder"
  if _code(path) not in _CLASS_OF_CODE:
    return "it does not hold a number from 1 to 7"
  return "a second label of its sequence" if key in classes else ""


def _code(path: pathlib.Path) -> int:
  """Returns the number in an Emotion file, -1 where there is none."""
  try:
    code = float(path.read_text(encoding="ascii"))
    return int(code) if code.is_integer() else -1
  except (OSError, ValueError):
    return -1


def _read_sequence(folder: pathlib.Path, images: pathlib.Path, label: str, rejects: list[Reject]) -> _Sequence:
  """Lists the frames of a sequence in order of time."""
  frames, faults = photographs.frames_in(folder, images.parent, _number)
  rejects += faults
  subject = folder.parent.name.upper()
  return _Sequence(f"{subject}_{folder.name}", subject, tuple(frames), label)


def _number(path: pathlib.Path) -> int | str:
  """Returns the number of a frame, or what is wrong with its name."""
  name = _FRAME.fullmatch(path.stem)
  if name is None or path.suffix.lower() not in photographs.SUFFIXES:
    return "the name is not that of a frame such as S005_001_00000011.png"
  belongs = f"{name[1].upper()}/{name[2]}" == _key(path.parent)
  return int(name[3]) if belongs else "the name does not belong in its folder"


def _select(sequence: _Sequence, images: pathlib.Path, selection: Selection, rejects: list[Reject]) -> list[Photograph]:
  """Takes the frames of a sequence that a selection names; none of a sequence that has too few."""
  needed = selection.last_frames + selection.neutral
  if len(sequence.frames) < needed:
    rejects.append(Reject(sequence.name, f"a sequence of fewer than {needed} frames"))
    return []
  chosen = [(sequence.frames[0], NEUTRAL)] if selection.neutral else []
  chosen += [(path, sequence.label) for path in sequence.frames[-selection.last_frames :]]
  return [
    Photograph(path.relative_to(images.parent).as_posix(), label, sequence.subject, sequence.name, path.read_bytes)
    for path, label in chosen
  ]
