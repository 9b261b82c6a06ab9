"""Expands the inputs on the command line to a list of files."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fer_jax.data import images
from fer_jax.faces import video
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import local_path

_FOLDERS, _LINKS = "matching folders", "links to folders"


class File(NamedTuple):
  """An input file.

  Attributes:
    path: Path of the file.
    name: Path relative to the given folder, or the file name if the file was given itself. Names are unique: a repeated
      name gets a numeric suffix.
  """

  path: Path
  name: str

  @property
  def is_video(self) -> bool:
    """Whether the file is read as a video: judged by its suffix; without a known one, by not being an image."""
    suffix = self.path.suffix.lower()
    return suffix in video.SUFFIXES or (suffix not in images.SUFFIXES and not images.may_be_image(self.path))

  @property
  def is_known(self) -> bool:
    """Whether the file has the suffix of an image or video, or is an unreadable folder (reported in its row)."""
    return self.path.suffix.lower() in images.SUFFIXES | video.SUFFIXES or os.path.isdir(self.path)


class FileList(NamedTuple):
  """The files to process.

  Attributes:
    files: Files in the order of the arguments; those of a folder sorted by name.
    skipped: Number of skipped entries of folders and pattern matches, by kind: files with neither an image nor a
      video suffix (by suffix), matching folders, and links to folders.
  """

  files: list[File]
  skipped: Counter[str]


def list_files(arguments: Sequence[str], lines: Iterable[str]) -> FileList:
  """Lists the files given by command-line arguments.

  Args:
    arguments: Files, folders (searched recursively), patterns such as "faces/**/*.jpg", or "-" for `lines`.
    lines: Lines of the list read for "-", one path per line. Paths that do not exist are kept and get an error row.

  Returns:
    Files to process, and counts of skipped entries.

  Raises:
    UserError: An argument matches nothing, or a folder contains no image or video.
  """
  files: list[File] = []
  skipped: Counter[str] = Counter()
  for argument in arguments:
    if not argument:
      raise UserError("an input is empty; expected a file, a folder or a pattern")
    path = local_path(argument)
    if argument == "-":
      listed = [Path(line.rstrip("\r\n")) for line in lines if line.strip()]
      files += [File(each, each.name) for each in listed]
    elif os.path.isdir(path):
      contents = _files_in(path, skipped)
      known = [file for file in contents if file.is_known]
      skipped.update(file.path.suffix.lower() or "no suffix" for file in contents if not file.is_known)
      if not known:
        raise UserError(f"{argument}: no image or video in this folder; expected files such as *.jpg, *.mp4")
      files += known
    elif os.path.exists(path):
      files.append(File(path, path.name))
    else:
      # Not an existing path: interpret it as a pattern.
      matches = sorted(glob.glob(str(path), recursive=True))
      found = [name for name in matches if not os.path.isdir(name)]
      skipped[_FOLDERS] += len(matches) - len(found)
      if not found:
        raise UserError(
          f"{argument}: no such file or folder, or no permission to read it; and no file matches it as a pattern"
        )
      files += [File(Path(name), Path(name).name) for name in found]
  if not files:
    raise UserError("the list on standard input contains no path; expected one path per line")
  return FileList(_with_unique_names(files), +skipped)  # unary + drops counts of 0


def _with_unique_names(files: Sequence[File]) -> list[File]:
  """Makes the names unique: a repeated name gets the suffix _2, _3, ..."""
  used: set[str] = set()
  numbers: Counter[str] = Counter()
  found = []
  for file in files:
    name = file.name
    while name in used:
      numbers[file.name] += 1
      name = f"{file.name}_{numbers[file.name] + 1}"
    used.add(name)
    found.append(file._replace(name=name))
  return found


def _files_in(folder: Path, skipped: Counter[str]) -> list[File]:
  """Lists all files below a folder, sorted by path, without hidden files and folders.

  Links to folders are counted and not followed because they may form loops. An unreadable folder is listed itself, so
  it gets an error row.
  """
  found: list[Path] = []

  def add_unreadable(error: OSError) -> None:
    found.append(Path(error.filename))

  for parent, subfolders, names in os.walk(folder, onerror=add_unreadable):
    visible = [name for name in subfolders if not name.startswith(".")]
    # os.walk descends into the folders that remain in this list.
    subfolders[:] = [name for name in visible if not os.path.islink(os.path.join(parent, name))]
    skipped[_LINKS] += len(visible) - len(subfolders)
    found += [Path(parent, name) for name in names if not name.startswith(".")]
  return [File(path, str(path.relative_to(folder))) for path in sorted(found)]
