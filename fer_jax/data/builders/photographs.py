"""Photographs of people as files: the result of a dataset reader, and the checks that every file passes."""

import collections
import dataclasses
import functools
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence

import cv2
from tensorflow_datasets.core import utils as tfds_utils

from fer_jax.data.images import UnreadableImage, decode, in_channels, is_plain
from fer_jax.runtime.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

# A square of an image as (centre x, centre y, side): fractions of the width, the height and the shorter side.
Square = tuple[float, float, float]

_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_SYSTEM_FOLDERS = ("__macosx",)
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")
# Mean grey level (0 to 255) below which an image counts as near-black. Portraits are far above it, even of a person
# with dark hair in front of a dark wall.
_NEAR_BLACK = 20
_MAX_NAMED = 20
_SEARCH_DEPTH = 4


@dataclasses.dataclass(frozen=True)
class Photograph:
  """One image of a dataset, with its annotations.

  Attributes:
    file: Path relative to the dataset's folder.
    label: Name of the class.
    subject: Identifier of the person; "" if the source does not identify people.
    group: Identifier of the sequence or pose that the image shares with other images.
    read: Function that returns the encoded image.
    needs_encoding: Whether the image is stored as PNG instead of the bytes of its file. True if other programs would
      decode those bytes differently than this package does with the dataset's channels (they apply no EXIF rotation and
      no conversion to grey), or not at all (TIFF).
    split: Name of the split.
  """

  file: str
  label: str
  subject: str
  group: str
  read: Callable[[], bytes]
  needs_encoding: bool = False
  split: str = "train"


@dataclasses.dataclass(frozen=True)
class Reject:
  """A file that is left out of the dataset.

  Attributes:
    file: Path relative to the dataset's folder.
    reason: Short description of the fault; files with the same reason are reported on one line.
  """

  file: str
  reason: str


@dataclasses.dataclass(frozen=True)
class ReaderResult:
  """The result of a dataset reader.

  Attributes:
    photographs: Images in the order of the dataset.
    origin: JSON-compatible description of the source: `form`, `path`, `contents` (a summary in plain text) and, after
      `check_images`, `sha256`.
    framing: "photograph" (head, shoulders, background) or "face" (already cropped).
    fixed_squares: Square that shows the face in most images, by prefix of the subject's name; empty for cropped faces.
    rejects: Files that are left out.
    warnings: Differences between this copy and the published dataset, one line each.
    comparison: Lines of a table that compares this copy with a published one.
  """

  photographs: tuple[Photograph, ...]
  origin: dict[str, str]
  framing: str
  fixed_squares: Mapping[str, Square] = dataclasses.field(default_factory=dict)
  rejects: tuple[Reject, ...] = ()
  warnings: tuple[str, ...] = ()
  comparison: tuple[str, ...] = ()

  def counts(self) -> collections.Counter[str]:
    """Returns the number of photographs of each class."""
    return collections.Counter(photograph.label for photograph in self.photographs)


def folders_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the direct subfolders of a folder, sorted by name, without hidden and operating-system folders."""
  return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files directly in a folder, sorted by name, without hidden files and operating-system files."""
  entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
  # `not is_dir()` rather than `is_file()`: a broken link stays in the list and is reported when it is read.
  return [path for path in entries if not path.is_dir() and path.name.lower() not in _SYSTEM_FILES]


def files_below(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files in a folder and all its subfolders, filtered as in `files_in`; [] if there is no such folder.

  Symbolic links are followed; a folder that several links reach is visited once.

  Raises:
    UserError: A folder cannot be read.
  """

  def refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
      raise UserError(f"{error.filename}: the folder cannot be read ({error.strerror})") from None

  found: list[pathlib.Path] = []
  visited: set[str] = set()
  for directory, subfolders, _ in os.walk(folder, followlinks=True, onerror=refuse):
    real_path = os.path.realpath(directory)
    # Assigning to the slice changes the list that os.walk descends into.
    subfolders[:] = [] if real_path in visited else sorted(name for name in subfolders if not _is_hidden(name))
    found += [] if real_path in visited else files_in(pathlib.Path(directory))
    visited.add(real_path)
  return found


def as_utf8(name: str) -> str:
  """Returns the name of a file with escapes such as \\udce9 for bytes that are not UTF-8; other names unchanged."""
  return name.encode(errors="backslashreplace").decode()


def _is_hidden(folder: str) -> bool:
  return folder.startswith(".") or folder.lower() in _SYSTEM_FOLDERS


def frames_in(
  folder: pathlib.Path, root: pathlib.Path, number_of: Callable[[pathlib.Path], int | str]
) -> tuple[list[pathlib.Path], list[Reject]]:
  """Returns the frames of a sequence in temporal order, and the files that are not frames.

  Args:
    folder: Folder of the sequence.
    root: Folder to which the paths of the rejects are relative.
    number_of: Function that returns the frame number of a file, or a description of the fault in its name.
  """
  frames: dict[int, pathlib.Path] = {}
  rejects = []
  for path in files_in(folder):
    number = number_of(path)
    if isinstance(number, int) and number not in frames:
      frames[number] = path
    else:
      reason = number if isinstance(number, str) else "another image of the same frame"
      rejects.append(Reject(path.relative_to(root).as_posix(), reason))
  return [frames[number] for number in sorted(frames)], rejects


def find_folders(root: pathlib.Path, matches: Callable[[pathlib.Path], bool]) -> list[pathlib.Path]:
  """Returns the matching folders among `root` and its subfolders, at most _SEARCH_DEPTH - 1 levels below it.

  The search does not descend into a matching folder.
  """
  level, found = [root], []
  for _ in range(_SEARCH_DEPTH):
    matching = [folder for folder in level if matches(folder)]
    found += matching
    level = [subfolder for folder in level if folder not in matching for subfolder in folders_in(folder)]
  return found


def only_folder(root: pathlib.Path, dataset: str, matches: Callable[[pathlib.Path], bool]) -> pathlib.Path | None:
  """Returns the only matching folder, or None if there is none; raises UserError if there are several."""
  found = find_folders(root, matches)
  if len(found) > 1:
    raise UserError(
      f"--manual_dir={root} contains {dataset} {len(found)} times ({', '.join(map(str, found))}): pass the folder of "
      "one of them"
    )
  return found[0] if found else None


def not_found(root: pathlib.Path, dataset: str, expected: str) -> UserError:
  """Returns the error for a missing dataset, with the expected files and the archives that may contain them."""
  archives = [path.name for path in files_in(root) if path.suffix.lower() in _ARCHIVES]
  hint = f"; unpack {', '.join(archives)} there first" if archives else ""
  return UserError(f"--manual_dir={root} does not contain {dataset}; expected {expected}{hint}")


def check_images(found: ReaderResult, dataset: str, channels: int) -> ReaderResult:
  """Decodes every image and moves the unreadable files to `rejects`.

  Args:
    found: Result of a reader.
    dataset: Name of the dataset in messages.
    channels: Number of channels of the dataset, 1 (grey) or 3 (colour); determines `needs_encoding`.

  Returns:
    Copy of `found` with unreadable files in `rejects`, images of unusual size and near-black images in `warnings`, and
    the SHA-256 of all file names and contents in `origin`.

  Raises:
    UserError: No image is readable.
  """
  digest = hashlib.sha256()
  photographs, rejects, near_black = [], list(found.rejects), []
  sizes: dict[str, list[str]] = {}
  for photograph in tfds_utils.tqdm(found.photographs, desc=f"Reading {dataset}", unit=" images", leave=False):
    if (name := as_utf8(photograph.file)) != photograph.file:  # TFDS stores names as UTF-8
      rejects.append(Reject(name, "the name is not UTF-8"))
      continue
    try:
      data = photograph.read()
    except OSError as error:
      rejects.append(Reject(photograph.file, f"cannot be read: {error.strerror or error}"))
      continue
    # The length separates the name and the contents of one file from the next, so that the digest is unambiguous.
    digest.update(f"{photograph.file} {len(data)}\n".encode() + data)
    try:
      image = decode(data)
    except UnreadableImage as error:
      # Only the text before the colon: with the details after it, each kind of damage would be a separate line.
      rejects.append(Reject(photograph.file, str(error).partition(":")[0]))
      continue
    photographs.append(dataclasses.replace(photograph, needs_encoding=not is_plain(data, channels)))
    sizes.setdefault(f"{image.shape[1]}x{image.shape[0]}", []).append(photograph.file)
    if image.mean() < _NEAR_BLACK:
      near_black.append(photograph.file)
  if not photographs:
    raise UserError(f"{found.origin['path']} contains no usable image of {dataset}; {_reasons(rejects)}")
  warnings = [*found.warnings, *_odd_sizes(dataset, sizes)]
  if near_black:
    warnings.append(f"{dataset}: {len(near_black)} near-black images are kept: {_names(near_black)}")
  return dataclasses.replace(
    found,
    photographs=tuple(photographs),
    origin={**found.origin, "sha256": digest.hexdigest()},
    rejects=tuple(rejects),
    warnings=tuple(warnings),
  )


def encoded(photograph: Photograph, channels: int) -> bytes:
  """Returns an image as it is stored: the bytes of its file, or a PNG with the dataset's channels."""
  data = photograph.read()
  if not photograph.needs_encoding:
    return data
  try:
    image = in_channels(decode(data), channels)
  except UnreadableImage:
    raise UserError(
      f"{photograph.file} has changed since it was checked and is no longer readable: prepare the dataset again"
    ) from None
  # `image` is [H, W] or RGB [H, W, 3]; OpenCV encodes BGR.
  return cv2.imencode(".png", image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def reject_lines(rejects: Sequence[Reject]) -> list[str]:
  """Returns one line per reason, with every file that was left out for it."""
  files: dict[str, list[str]] = {}
  for reject in rejects:
    files.setdefault(reject.reason, []).append(reject.file)
  return [f"{len(names)} left out ({reason}): {', '.join(names)}" for reason, names in files.items()]


def count_warning(dataset: str, counts: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
  """Returns one warning with the classes whose counts differ from the published ones; [] if all counts agree."""
  differing = [
    f"{name} {counts.get(name, 0)} of {count}" for name, count in published.items() if counts.get(name, 0) != count
  ]
  if not differing:
    return []
  return [
    f"the images of {dataset} differ from the published dataset: {', '.join(differing)}. Results on them are not "
    "comparable with published ones"
  ]


def count_table(
  counts: Mapping[str, int], published: Mapping[str, int], title: str, reasons: Mapping[str, str] | None = None
) -> list[str]:
  """Returns the lines of a table that compares the number of images of each class with a published number.

  Args:
    counts: Number of images of each class in this copy.
    published: Published number of images of each class, in the order of the table.
    title: Title of the published column.
    reasons: Explanation of the difference, for the classes that have one.
  """
  lines = [f"class       here   {title}"]
  for name, count in published.items():
    line = table_line(name, counts.get(name, 0), count)
    reason = (reasons or {}).get(name) if counts.get(name, 0) != count else None
    lines.append(f"{line}   {reason}" if reason else line)
  return [*lines, table_line("total", sum(counts.get(name, 0) for name in published), sum(published.values()))]


def table_line(name: str, count: int, published: int) -> str:
  """Returns one line of `count_table`."""
  return f"{name:<10}{count:>6}{published:>8}"


def read_drawn(
  write: Callable[[pathlib.Path], None], read: Callable[[pathlib.Path], ReaderResult], layout: str
) -> ReaderResult:
  """Returns the result of a reader on synthetic dataset folders.

  The folders are temporary: the images of the result are in memory.

  Args:
    write: Function that writes the synthetic dataset into a folder.
    read: Reader of the dataset, which checks every image.
    layout: Description of the layout, such as "the official tree of JAFFE".
  """
  with tempfile.TemporaryDirectory() as folder:
    write(pathlib.Path(folder))
    found = read(pathlib.Path(folder))
    # Read now: the files are deleted on leaving the `with` block.
    images = tuple(
      dataclasses.replace(photograph, read=functools.partial(bytes, photograph.read()))
      for photograph in found.photographs
    )
  # The temporary path and the comparison with the published dataset are meaningless for synthetic images.
  origin = {key: found.origin[key] for key in ("contents", "sha256")}
  origin |= {"form": "drawn", "path": f"drawn in {layout}"}
  return dataclasses.replace(found, photographs=images, origin=origin, warnings=(), comparison=())


def _odd_sizes(dataset: str, sizes: Mapping[str, Sequence[str]]) -> list[str]:
  most_common = max(sizes, key=lambda size: len(sizes[size]))
  return [
    f"{dataset}: {len(files)} images are {size}, most are {most_common}; they are kept: {_names(files)}"
    for size, files in sizes.items()
    if size != most_common
  ]


def _names(files: Sequence[str]) -> str:
  more = len(files) - _MAX_NAMED
  return ", ".join(files[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _reasons(rejects: Iterable[Reject]) -> str:
  counts = collections.Counter(reject.reason for reject in rejects)
  left_out = ", ".join(f"{count} {reason}" for reason, count in counts.items())
  return f"left out: {left_out}: unpack the dataset again" if left_out else "unpack the dataset again"
