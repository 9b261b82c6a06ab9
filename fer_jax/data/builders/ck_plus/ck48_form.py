"""CK+48: the last three frames of CK+'s sequences, cropped to 48x48: `CK+48/<class>/S010_004_00000017.png`."""

import pathlib
import re

from fer_jax.data.builders import photographs
from fer_jax.data.builders.ck_plus.selection import CONTEMPT, Selection
from fer_jax.data.builders.photographs import Photograph, ReaderResult, Reject
from fer_jax.runtime.errors import UserError

_CLASS_BY_FOLDER = {
  "anger": "angry",
  "disgust": "disgust",
  "fear": "fear",
  "happy": "happy",
  "sadness": "sad",
  "surprise": "surprise",
  "contempt": CONTEMPT,
}
_FRAME_FILE = re.compile(r"(S\d{3})_(\d{3})_(\d{8})", re.IGNORECASE)


def find(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder that contains the class folders, or None if there is none."""

  def has_class_folders(path: pathlib.Path) -> bool:
    # At least five of the seven: a copy with a missing class is still recognised as CK+48, and FER2013, which has
    # folders with four of these names, is not.
    return len({subfolder.name.lower() for subfolder in photographs.folders_in(path)} & {*_CLASS_BY_FOLDER}) >= 5

  return photographs.only_folder(folder, "CK+48", has_class_folders)


def read(root: pathlib.Path, selection: Selection) -> ReaderResult:
  """Returns the images of every class; files whose names are not of CK+48's form become rejects.

  Args:
    root: Folder that contains the class folders.
    selection: Frames and classes to take.

  Returns:
    The images by sequence and frame, not decoded yet.

  Raises:
    UserError: The selection has neutral faces, which CK+48 lacks.
  """
  if selection.neutral:
    raise UserError(
      f"{root} is CK+48, which has no neutral faces; expected for ck_plus/neutral the official tree, "
      "cohn-kanade-images/ with Emotion/"
    )
  # By sequence name (S010_004): (frame number, file, class). The numbers have eight digits and sort as strings.
  sequences: dict[str, list[tuple[str, pathlib.Path, str]]] = {}
  rejects = [Reject(path.name, "not inside a class folder") for path in photographs.files_in(root)]
  for folder in photographs.folders_in(root):
    label = _CLASS_BY_FOLDER.get(folder.name.lower())
    if label is None:
      rejects.append(Reject(f"{folder.name}/", f"not a class folder, {len(photographs.files_in(folder))} files"))
      continue
    for path in photographs.files_in(folder):
      name = _FRAME_FILE.fullmatch(path.stem)
      if name is None or path.suffix.lower() not in photographs.SUFFIXES:
        reason = "unexpected file name, expected a frame such as S010_004_00000017.png"
        rejects.append(Reject(path.relative_to(root).as_posix(), reason))
      elif label in selection.class_names:
        sequences.setdefault(f"{name[1]}_{name[2]}".upper(), []).append((name[3], path, label))
  found = []
  for sequence, frames in sorted(sequences.items()):
    for _, path, label in sorted(frames)[-selection.last_frames :]:
      file = path.relative_to(root).as_posix()
      found.append(Photograph(file, label, sequence.partition("_")[0], sequence, path.read_bytes))
  contents = f"{len(sequences)} sequences of {len({name.partition('_')[0] for name in sequences})} people"
  return ReaderResult(
    tuple(found), {"form": "CK+48", "path": str(root), "contents": contents}, "face", rejects=tuple(rejects)
  )
