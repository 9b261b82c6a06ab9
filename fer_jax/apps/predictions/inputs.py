"""What a user names on the command line, as a list of files."""

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fer_jax.errors import UserError

PICTURES = frozenset(
  (".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm")
)
VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".mts", ".ts"))


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


class Listing(NamedTuple):
  """What was found.

  Attributes:
    files: in the order in which they were named; those of a folder by name.
    passed_over: how many files in folders end like neither a picture nor a video, by ending.
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
    path = Path(argument).expanduser()
    if argument == "-":
      named = [line.rstrip("\r\n") for line in lines]
      files += [File(Path(name), Path(name).name) for name in named if name.strip()]
    elif path.is_dir():
      inside = _below(path)
      known = [file for file in inside if file.path.suffix.lower() in PICTURES | VIDEOS]
      passed_over.update(file.path.suffix.lower() or "no ending" for file in inside)
      if not known:
        raise UserError(f"{argument}: no picture and no video below this folder; expected files such as *.jpg, *.mp4")
      files += known
    elif path.exists():
      files.append(File(path, path.name))
    else:
      found = sorted(name for name in glob.glob(str(path), recursive=True) if not os.path.isdir(name))
      if not found:
        raise UserError(f"{argument}: no such file or folder, and no file matches it as a pattern; check the path")
      files += [File(Path(name), Path(name).name) for name in found]
  if not files:
    raise UserError("the list on standard input names no file; expected a path on each line")
  for ending in PICTURES | VIDEOS:
    del passed_over[ending]
  return Listing(_distinct(files), passed_over)


def _distinct(files: Sequence[File]) -> list[File]:
  """Numbers the files whose names others have before them."""
  taken: set[str] = set()
  found = []
  for file in files:
    names = itertools.chain([file.name], (f"{file.name}_{n}" for n in itertools.count(2)))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    found.append(file._replace(name=name))
  return found


def _below(folder: Path) -> list[File]:
  return [File(path, str(path.relative_to(folder))) for path in sorted(_walk(folder))]


def _walk(folder: Path) -> Iterator[Path]:
  """Yields the files below a folder that are not hidden; links to folders are not followed, as they may be loops."""
  for place, inside, names in os.walk(folder):
    inside[:] = [name for name in inside if not name.startswith(".")]
    yield from (Path(place, name) for name in names if not name.startswith("."))
