"""CK+ in its official form: `cohn-kanade-images/S005/001/*.png` and `Emotion/S005/001/*_emotion.txt`."""

import dataclasses
import pathlib
import re

from fer_jax.data.builders import photographs
from fer_jax.data.builders.ck_plus.selection import CONTEMPT, NEUTRAL, Selection
from fer_jax.data.builders.photographs import Photograph, ReaderResult, Reject
from fer_jax.runtime.errors import UserError

IMAGES = "cohn-kanade-images"
LABELS = ("Emotion", "Emotion_labels")

# Class by the number in the Emotion file. 0 is neutral, which no sequence of the published dataset has.
_CLASS_BY_CODE = {1: "angry", 2: CONTEMPT, 3: "disgust", 4: "fear", 5: "happy", 6: "sad", 7: "surprise"}
_FRAME_FILE = re.compile(r"(S\d{3})_(\d{3})_(\d{8})", re.IGNORECASE)
_EMOTION_FILE = re.compile(r"(S\d{3})_(\d{3})_(\d{8})_emotion", re.IGNORECASE)
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
  return photographs.only_folder(folder, "CK+", lambda path: _has_subject_folders(path, (IMAGES, f"extended-{IMAGES}")))


def find_labels(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder of the Emotion files, `folder` or a few levels below it, or None if there is none."""
  return photographs.only_folder(folder, "CK+'s Emotion files", lambda path: _has_subject_folders(path, LABELS))


def read(images: pathlib.Path, labels: pathlib.Path, selection: Selection) -> ReaderResult:
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
  classes, invalid = _read_labels(labels)
  rejects = [*_misplaced_files(images), *_misplaced_files(labels), *invalid]
  # Folder of every sequence by its key (S005/001), the same key as in `classes`.
  folders = {
    _sequence_key(path): path
    for subject_folder in _subject_folders(images)
    for path in photographs.folders_in(subject_folder)
  }
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
      found += _select_frames(sequence, images, selection, rejects)
  labelled = classes.keys() & folders.keys()
  contents = (
    f"{len(folders)} sequences of {len(_subject_folders(images))} people; {len(labelled)} have a label, "
    f"{len(folders) - len(labelled)} have none and are left out"
  )
  if CONTEMPT not in selection.class_names:
    contents += f", and so are {sum(classes[key] == CONTEMPT for key in labelled)} of contempt"
  origin = {"form": "official", "path": str(images), "contents": contents}
  return ReaderResult(tuple(found), origin, "photograph", {"": _SQUARE}, tuple(rejects))


def _has_subject_folders(path: pathlib.Path, names: tuple[str, ...]) -> bool:
  return path.name.lower() in {name.lower() for name in names} and bool(_subject_folders(path))


def _subject_folders(folder: pathlib.Path) -> list[pathlib.Path]:
  return [path for path in photographs.folders_in(folder) if re.fullmatch(r"[Ss]\d{3}", path.name)]


def _misplaced_files(root: pathlib.Path) -> list[Reject]:
  """Returns the files and folders of a tree that are outside its sequence folders."""
  subject_folders = _subject_folders(root)
  files = [path for folder in (root, *subject_folders) for path in photographs.files_in(folder)]
  rejects = [Reject(path.relative_to(root.parent).as_posix(), "not inside a sequence folder") for path in files]
  other_folders = [folder for folder in photographs.folders_in(root) if folder not in subject_folders]
  return rejects + [
    Reject(f"{root.name}/{folder.name}/", "not a person's folder such as S005") for folder in other_folders
  ]


def _sequence_key(folder: pathlib.Path) -> str:
  """Returns the key of the sequence in a folder, such as S005/001."""
  return f"{folder.parent.name.upper()}/{folder.name}"


def _read_labels(labels: pathlib.Path) -> tuple[dict[str, str], list[Reject]]:
  """Returns the class of every labelled sequence by its key, and the Emotion files that are invalid."""
  classes: dict[str, str] = {}
  rejects: list[Reject] = []
  for folder in (
    sequence_folder
    for subject_folder in _subject_folders(labels)
    for sequence_folder in photographs.folders_in(subject_folder)
  ):
    for path in photographs.files_in(folder):
      error = _label_error(path, _sequence_key(folder), classes)
      if error:
        rejects.append(Reject(path.relative_to(labels.parent).as_posix(), error))
      else:
        classes[_sequence_key(folder)] = _CLASS_BY_CODE[_read_code(path)]
  return classes, rejects


def _label_error(path: pathlib.Path, key: str, classes: dict[str, str]) -> str:
  """Returns a description of the fault of an Emotion file; "" if it is valid."""
  name = _EMOTION_FILE.fullmatch(path.stem)
  if name is None or path.suffix.lower() != ".txt":
    return "unexpected file name, expected an Emotion file such as S005_001_00000011_emotion.txt"
  if f"{name[1].upper()}/{name[2]}" != key:
    return "the file name does not match its folder"
  if _read_code(path) not in _CLASS_BY_CODE:
    return "no number from 1 to 7 in the file"
  return "another label of the same sequence" if key in classes else ""


def _read_code(path: pathlib.Path) -> int:
  """Returns the number in an Emotion file, or -1 if there is none."""
  try:
    # The files contain text such as "   3.0000000e+00".
    code = float(path.read_text(encoding="ascii"))
    return int(code) if code.is_integer() else -1
  except (OSError, ValueError):
    return -1


def _read_sequence(folder: pathlib.Path, images: pathlib.Path, label: str, rejects: list[Reject]) -> _Sequence:
  """Returns a sequence with its frames in temporal order; appends the faulty files to `rejects`."""
  frames, invalid = photographs.frames_in(folder, images.parent, _frame_number)
  rejects += invalid
  subject = folder.parent.name.upper()
  return _Sequence(f"{subject}_{folder.name}", subject, tuple(frames), label)


def _frame_number(path: pathlib.Path) -> int | str:
  """Returns the number of a frame, or a description of the fault in its name."""
  name = _FRAME_FILE.fullmatch(path.stem)
  if name is None or path.suffix.lower() not in photographs.SUFFIXES:
    return "unexpected file name, expected a frame such as S005_001_00000011.png"
  matches_folder = f"{name[1].upper()}/{name[2]}" == _sequence_key(path.parent)
  return int(name[3]) if matches_folder else "the file name does not match its folder"


def _select_frames(
  sequence: _Sequence, images: pathlib.Path, selection: Selection, rejects: list[Reject]
) -> list[Photograph]:
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
