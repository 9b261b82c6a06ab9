"""Finds and reads Oulu-CASIA in a user's folder: files such as `OriginalImg/VL/Strong/P001/Anger/000.jpeg`.

The cropped images are in a separate tree, `PreProcess_Img/VL_Acropped/Strong/P001/Anger/000.jpeg`. The name of a tree's
top folder is irrelevant, and names are not case-sensitive.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

from fer_jax.data.builders import photographs
from fer_jax.data.builders.oulu_casia.selection import NEUTRAL, Selection
from fer_jax.data.builders.photographs import Photograph, ReaderResult, Reject
from fer_jax.runtime.errors import UserError

# Class by the folder's name in lower case.
CLASS_BY_FOLDER = {
  "anger": "angry",
  "disgust": "disgust",
  "fear": "fear",
  "happiness": "happy",
  "sadness": "sad",
  "surprise": "surprise",
}
# Chosen by us (not from a paper) for frames of 320 x 240 pixels with the face near the middle.
_SQUARE = (0.5, 0.5, 0.7)


@dataclasses.dataclass(frozen=True)
class _Form:
  """One of the two forms of the dataset.

  Attributes:
    name: Name of the form, "original" or "cropped".
    suffix: Suffix of the names of the camera folders.
    framing: Value of `Found.framing`.
  """

  name: str
  suffix: str
  framing: str


_FORMS = (_Form("original", "", "photograph"), _Form("cropped", "_Acropped", "face"))


@dataclasses.dataclass(frozen=True)
class _Tree:
  """A tree that was found.

  Attributes:
    form: Form of the dataset.
    root: Top folder of the tree, to which file names are relative.
    folder: Folder of the selected camera and light.
  """

  form: _Form
  root: pathlib.Path
  folder: pathlib.Path


@dataclasses.dataclass(frozen=True)
class _Sequence:
  """One sequence of a person and expression.

  Attributes:
    subject: Identifier of the person, such as P001.
    folder: Folder of the sequence.
    label: Class of the expression.
    frames: Files of the frames in temporal order.
  """

  subject: str
  folder: pathlib.Path
  label: str
  frames: Sequence[pathlib.Path]


def read(folder: pathlib.Path, selection: Selection) -> ReaderResult:
  """Reads Oulu-CASIA from a folder: the original images or, if there are none, the cropped ones.

  Args:
    folder: Folder that contains either tree, directly or a few levels below.
    selection: Camera, light, frames and classes to take.

  Returns:
    The images by person, expression and frame, after decoding and checking each of them. The rejects are files and
    folders in unexpected locations, unreadable images, and sequences that are missing, empty or too short.

  Raises:
    UserError: The dataset is not found, or no image is usable.
  """
  trees = [tree for form in _FORMS if (tree := _find(folder, form, selection)) is not None]
  selection_path = f"{selection.camera}/{selection.light}"
  if not trees:
    raise photographs.not_found(
      folder,
      f"Oulu-CASIA {selection_path}",
      f"folders such as OriginalImg/{selection_path}/P001/Anger/ or PreProcess_Img/{selection.camera}_Acropped/"
      f"{selection.light}/P001/Anger/",
    )
  tree = trees[0]
  sequences, rejects = _list(tree)
  images = [image for sequence in sequences for image in _select_frames(sequence, tree, selection, rejects)]
  if not images:
    reasons = "; ".join(photographs.reject_lines(rejects)) or "it is empty"
    raise UserError(f"{tree.folder} has no usable sequence of {selection.needed_frames} frames or more: {reasons}")
  people = {sequence.subject for sequence in sequences}
  origin = {
    "form": tree.form.name,
    "path": str(tree.root),
    "contents": f"{selection_path}: {len(sequences)} sequences of {len(people)} people",
  }
  squares = {"": _SQUARE} if tree.form.framing == "photograph" else {}
  found = ReaderResult(tuple(images), origin, tree.form.framing, squares, tuple(rejects))
  found = photographs.check_images(found, "Oulu-CASIA", channels=1)
  warnings = [*found.warnings, *photographs.count_warning("Oulu-CASIA", found.counts(), selection.counts)]
  warnings += [
    f"the {other.form.name} images ({other.folder}) are present too and are not read: to read them, pass a "
    f"--manual_dir without the {tree.form.name} images"
    for other in trees[1:]
  ]
  comparison = _comparison(found, selection) if selection.reported else []
  return dataclasses.replace(found, warnings=tuple(warnings), comparison=tuple(comparison))


def _find(folder: pathlib.Path, form: _Form, selection: Selection) -> _Tree | None:
  """Returns the tree of a form, or None if there is none; raises UserError if there are several."""

  def selected_folder(root: pathlib.Path) -> pathlib.Path | None:
    camera = _subfolder(root, selection.camera + form.suffix)
    return camera and _subfolder(camera, selection.light)

  dataset = f"Oulu-CASIA's {form.name} images"
  root = photographs.only_folder(folder, dataset, lambda path: selected_folder(path) is not None)
  found = root and selected_folder(root)
  return _Tree(form, root, found) if root and found else None


def _subfolder(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """Returns the subfolder with a name, ignoring case, or None."""
  return next((path for path in photographs.folders_in(folder) if path.name.lower() == name.lower()), None)


def _list(tree: _Tree) -> tuple[list[_Sequence], list[Reject]]:
  """Returns the sequences that have frames, and all other files and folders of the tree as rejects."""
  subfolders = _sorted_subfolders(tree.folder)
  people = [path for path in subfolders if re.fullmatch(r"[Pp]\d{3}", path.name)]
  other_folders = [path for path in subfolders if path not in people]
  rejects = [Reject(f"{_relative_path(path, tree)}/", "not a person's folder such as P001") for path in other_folders]
  misplaced = [path for folder in (tree.folder, *people) for path in photographs.files_in(folder)]
  rejects += [Reject(_relative_path(path, tree), "not inside a sequence folder") for path in misplaced]
  sequences: list[_Sequence] = []
  for person in people:
    labels: set[str] = set()
    for folder in _sorted_subfolders(person):
      label = CLASS_BY_FOLDER.get(folder.name.lower())
      if label is None or label in labels:
        reason = (
          "not an expression's folder such as Anger" if label is None else "another folder of the same expression"
        )
        rejects.append(Reject(f"{_relative_path(folder, tree)}/", reason))
        continue
      labels.add(label)
      frames, invalid = photographs.frames_in(folder, tree.root, _frame_number)
      rejects += [
        *invalid,
        *(
          Reject(f"{_relative_path(path, tree)}/", "unexpected subfolder of a sequence")
          for path in photographs.folders_in(folder)
        ),
      ]
      if frames:
        sequences.append(_Sequence(person.name.upper(), folder, label, frames))
      else:
        rejects.append(Reject(f"{_relative_path(folder, tree)}/", "sequence without frames"))
    missing = [name.capitalize() for name, label in CLASS_BY_FOLDER.items() if label not in labels]
    rejects += [Reject(f"{_relative_path(person, tree)}/{name}/", "missing sequence") for name in missing]
  return sequences, rejects


def _sorted_subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the direct subfolders of a folder, sorted by name without regard to case."""
  return sorted(photographs.folders_in(folder), key=lambda path: path.name.lower())


def _relative_path(path: pathlib.Path, tree: _Tree) -> str:
  return path.relative_to(tree.root).as_posix()


def _frame_number(path: pathlib.Path) -> int | str:
  """Returns the number of a frame, or a description of the fault in its name."""
  is_frame = re.fullmatch(r"[0-9]+", path.stem) and path.suffix.lower() in photographs.SUFFIXES
  return int(path.stem) if is_frame else "unexpected file name, expected a frame such as 000.jpeg"


def _select_frames(sequence: _Sequence, tree: _Tree, selection: Selection, rejects: list[Reject]) -> list[Photograph]:
  """Returns the selected frames of a sequence; a sequence with too few frames is appended to `rejects` instead."""
  if len(sequence.frames) < selection.needed_frames:
    reason = f"sequence with fewer than {selection.needed_frames} frames"
    rejects.append(Reject(f"{_relative_path(sequence.folder, tree)}/", reason))
    return []
  earlier = sequence.frames[: -selection.last_frames]
  neutral = {"none": [], "first": earlier[:1], "earlier": earlier}[selection.neutral]
  chosen = [(path, NEUTRAL) for path in neutral]
  chosen += [(path, sequence.label) for path in sequence.frames[-selection.last_frames :]]
  group = f"{sequence.subject}_{sequence.folder.name.capitalize()}"
  return [
    Photograph(_relative_path(path, tree), label, sequence.subject, group, path.read_bytes) for path, label in chosen
  ]


def _comparison(found: ReaderResult, selection: Selection) -> list[str]:
  """Returns the lines of a table that compares the images with the paper's, and of a note on what is inferred."""
  title = "table 2 of the paper on separable convolutions"
  expressions = sum(count for name, count in selection.reported.items() if name != NEUTRAL)
  return [
    *photographs.count_table(found.counts(), selection.reported, title),
    f"Inferred, not stated in the paper: the last {selection.last_frames} frames of a sequence have its class, all",
    f"earlier frames are neutral ({expressions:,} frames of 480 sequences: {expressions / 480:.2f} per sequence).",
  ]
