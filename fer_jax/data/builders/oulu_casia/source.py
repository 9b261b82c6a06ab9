"""Finds Oulu-CASIA in the folder a user points to, and reads it: `OriginalImg/VL/Strong/P001/Anger/000.jpeg`.

The cropped pictures are in a tree of their own, `PreProcess_Img/VL_Acropped/Strong/P001/Anger/000.jpeg`. The name of a
tree's top folder does not matter, nor whether names are in capitals.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

from fer_jax.data.builders import photographs
from fer_jax.data.builders.oulu_casia.selection import NEUTRAL, Selection
from fer_jax.data.builders.photographs import Found, Photograph, Reject
from fer_jax.errors import UserError

# By the folder's name in small letters.
_CLASS_OF_FOLDER = {
  **{"anger": "angry", "disgust": "disgust", "fear": "fear"},
  **{"happiness": "happy", "sadness": "sad", "surprise": "surprise"},
}
# Our choice. A frame is 320 x 240 with the face near its middle.
_SQUARE = (0.5, 0.5, 0.7)


@dataclasses.dataclass(frozen=True)
class _Form:
  """One of the two trees: its name, what its cameras' folders end in, and what its pictures show."""

  name: str
  suffix: str
  framing: str


_FORMS = (_Form("original", "", "photograph"), _Form("cropped", "_Acropped", "face"))


@dataclasses.dataclass(frozen=True)
class _Tree:
  """The folder of one camera and light (`folder`), and the one that its files are named from (`root`)."""

  form: _Form
  root: pathlib.Path
  folder: pathlib.Path


@dataclasses.dataclass(frozen=True)
class _Sequence:
  """The frames of one person and expression, in order of time."""

  subject: str
  folder: pathlib.Path
  label: str
  frames: Sequence[pathlib.Path]


def read(folder: pathlib.Path, selection: Selection) -> Found:
  """Reads Oulu-CASIA from a folder: the original pictures or, where there are none, the cropped ones.

  Args:
    folder: holds either tree, itself or a few levels below.
    selection: which pictures.

  Returns:
    The pictures by person, expression and frame, every one of them decoded and checked. Left out and listed are files
    and folders that do not belong where they lie, pictures that cannot be read, and sequences that are absent, empty
    or too short.

  Raises:
    UserError: saying what was looked for in vain, or that no picture can be used.
  """
  trees = [tree for form in _FORMS if (tree := _find(folder, form, selection)) is not None]
  place = f"{selection.camera}/{selection.light}"
  if not trees:
    raise photographs.not_found(
      folder,
      f"Oulu-CASIA {place}",
      f"folders such as OriginalImg/{place}/P001/Anger/ or PreProcess_Img/{selection.camera}_Acropped/"
      f"{selection.light}/P001/Anger/",
    )
  tree = trees[0]
  sequences, rejects = _list(tree)
  pictures = [picture for sequence in sequences for picture in _select(sequence, tree, selection, rejects)]
  if not pictures:
    faults = "; ".join(photographs.reject_lines(rejects)) or "it is empty"
    raise UserError(f"{tree.folder} has no usable sequence of {selection.needed_frames} frames or more: {faults}")
  people = {sequence.subject for sequence in sequences}
  origin = {
    "form": tree.form.name,
    "path": str(tree.root),
    "contents": f"{place}: {len(sequences)} sequences of {len(people)} people",
  }
  squares = {"": _SQUARE} if tree.form.framing == "photograph" else {}
  found = Found(tuple(pictures), origin, tree.form.framing, squares, tuple(rejects))
  found = photographs.checked(found, "Oulu-CASIA", channels=1)
  warnings = [*found.warnings, *photographs.count_warning("Oulu-CASIA", found.counts(), selection.counts)]
  warnings += [
    f"the {other.form.name} pictures ({other.folder}) are there as well and are not read: for these, give a "
    f"--manual_dir that holds no {tree.form.name} ones"
    for other in trees[1:]
  ]
  comparison = _comparison(found, selection) if selection.reported else []
  return dataclasses.replace(found, warnings=tuple(warnings), comparison=tuple(comparison))


def _find(folder: pathlib.Path, form: _Form, selection: Selection) -> _Tree | None:
  """Returns the tree of a form, None where there is none; raises UserError where there are several."""

  def inside(root: pathlib.Path) -> pathlib.Path | None:
    camera = _child(root, selection.camera + form.suffix)
    return camera and _child(camera, selection.light)

  dataset = f"Oulu-CASIA's {form.name} pictures"
  root = photographs.only_folder(folder, dataset, lambda path: inside(path) is not None)
  found = root and inside(root)
  return _Tree(form, root, found) if root and found else None


def _child(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """Returns the folder of a name, whatever its capitals."""
  return next((path for path in photographs.folders_in(folder) if path.name.lower() == name.lower()), None)


def _list(tree: _Tree) -> tuple[list[_Sequence], list[Reject]]:
  """Lists the sequences that have frames, and whatever else lies in a tree."""
  inside = _folders_in(tree.folder)
  people = [path for path in inside if re.fullmatch(r"[Pp]\d{3}", path.name)]
  others = [path for path in inside if path not in people]
  rejects = [Reject(f"{_name(path, tree)}/", "a folder of no person such as P001") for path in others]
  strays = [path for place in (tree.folder, *people) for path in photographs.files_in(place)]
  rejects += [Reject(_name(path, tree), "lies in no sequence's folder") for path in strays]
  sequences: list[_Sequence] = []
  for person in people:
    seen: set[str] = set()
    for folder in _folders_in(person):
      label = _CLASS_OF_FOLDER.get(folder.name.lower())
      if label is None or label in seen:
        reason = "a folder of no expression such as Anger" if label is None else "a second folder of its expression"
        rejects.append(Reject(f"{_name(folder, tree)}/", reason))
        continue
      seen.add(label)
      frames, faults = photographs.frames_in(folder, tree.root, _number)
      rejects += [
        *faults,
        *(Reject(f"{_name(path, tree)}/", "a folder in a sequence") for path in photographs.folders_in(folder)),
      ]
      if frames:
        sequences.append(_Sequence(person.name.upper(), folder, label, frames))
      else:
        rejects.append(Reject(f"{_name(folder, tree)}/", "a sequence without frames"))
    absent = [name.capitalize() for name, label in _CLASS_OF_FOLDER.items() if label not in seen]
    rejects += [Reject(f"{_name(person, tree)}/{name}/", "a sequence that is not there") for name in absent]
  return sequences, rejects


def _folders_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders inside a folder by name, whatever its capitals."""
  return sorted(photographs.folders_in(folder), key=lambda path: path.name.lower())


def _name(path: pathlib.Path, tree: _Tree) -> str:
  return path.relative_to(tree.root).as_posix()


def _number(path: pathlib.Path) -> int | str:
  """Returns the number of a frame, or what is wrong with its name."""
  named = re.fullmatch(r"[0-9]+", path.stem) and path.suffix.lower() in photographs.SUFFIXES
  return int(path.stem) if named else "the name is not that of a frame such as 000.jpeg"


def _select(sequence: _Sequence, tree: _Tree, selection: Selection, rejects: list[Reject]) -> list[Photograph]:
  """Takes the frames of a sequence that a selection names; none of a sequence that has too few."""
  if len(sequence.frames) < selection.needed_frames:
    reason = f"a sequence of fewer than {selection.needed_frames} frames"
    rejects.append(Reject(f"{_name(sequence.folder, tree)}/", reason))
    return []
  earlier = sequence.frames[: -selection.last_frames]
  neutral = {"none": [], "first": earlier[:1], "earlier": earlier}[selection.neutral]
  chosen = [(path, NEUTRAL) for path in neutral]
  chosen += [(path, sequence.label) for path in sequence.frames[-selection.last_frames :]]
  group = f"{sequence.subject}_{sequence.folder.name.capitalize()}"
  return [Photograph(_name(path, tree), label, sequence.subject, group, path.read_bytes) for path, label in chosen]


def _comparison(found: Found, selection: Selection) -> list[str]:
  """Returns a table that sets the pictures beside the paper's, and says what of the selection is inferred."""
  title = "table 2 of the paper on separable convolutions"
  expressions = sum(count for name, count in selection.reported.items() if name != NEUTRAL)
  return [
    *photographs.count_table(found.counts(), selection.reported, title),
    f"Inferred, the paper does not say it: the last {selection.last_frames} frames of a sequence have its class, all",
    f"earlier ones are neutral ({expressions:,} frames of 480 sequences: {expressions / 480:.2f} of each).",
  ]
