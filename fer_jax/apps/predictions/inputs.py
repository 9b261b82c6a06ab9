"""What a user names on the command line, as a list of files."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fer_jax.errors import UserError

PICTURES = frozenset(
  (".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm")
)
VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".mts", ".ts"))
_FOLDER, _LINK = "folders that match", "links to folders"


class File(NamedTuple):
  """A file to look at.

  Attributes:
    path: of the file.
    name: its place below the folder that was named; its own name where it was named itself. No two files have the
      same, a later one has a number at its end.
  """

  path: Path
  name: str

  @property
  def is_video(self) -> bool:
    """Whether it is read as a video: its name ends like one."""
    return self.path.suffix.lower() in VIDEOS

  @property
  def is_known(self) -> bool:
    """Whether it ends like a picture or a video, or is a folder that may not be looked into: the row will say so."""
    return self.path.suffix.lower() in PICTURES | VIDEOS or os.path.isdir(self.path)


class Listing(NamedTuple):
  """What was found.

  Attributes:
    files: in the order in which they were named; those of a folder by name.
    passed_over: how many things in folders, or that match a pattern, are not looked at: files that end like neither a
      picture nor a video, by ending, and folders.
  """

  files: list[File]
  passed_over: Counter[str]


def listing(arguments: Sequence[str], lines: Iterable[str]) -> Listing:
  """Lists the files that arguments name.

  Args:
    arguments: files, folders (with all below them), patterns such as "faces/**/*.jpg", or "-" for `lines`.
    lines: of the list that is read for "-", a file each; one that does not exist becomes a row that says so.

  Raises:
    UserError: an argument names nothing, or a folder in which nothing can be looked at.
  """
  files: list[File] = []
  passed_over: Counter[str] = Counter()
  for argument in arguments:
    path = Path(os.path.expanduser(argument))
    if argument == "-":
      named = [line.rstrip("\r\n") for line in lines]
      files += [File(Path(name), Path(name).name) for name in named if name.strip()]
    elif os.path.isdir(path):
      inside = _below(path, passed_over)
      strange = [file for file in inside if not file.is_known]
      known = [file for file in inside if file.is_known]
      passed_over.update(file.path.suffix.lower() or "no ending" for file in strange)
      if not known:
        raise UserError(f"{argument}: no picture and no video below this folder; expected files such as *.jpg, *.mp4")
      files += known
    elif os.path.exists(path):
      files.append(File(path, path.name))
    else:
      matches = sorted(glob.glob(str(path), recursive=True))
      found = [name for name in matches if not os.path.isdir(name)]
      passed_over[_FOLDER] += len(matches) - len(found)
      if not found:
        raise UserError(
          f"{argument}: no such file or folder, or no permission to look, and no file matches it as a pattern"
        )
      files += [File(Path(name), Path(name).name) for name in found]
  if not files:
    raise UserError("the list on standard input names no file; expected a path on each line")
  return Listing(_distinct(files), +passed_over)


def _distinct(files: Sequence[File]) -> list[File]:
  """Numbers the files whose names others have before them."""
  taken: set[str] = set()
  numbers: Counter[str] = Counter()
  found = []
  for file in files:
    name = file.name
    while name in taken:
      numbers[file.name] += 1
      name = f"{file.name}_{numbers[file.name] + 1}"
    taken.add(name)
    found.append(file._replace(name=name))
  return found


def _below(folder: Path, passed_over: Counter[str]) -> list[File]:
  """Lists what is in a folder and below it, hidden things left out, by name.

  Links to folders are counted and not followed, as they may be loops. A folder that may not be looked into is listed
  itself.
  """
  found: list[Path] = []

  def note(error: OSError) -> None:
    found.append(Path(error.filename))

  for place, inside, names in os.walk(folder, onerror=note):
    shown = [name for name in inside if not name.startswith(".")]
    inside[:] = [name for name in shown if not os.path.islink(os.path.join(place, name))]
    passed_over[_LINK] += len(shown) - len(inside)
    found += [Path(place, name) for name in names if not name.startswith(".")]
  return [File(path, str(path.relative_to(folder))) for path in sorted(found)]
