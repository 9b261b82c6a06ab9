"""Pictures of people as files: what a reader finds in a folder, and the checks that every file passes."""

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

from fer_jax.errors import UserError
from fer_jax.faces.pictures import UnreadablePicture, decode, in_channels, is_plain

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

# A square of a picture: its centre, as shares of the width and the height, and its side, as a share of the shorter.
Square = tuple[float, float, float]

_LITTER = ("thumbs.db", "desktop.ini")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")
# Of 255, on average over a picture: a portrait lies far above, even of dark hair before a dark wall.
_NEAR_BLACK = 20
_NAMED_AT_MOST = 20
_SEARCH_DEPTH = 4


@dataclasses.dataclass(frozen=True)
class Photograph:
  """One picture that a reader found and named.

  Attributes:
    file: its place within the dataset's tree.
    label: name of its class.
    subject: the person; "" where the source does not say.
    group: the sequence or the pose that its picture shares with others.
    read: returns the encoded picture.
    needs_encoding: whether it is stored as PNG because other programs would see something else in its own bytes than
      is seen here in the dataset's channels, or nothing (TIFF): they do not turn a picture upright, nor mix colours.
  """

  file: str
  label: str
  subject: str
  group: str
  read: Callable[[], bytes]
  needs_encoding: bool = False


@dataclasses.dataclass(frozen=True)
class Reject:
  """A file that is left out, and why."""

  file: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Found:
  """What a reader found of a dataset.

  Attributes:
    photographs: in the order of the dataset.
    origin: where they came from, as JSON: `form`, `path`, `contents` (what was there, in words) and, after `checked`,
      `sha256`.
    framing: "photograph" (head, shoulders, background) or "face" (cropped already).
    fixed_squares: of photographs, the part of a picture that shows the face in most of them, by what the subject's
      name begins with.
    rejects: the files left out.
    warnings: what is unusual about this copy, a line each.
    comparison: lines of a table that sets this copy beside a published one.
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
  """Returns the folders inside a folder by name, hidden ones left out."""
  return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files inside a folder by name; hidden ones and those that systems leave behind left out."""
  inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
  # A broken link is no folder: it stays in the list, so that whoever reads it says so.
  return [path for path in inside if not path.is_dir() and path.name.lower() not in _LITTER]


def files_below(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files in a folder and in those below it, as `files_in` does; nothing is looked at twice by links."""
  found: list[pathlib.Path] = []
  seen: set[str] = set()
  for place, inside, _ in os.walk(folder, followlinks=True):
    real = os.path.realpath(place)
    inside[:] = [] if real in seen else sorted(name for name in inside if not name.startswith("."))
    found += [] if real in seen else files_in(pathlib.Path(place))
    seen.add(real)
  return found


def frames_in(
  folder: pathlib.Path, root: pathlib.Path, number_of: Callable[[pathlib.Path], int | str]
) -> tuple[list[pathlib.Path], list[Reject]]:
  """Lists the frames of a sequence in order of time, and the files that are none.

  Args:
    folder: holds them.
    root: what the rejects' names are relative to.
    number_of: says which frame a file is or, in words, what is wrong with its name.
  """
  frames: dict[int, pathlib.Path] = {}
  rejects = []
  for path in files_in(folder):
    number = number_of(path)
    if isinstance(number, int) and number not in frames:
      frames[number] = path
    else:
      reason = number if isinstance(number, str) else "a second picture of its frame"
      rejects.append(Reject(path.relative_to(root).as_posix(), reason))
  return [frames[number] for number in sorted(frames)], rejects


def find_folders(root: pathlib.Path, is_wanted: Callable[[pathlib.Path], bool]) -> list[pathlib.Path]:
  """Returns the folders that are wanted, `root` or a few levels below it; what lies inside one is not looked at."""
  level, found = [root], []
  for _ in range(_SEARCH_DEPTH):
    wanted = [folder for folder in level if is_wanted(folder)]
    found += wanted
    level = [inside for folder in level if folder not in wanted for inside in folders_in(folder)]
  return found


def only_folder(root: pathlib.Path, dataset: str, is_wanted: Callable[[pathlib.Path], bool]) -> pathlib.Path | None:
  """Returns the one folder that is wanted, None where there is none; raises UserError where there are several."""
  found = find_folders(root, is_wanted)
  if len(found) > 1:
    raise UserError(
      f"--manual_dir={root} holds {dataset} {len(found)} times ({', '.join(map(str, found))}): give the folder of one"
    )
  return found[0] if found else None


def not_found(root: pathlib.Path, dataset: str, expected: str) -> UserError:
  """Returns the error that says what was looked for, and which archives could hold it."""
  archives = [path.name for path in files_in(root) if path.suffix.lower() in _ARCHIVES]
  hint = f"; unpack {', '.join(archives)} there first" if archives else ""
  return UserError(f"--manual_dir={root} holds no {dataset}; looked for {expected}{hint}")


def checked(found: Found, dataset: str, channels: int) -> Found:
  """Decodes every picture, and leaves out those that are none.

  Args:
    found: what a reader found.
    dataset: its name, for messages.
    channels: 1 for grey, 3 for colour; for `needs_encoding`.

  Returns:
    `found` with unreadable files among `rejects`, pictures of odd size and near-black ones among `warnings`, and the
    SHA-256 of all files and their names in `origin`.

  Raises:
    UserError: if no picture is left.
  """
  digest = hashlib.sha256()
  kept, rejects, dark = [], list(found.rejects), []
  sizes: dict[str, list[str]] = {}
  for photograph in tfds_utils.tqdm(found.photographs, desc=f"Reading {dataset}", unit=" pictures", leave=False):
    try:
      data = photograph.read()
    except OSError as error:
      rejects.append(Reject(photograph.file, f"cannot be read: {error.strerror or error}"))
      continue
    digest.update(f"{photograph.file} {len(data)}\n".encode() + data)
    try:
      image = decode(data)
    except UnreadablePicture as error:
      # What follows the colon would give each kind of damage a line of its own.
      rejects.append(Reject(photograph.file, str(error).partition(":")[0]))
      continue
    kept.append(dataclasses.replace(photograph, needs_encoding=not is_plain(data, channels)))
    sizes.setdefault(f"{image.shape[1]}x{image.shape[0]}", []).append(photograph.file)
    if image.mean() < _NEAR_BLACK:
      dark.append(photograph.file)
  if not kept:
    raise UserError(f"{found.origin['path']} holds no usable picture of {dataset}; {_reasons(rejects)}")
  warnings = [*found.warnings, *_odd_sizes(dataset, sizes)]
  if dark:
    warnings.append(f"{dataset}: {len(dark)} near-black pictures are kept: {_names(dark)}")
  return dataclasses.replace(
    found,
    photographs=tuple(kept),
    origin={**found.origin, "sha256": digest.hexdigest()},
    rejects=tuple(rejects),
    warnings=tuple(warnings),
  )


def encoded(photograph: Photograph, channels: int) -> bytes:
  """Returns a picture as it is stored: the file's own bytes, or as PNG in the dataset's channels."""
  data = photograph.read()
  if not photograph.needs_encoding:
    return data
  try:
    image = in_channels(decode(data), channels)
  except UnreadablePicture:
    raise UserError(
      f"{photograph.file} has changed since it was checked, and cannot be read any more: start again"
    ) from None
  return cv2.imencode(".png", image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def reject_lines(rejects: Sequence[Reject]) -> list[str]:
  """Returns a line for each reason, which names every file that was left out for it."""
  files: dict[str, list[str]] = {}
  for reject in rejects:
    files.setdefault(reject.reason, []).append(reject.file)
  return [f"{len(names)} left out ({reason}): {', '.join(names)}" for reason, names in files.items()]


def count_warning(dataset: str, counts: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
  """Returns a line that names the classes whose counts are not the published ones; none where all are."""
  differing = [
    f"{name} {counts.get(name, 0)} of {count}" for name, count in published.items() if counts.get(name, 0) != count
  ]
  if not differing:
    return []
  return [
    f"these pictures of {dataset} are not those that were published: {', '.join(differing)}. Results on them cannot be "
    "compared with published ones"
  ]


def count_table(
  counts: Mapping[str, int], published: Mapping[str, int], title: str, reasons: Mapping[str, str] | None = None
) -> list[str]:
  """Returns a table that sets the number of pictures of each class beside a published one.

  Args:
    counts: of the pictures that are here.
    published: the classes in their order, and their counts.
    title: of the published column.
    reasons: why a class differs, where that is known.
  """
  lines = [f"class       here   {title}"]
  for name, count in published.items():
    line = table_line(name, counts.get(name, 0), count)
    reason = (reasons or {}).get(name) if counts.get(name, 0) != count else None
    lines.append(f"{line}   {reason}" if reason else line)
  return [*lines, table_line("total", sum(counts.get(name, 0) for name in published), sum(published.values()))]


def table_line(name: str, here: int, published: int) -> str:
  """Returns a line of `count_table`."""
  return f"{name:<10}{here:>6}{published:>8}"


def drawn(write: Callable[[pathlib.Path], None], read: Callable[[pathlib.Path], Found], trees: str) -> Found:
  """Returns what a reader finds in drawn trees, which are gone afterwards: the pictures are in memory.

  Args:
    write: draws the trees into a folder.
    read: reads them, and checks every picture.
    trees: whose they are, in words.
  """
  with tempfile.TemporaryDirectory() as folder:
    write(pathlib.Path(folder))
    found = read(pathlib.Path(folder))
    pictures = tuple(
      dataclasses.replace(photograph, read=functools.partial(bytes, photograph.read()))
      for photograph in found.photographs
    )
  # What sets the pictures beside the published ones, and the place of the folder, mean nothing here.
  origin = {key: found.origin[key] for key in ("contents", "sha256")}
  origin |= {"form": "drawn", "path": f"drawn in {trees}"}
  return dataclasses.replace(found, photographs=pictures, origin=origin, warnings=(), comparison=())


def _odd_sizes(dataset: str, sizes: Mapping[str, Sequence[str]]) -> list[str]:
  usual = max(sizes, key=lambda size: len(sizes[size]))
  return [
    f"{dataset}: {len(files)} of the pictures are {size}, most are {usual}; they are kept: {_names(files)}"
    for size, files in sizes.items()
    if size != usual
  ]


def _names(files: Sequence[str]) -> str:
  more = len(files) - _NAMED_AT_MOST
  return ", ".join(files[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _reasons(rejects: Iterable[Reject]) -> str:
  counts = collections.Counter(reject.reason for reject in rejects)
  left_out = ", ".join(f"{count} {reason}" for reason, count in counts.items())
  return f"left out: {left_out}: unpack it again" if left_out else "unpack it again"
