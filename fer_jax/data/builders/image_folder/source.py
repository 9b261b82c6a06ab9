"""Reads a user's images from `DIR/<class>/*` or `DIR/<split>/<class>/*`."""

import itertools
import pathlib
import re

from fer_jax.data import images
from fer_jax.data.builders import photographs
from fer_jax.data.builders.photographs import Photograph, ReaderResult, Reject
from fer_jax.runtime.errors import UserError

# Names of the folders of splits, in lower case.
SPLIT_NAMES = {
  **dict.fromkeys(("train", "training"), "train"),
  **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
  **dict.fromkeys(("test", "testing"), "test"),
}
# A photograph without a detected face is cropped to its largest central square.
_WHOLE = (0.5, 0.5, 1.0)
_EXAMPLE = "one such as '^([^_]+)_'"
_LAYOUTS = "DIR/<class>/*, or DIR/<split>/<class>/* with the splits train, validation (or val) and test"


def split_folders(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the folder of each split; {"train": folder} if the folder contains those of classes.

  Raises:
    UserError: A folder next to those of splits is no split, or two of them are the same split.
  """
  found: dict[str, pathlib.Path] = {}
  subfolders = photographs.folders_in(folder)
  if not any(path.name.lower() in SPLIT_NAMES for path in subfolders):
    return {"train": folder}
  for path in subfolders:
    split = SPLIT_NAMES.get(path.name.lower())
    if split is None:
      raise UserError(f"{path}: is no split, but lies next to folders of splits; expected {_LAYOUTS}")
    if split in found:
      raise UserError(f"{path} and {found[split].name}: are both the split {split}; expected one folder")
    found[split] = path
  return {split: found[split] for split in ("train", "validation", "test") if split in found}


def class_names(folder: pathlib.Path) -> tuple[str, ...]:
  """Returns the names of the classes, sorted; a split may lack some.

  Raises:
    UserError: There are fewer than two classes, their names cannot be stored or differ only in case, or the folders are
      wrong; see `split_folders`.
  """
  splits = split_folders(folder)
  names = sorted({path.name for split in splits.values() for path in photographs.folders_in(split)})
  if len(names) < 2:
    found = f"only the class {names[0]}" if names else "no folders"
    raise UserError(f"--manual_dir={folder} contains {found}; expected two classes or more in {_LAYOUTS}")
  for name in names:
    if (utf8 := photographs.as_utf8(name)) != name:
      raise UserError(f"{folder}: the name of the class {utf8} is not UTF-8; rename the folder")
  for name, other in itertools.pairwise(sorted(names, key=str.lower)):
    if name.lower() == other.lower():
      raise UserError(f"{folder}: the classes {name} and {other} differ only in case; expected one folder for both")
  return tuple(names)


def read(folder: pathlib.Path, framing: str, subjects: str) -> ReaderResult:
  """Reads the images.

  Args:
    folder: Folder of the classes or splits.
    framing: "photograph" (faces are detected and cropped) or "face" (images are cropped faces).
    subjects: Regular expression that finds the subject in a file's path below its class folder, as its first group; ""
      if the subjects are unknown.

  Returns:
    The images by split, class and path, after decoding and checking each of them. Other files and unreadable images are
    left out and become rejects.

  Raises:
    UserError: There are fewer than two classes, a class has no image, no image is usable, or `subjects` is invalid or
      does not match a path.
  """
  splits, names = split_folders(folder), class_names(folder)
  pattern = _compiled(subjects)
  found: list[Photograph] = []
  rejects: list[Reject] = []
  for split, split_folder in splits.items():
    for name in names:
      for path in photographs.files_below(split_folder / name):
        file = path.relative_to(folder).as_posix()
        if path.suffix.lower() not in images.SUFFIXES:
          rejects.append(Reject(file, "not the name of an image"))
          continue
        if path.exists() and not path.is_file():  # a named pipe would block
          rejects.append(Reject(file, "not a regular file"))
          continue
        subject = _subject(pattern, path.relative_to(split_folder / name).as_posix(), file)
        found.append(Photograph(file, name, subject, file, path.read_bytes, split=split))
  for each in {folder, *splits.values()}:
    files = [path for path in photographs.files_in(each) if path.suffix.lower() in images.SUFFIXES]
    rejects += [Reject(path.relative_to(folder).as_posix(), "not in the folder of a class") for path in files]
  for name in names:
    if not any(photograph.label == name for photograph in found):
      raise UserError(f"{folder}: the class {name} has no images; expected files such as *.jpg, *.png in its folder")
  people = len({photograph.subject for photograph in found} - {""})
  origin = {
    "form": "splits" if splits != {"train": folder} else "classes",
    "path": str(folder),
    "contents": f"{len(found)} images of {len(names)} classes" + (f" and {people} subjects" if people else ""),
  }
  squares = {"": _WHOLE} if framing == "photograph" else {}
  return photographs.check_images(
    ReaderResult(tuple(found), origin, framing, squares, tuple(rejects)), "image_folder", channels=1
  )


def _compiled(subjects: str) -> re.Pattern[str] | None:
  if not subjects:
    return None
  try:
    pattern = re.compile(subjects)
  except re.error as error:
    raise UserError(f"--subjects={subjects}: not a regular expression ({error}); expected {_EXAMPLE}") from None
  if pattern.groups < 1:
    raise UserError(f"--subjects={subjects}: has no parentheses around the subject; expected {_EXAMPLE}")
  return pattern


def _subject(pattern: re.Pattern[str] | None, below_class: str, file: str) -> str:
  """Returns the subject of a file; "" without a pattern."""
  if pattern is None:
    return ""
  match = pattern.search(below_class)
  if match is None or not match[1]:
    raise UserError(f"--subjects={pattern.pattern}: finds no subject in {file}; expected one in every path")
  return match[1]
