"""FER2013 in Kaggle's folder form: train/<class>/*.jpg and test/<class>/*.jpg."""

import hashlib
import pathlib

import numpy as np
from tensorflow_datasets.core import utils as tfds_utils

from fer_jax.data import images
from fer_jax.data.builders.fer2013.raw import CLASS_NAMES, SIZE, Raw
from fer_jax.data.builders.image_folder.source import SPLIT_NAMES
from fer_jax.data.images import UnreadableImage
from fer_jax.runtime.errors import UserError

SPLITS = ("train", "test")


def read(folder: pathlib.Path) -> Raw:
  """Reads and checks all images.

  Args:
    folder: Folder that contains train/ and test/, each with one subfolder per class.

  Returns:
    The images, train before test, then by class in the order of CLASS_NAMES, then by file name.

  Raises:
    UserError: A class is missing, unknown or without images, or an image is unreadable or not 48x48 grey; the message
      contains the file or folder.
  """
  files, ignored = _list(folder)
  digest = hashlib.sha256()
  image = []
  for path, _, _ in tfds_utils.tqdm(files, desc=f"Reading {folder.name}", unit=" images", leave=False):
    data = path.read_bytes()
    digest.update(f"{path.relative_to(folder).as_posix()} {len(data)}\n".encode() + data)
    image.append(_decode(path, data))
  warnings = [
    "this form of FER2013 does not distinguish public from private test images: both are in the split `test`, "
    "whose accuracy is not comparable with published private-test accuracies; there is no validation split"
  ]
  if ignored:
    names = ", ".join(path.relative_to(folder).as_posix() for path in ignored)
    warnings.append(f"{len(ignored)} files that are not images are left out: {names}")
  return Raw(
    image=np.stack(image),
    label=np.array([label for _, label, _ in files]),
    split=np.array([split for _, _, split in files]),
    origin={"form": "folders", "path": str(folder), "sha256": digest.hexdigest()},
    warnings=tuple(warnings),
  )


def _list(folder: pathlib.Path) -> tuple[list[tuple[pathlib.Path, int, str]], list[pathlib.Path]]:
  """Returns (file, label, split) of every image, and the files that are not images."""
  files, ignored = [], []
  for path in folder.iterdir():
    if path.is_dir() and SPLIT_NAMES.get(path.name.lower()) == "validation":
      raise UserError(
        f"{path}: Kaggle's image form of FER2013 has only train/ and test/; for other splits, prepare "
        f"--dataset=image_folder/NAME --manual_dir={folder}"
      )
  for split in SPLITS:
    _check_classes(folder / split)
    for label, name in enumerate(CLASS_NAMES):
      paths = sorted(path for path in (folder / split / name).iterdir() if not path.name.startswith("."))
      found = [path for path in paths if path.suffix.lower() in images.SUFFIXES]
      if not found:
        raise UserError(
          f"{folder / split / name} contains no images, expected .jpg or .png files: unpack the dataset again"
        )
      files += [(path, label, split) for path in found]
      ignored += [path for path in paths if path.suffix.lower() not in images.SUFFIXES]
  return files, ignored


def _check_classes(folder: pathlib.Path) -> None:
  folders = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
  if not folders:
    raise UserError(f"{folder} contains no folders of images; expected one per class: {', '.join(CLASS_NAMES)}")
  for name in sorted(folders.symmetric_difference(CLASS_NAMES)):
    problem = "is missing" if name in CLASS_NAMES else "is not a class of FER2013"
    raise UserError(f"{folder / name} {problem}; expected one folder per class: {', '.join(CLASS_NAMES)}")


def _decode(path: pathlib.Path, data: bytes) -> np.ndarray:
  """Returns a file's pixels, uint8 [48, 48]."""
  try:
    image = images.decode(data)
  except UnreadableImage as error:
    raise UserError(f"{path}: {error}; unpack the dataset again") from None
  if image.ndim == 3 and (image == image[:, :, :1]).all():  # A grey image saved with equal colour channels.
    image = image[:, :, 0]
  if image.shape != (SIZE, SIZE):
    height, width = image.shape[:2]
    kind = "grey" if image.ndim == 2 else "colour"
    raise UserError(f"{path} is {width}x{height} {kind}, expected {SIZE}x{SIZE} grey")
  return image
