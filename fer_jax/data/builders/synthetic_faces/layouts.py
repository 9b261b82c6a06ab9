"""Writes synthetic faces in the official layouts of real datasets, to test their readers without the data.

    write_fer2013_csv(folder / "fer2013.csv", rows_per_split=14)
    write_tree("ck_plus", folder, subjects=2)

Names, columns and codes are the official ones; every image is synthetic.
"""

import csv
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from fer_jax.data.builders.fer2013 import ferplus
from fer_jax.data.builders.fer2013.csv_form import SPLIT_BY_USAGE
from fer_jax.data.builders.fer2013.raw import SIZE as FER2013_SIZE
from fer_jax.data.builders.jaffe import source as jaffe
from fer_jax.data.builders.kdef import source as kdef
from fer_jax.data.builders.oulu_casia import source as oulu_casia
from fer_jax.data.builders.synthetic_faces.expressions import EXPRESSIONS
from fer_jax.data.builders.synthetic_faces.images import render_image

_VOTE_BY_EXPRESSION = {
  "angry": "anger",
  "disgust": "disgust",
  "fear": "fear",
  "happy": "happiness",
  "sad": "sadness",
  "surprise": "surprise",
  "neutral": "neutral",
}
_VOTERS = 10
_CONTEMPT = "contempt"


@dataclasses.dataclass(frozen=True)
class _Row:
  """One row of a table of faces.

  Attributes:
    emotion: Label of the row.
    usage: Subset of the row, a key of SPLIT_BY_USAGE.
    subject: Number of the person.
    expression: Name of the rendered expression.
  """

  emotion: int
  usage: str
  subject: int
  expression: str

  def pixels(self, seed: int) -> str:
    """Returns the 48 * 48 grey levels as text, separated by spaces."""
    image = render_image(seed, self.subject, self.expression, 0, FER2013_SIZE)
    return " ".join(map(str, image.ravel().tolist()))


def _rows(rows_per_split: int, expressions: Sequence[str]) -> list[_Row]:
  """Returns the rows of the three subsets; the classes alternate, and each cycle of classes shows another person."""
  rows = []
  for number, usage in enumerate(usage for usage in SPLIT_BY_USAGE for _ in range(rows_per_split)):
    subject, emotion = divmod(number, len(expressions))
    rows.append(_Row(emotion, usage, subject, expressions[emotion]))
  return rows


def write_fer2013_csv(path: Path, rows_per_split: int, seed: int = 0) -> None:
  """Writes `fer2013.csv` with the columns emotion, pixels and Usage.

  Args:
    path: File to write.
    rows_per_split: Number of rows for each Usage.
    seed: Random seed of the images.
  """
  _write_pixel_table(path, ("emotion", "pixels", "Usage"), _rows(rows_per_split, [*EXPRESSIONS]), seed)


def write_icml_csv(path: Path, rows_per_split: int, seed: int = 0) -> None:
  """Writes `icml_face_data.csv`: the rows of `write_fer2013_csv` with another order of columns and another header."""
  # The official header has these leading spaces.
  _write_pixel_table(path, ("emotion", " Usage", " pixels"), _rows(rows_per_split, [*EXPRESSIONS]), seed)


def write_ckextended_csv(path: Path, rows_per_split: int, seed: int = 0) -> None:
  """Writes `ckextended.csv`: FER2013's columns and labels, with the additional label 7 for contempt."""
  rows = _rows(rows_per_split, [*EXPRESSIONS, _CONTEMPT])
  _write_pixel_table(path, ("emotion", "pixels", "Usage"), rows, seed)


def _write_pixel_table(path: Path, header: Sequence[str], rows: Sequence[_Row], seed: int) -> None:
  with path.open("w", newline="") as file:
    table = csv.writer(file, lineterminator="\n")
    table.writerow(header)
    for row in rows:
      cells = {"emotion": row.emotion, "pixels": row.pixels(seed), "Usage": row.usage}
      table.writerow([cells[column.strip()] for column in header])


def write_ferplus_csv(path: Path, rows_per_split: int, seed: int = 0, nameless: Sequence[int] = ()) -> None:
  """Writes `fer2013new.csv` with one row for each row of `write_fer2013_csv`; lines end in CR LF.

  Args:
    path: File to write.
    rows_per_split: Number of rows for each Usage.
    seed: Random seed of the votes. Six of ten votes are for the row's class, so it always has the majority.
    nameless: Rows without an image name, starting at 0; all their votes are "NF" (not a face).
  """
  rng = np.random.default_rng(seed)
  with path.open("w", newline="") as file:
    table = csv.writer(file, lineterminator="\r\n")
    table.writerow(["Usage", "Image name", *ferplus.COLUMNS])
    for number, row in enumerate(_rows(rows_per_split, [*EXPRESSIONS])):
      votes = np.zeros(len(ferplus.COLUMNS), int)
      if number in nameless:
        votes[ferplus.COLUMNS.index("NF")] = _VOTERS
      else:
        votes[ferplus.COLUMNS.index(_VOTE_BY_EXPRESSION[row.expression])] = 6
        votes += rng.multinomial(_VOTERS - 6, np.full(len(votes), 1 / len(votes)))
      name = "" if number in nameless else f"fer{number:07d}.png"
      table.writerow([row.usage, name, *votes.tolist()])


def write_kaggle_folders(directory: Path, per_class: int, seed: int = 0) -> None:
  """Writes FER2013's folder form: `train/<class>/Training_1.jpg`, `test/<class>/PublicTest_2.jpg` and so on.

  Args:
    directory: Parent folder of `train` and `test`.
    per_class: Number of images of each class for each Usage; `test` contains two of these subsets.
    seed: Random seed of the images.
  """
  for row_number, row in enumerate(_rows(per_class * len(EXPRESSIONS), [*EXPRESSIONS])):
    split = "train" if row.usage == "Training" else "test"
    image = render_image(seed, row.subject, row.expression, 0, FER2013_SIZE)
    _write_image(directory / split / row.expression / f"{row.usage}_{row_number}.jpg", image)


@dataclasses.dataclass(frozen=True)
class _File:
  """One image file of a tree.

  Attributes:
    path: Path relative to the tree's parent folder.
    expression: Name of the rendered expression.
    repetition: Number of the image among those of the subject and expression.
    strength: Fraction of the full expression, 0 to 1.
    yaw: Rotation of the head in radians; random if None.
    note: Accompanying text file as (path, content), or None.
  """

  path: str
  expression: str
  repetition: int = 0
  strength: float = 1.0
  yaw: float | None = None
  note: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
  """The official tree of a dataset.

  Attributes:
    height: Height of the images in pixels.
    width: Width of the images in pixels.
    colour: Whether the images have three channels.
    files: Function that returns the files of one subject, given the subject's number, starting at 0.
  """

  height: int
  width: int
  colour: bool
  files: Callable[[int], Iterator[_File]]


# Number of frames in a sequence of CK+ and of Oulu-CASIA.
_FRAMES = 6
_OULU_FRAMES = 8
# Names or codes of the expressions in the official file names.
_CK_PLUS = {
  "angry": "anger",
  _CONTEMPT: _CONTEMPT,
  "disgust": "disgust",
  "fear": "fear",
  "happy": "happy",
  "sad": "sadness",
  "surprise": "surprise",
}
_JAFFE = {name: code for code, name in jaffe.CLASS_BY_CODE.items()}
_KDEF = {name: code for code, name in kdef.CLASS_BY_CODE.items()}
# Yaw in radians of each camera angle.
_KDEF_YAW = {"FL": -0.7, "HL": -0.4, "S": 0.0, "HR": 0.4, "FR": 0.7}
_OULU = {name: folder.capitalize() for folder, name in oulu_casia.CLASS_BY_FOLDER.items()}


def _ck_plus(subject: int) -> Iterator[_File]:
  """Yields one sequence per emotion, from rest to apex, with an Emotion file for the last frame.

  The last sequence has no Emotion file, like the unlabelled sequences of the real dataset.
  """
  person = f"S{subject + 5:03d}"
  for number, expression in enumerate([*_CK_PLUS, "happy"], start=1):
    for frame in range(1, _FRAMES + 1):
      path = f"{person}/{number:03d}/{person}_{number:03d}_{frame:08d}"
      has_label = frame == _FRAMES and number <= len(_CK_PLUS)
      note = (f"Emotion/{path}_emotion.txt", f"   {number:.7e}\n") if has_label else None
      strength = (frame - 1) / (_FRAMES - 1)
      yield _File(f"cohn-kanade-images/{path}.png", expression, number, strength, note=note)


def _ck48(subject: int) -> Iterator[_File]:
  for number, (expression, folder) in enumerate(_CK_PLUS.items(), start=1):
    for frame in (15, 16, 17):
      path = f"CK+48/{folder}/S{subject + 10:03d}_{number:03d}_{frame:08d}.png"
      yield _File(path, expression, strength=frame / 17)


def _jaffe(subject: int) -> Iterator[_File]:
  repetitions = 3
  first = subject * len(_JAFFE) * repetitions + 1
  for serial, (expression, number) in enumerate(itertools.product(_JAFFE, range(repetitions)), start=first):
    name = f"{jaffe.PEOPLE[subject]}.{_JAFFE[expression]}{number + 1}.{serial}.tiff"
    yield _File(name, expression, number)


def _kdef(subject: int) -> Iterator[_File]:
  person = f"{'FM'[subject % 2]}{subject // 2 + 1:02d}"
  for session, expression, angle in itertools.product("AB", _KDEF, _KDEF_YAW):
    path = f"{session}{person}/{session}{person}{_KDEF[expression]}{angle}.JPG"
    yield _File(path, expression, "AB".index(session), yaw=_KDEF_YAW[angle])


def _oulu_casia(root: str, suffix: str) -> Callable[[int], Iterator[_File]]:
  lights = itertools.product(("VL", "NI"), ("Strong", "Weak", "Dark"))
  folders = [f"{root}/{camera}{suffix}/{light}" for camera, light in lights]

  def files(subject: int) -> Iterator[_File]:
    for (repetition, folder), expression in itertools.product(enumerate(folders), _OULU):
      for frame in range(_OULU_FRAMES):
        path = f"{folder}/P{subject + 1:03d}/{_OULU[expression]}/{frame:03d}.jpeg"
        yield _File(path, expression, repetition, frame / (_OULU_FRAMES - 1))

  return files


LAYOUTS: Mapping[str, Layout] = {
  "ck_plus": Layout(490, 640, False, _ck_plus),
  "ck48": Layout(48, 48, False, _ck48),
  "jaffe": Layout(256, 256, False, _jaffe),
  "kdef": Layout(762, 562, True, _kdef),
  "oulu_casia": Layout(240, 320, True, _oulu_casia("OriginalImg", "")),
  "oulu_casia_cropped": Layout(80, 80, True, _oulu_casia("PreProcess_Img", "_Acropped")),
}


def write_tree(
  name: str, directory: Path, subjects: int = 2, seed: int = 0, scale: float = 1.0, within: str = ""
) -> None:
  """Writes a small copy of a dataset's official tree.

  Args:
    name: Name of the layout, a key of LAYOUTS.
    directory: Parent folder of the tree's top folder (or, for JAFFE and KDEF, of the images or session folders).
    subjects: Number of people; at most ten for JAFFE.
    seed: Random seed of the images.
    scale: Size of the images as a fraction of the official size.
    within: Path prefix of the files to write, such as "OriginalImg/VL/Strong/"; "" writes all files.
  """
  layout = LAYOUTS[name]
  height, width = round(layout.height * scale), round(layout.width * scale)
  for subject in range(subjects):
    for file in (file for file in layout.files(subject) if file.path.startswith(within)):
      image = render_image(
        seed,
        subject,
        file.expression,
        file.repetition,
        min(height, width),
        strength=file.strength,
        yaw=file.yaw,
      )
      # [side, side] -> [height, width]
      image = _pad(image, height, width)
      _write_image(directory / file.path, cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if layout.colour else image)
      if file.note is not None:
        path, text = file.note
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)


def _pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Returns an image of shape [height, width] with a square image in the middle, padded by repeating its edges."""
  pad_top, pad_left = (height - len(image)) // 2, (width - len(image)) // 2
  pad_bottom, pad_right = height - len(image) - pad_top, width - len(image) - pad_left
  return cv2.copyMakeBorder(image, pad_top, pad_bottom, pad_left, pad_right, cv2.BORDER_REPLICATE)


def _write_image(path: Path, image: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
