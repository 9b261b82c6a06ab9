"""The datasets by name, and how one is prepared on disk."""

import contextlib
import dataclasses
import importlib
import io
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fer_jax.errors import UserError

if TYPE_CHECKING:
  import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True)
class _Dataset:
  """Where a dataset's builder class is, and which files the user must bring ("" for none)."""

  module: str
  builder: str
  files: str = ""


_DATASETS = {
  "ck_plus": _Dataset(
    "fer_jax.data.builders.ck_plus.builder",
    "CkPlus",
    "cohn-kanade-images/ and Emotion/ (or Emotion_labels/), or CK+48/<class>/*.png, or ckextended.csv",
  ),
  "drawn_jaffe": _Dataset("fer_jax.data.builders.jaffe.builder", "DrawnJaffe"),
  "drawn_kdef_ck_plus": _Dataset("fer_jax.data.builders.kdef_ck_plus.builder", "DrawnKdefCkPlus"),
  "fer2013": _Dataset(
    "fer_jax.data.builders.fer2013.builder",
    "Fer2013",
    "fer2013.csv or icml_face_data.csv (beside it fer2013new.csv for FER+), or Kaggle's train/ and test/",
  ),
  "jaffe": _Dataset(
    "fer_jax.data.builders.jaffe.builder", "Jaffe", "pictures such as KA.AN1.39.tiff, anywhere below it"
  ),
  "kdef": _Dataset(
    "fer_jax.data.builders.kdef.builder",
    "Kdef",
    "the folders AF01/ to BM35/ (or KDEF_and_AKDEF/KDEF/, which holds them)",
  ),
  "kdef_ck_plus": _Dataset(
    "fer_jax.data.builders.kdef_ck_plus.builder",
    "KdefCkPlus",
    "KDEF's folders AF01/ to BM35/ and CK+'s cohn-kanade-images/ and Emotion/, anywhere below it",
  ),
  "oulu_casia": _Dataset(
    "fer_jax.data.builders.oulu_casia.builder",
    "OuluCasia",
    "OriginalImg/VL/Strong/P001/<expression>/*.jpeg, or PreProcess_Img/VL_Acropped/Strong/P001/<expression>/*.jpeg",
  ),
  "synthetic_faces": _Dataset("fer_jax.data.builders.synthetic_faces.builder", "SyntheticFaces"),
}


def names() -> tuple[str, ...]:
  """Returns the names of the known datasets."""
  return tuple(sorted(_DATASETS))


def required_files(name: str) -> str:
  """Says which files a user must bring to prepare a dataset; "" if it needs none."""
  return _lookup(name).files


def configurations(name: str) -> tuple[str, ...]:
  """Returns the names of a dataset's configurations, the default one first; () for one that has none."""
  return tuple(config.name for config in _builder_class(name).BUILDER_CONFIGS)


def make_builder(name: str, data_dir: str | None = None) -> "tfds.core.DatasetBuilder":
  """Makes the TFDS builder of a dataset, prepared or not.

  Args:
    name: one of `names()`, or with one of its configurations, "ck_plus/neutral"; without, it is the default one.
    data_dir: the folder that holds prepared datasets; None is TFDS's own (the environment variable
      TFDS_DATA_DIR, or ~/tensorflow_datasets).

  Raises:
    UserError: if the name or the configuration is unknown.
  """
  _, slash, config = name.partition("/")
  if slash and config not in configurations(name):
    known = ", ".join(configurations(name)) or "none"
    raise UserError(f"dataset {name!r} is unknown; the configurations of {name.partition('/')[0]} are: {known}")
  return _builder_class(name)(config=config or None, data_dir=data_dir and os.path.expanduser(data_dir))


def is_prepared(builder: "tfds.core.DatasetBuilder") -> bool:
  """Says whether a builder's dataset is whole on disk; TFDS's own method logs a warning where it is not."""
  return pathlib.Path(builder.data_dir, "dataset_info.json").is_file()


def prepare(
  name: str, data_dir: str | None = None, manual_dir: str | None = None, *, overwrite: bool = False
) -> "tfds.core.DatasetBuilder":
  """Prepares a dataset: all of it, or nothing.

  The records are written to a temporary folder inside `data_dir` and moved to their place at the end, so a
  failure leaves nothing behind, and with `overwrite` the old dataset stays until the new one is whole.

  Args:
    name: as in `make_builder`.
    data_dir: as in `make_builder`.
    manual_dir: the folder with the files that the user brings.
    overwrite: prepare anew where the dataset is prepared already; otherwise it is left as it is.

  Returns:
    The builder of the prepared dataset.

  Raises:
    UserError: if the name is unknown, files are missing or wrong, or `data_dir` cannot be written.
  """
  builder = make_builder(name, data_dir)
  if is_prepared(builder) and not overwrite:
    return builder
  files = required_files(name)
  if files and manual_dir is None:
    raise UserError(f"{name} needs --manual_dir=DIR, the folder that holds {files}")
  if manual_dir is not None:
    folder = pathlib.Path(manual_dir).expanduser()
    if not folder.is_dir() or not any(folder.iterdir()):
      fault = "is a file" if folder.is_file() else "is empty" if folder.is_dir() else "does not exist"
      raise UserError(f"--manual_dir={folder} {fault}; expected the folder that holds {files or 'nothing'}")
  with _staging_folder(pathlib.Path(builder.data_dir_root)) as staging:
    staged = make_builder(name, str(staging))
    _write(staged, manual_dir)
    _move(staged, builder, staging, overwrite)
  return make_builder(name, data_dir)


def _lookup(name: str) -> _Dataset:
  """Returns a dataset by its name, with or without a configuration."""
  dataset = _DATASETS.get(name.partition("/")[0])
  if dataset is None:
    raise UserError(f"dataset {name!r} is unknown; known are {', '.join(names())}")
  return dataset


def _builder_class(name: str) -> "type[tfds.core.DatasetBuilder]":
  dataset = _lookup(name)
  builder_class: type[tfds.core.DatasetBuilder] = getattr(importlib.import_module(dataset.module), dataset.builder)
  return builder_class


@contextlib.contextmanager
def _staging_folder(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """Makes a temporary folder in `root`; afterwards removes it, and those parents that it left empty."""
  made = [folder for folder in (root, *root.parents) if not folder.exists()]
  try:
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=root) as staging:
      yield pathlib.Path(staging)
  except OSError as error:
    raise UserError(
      f"cannot write a dataset into {root} ({error.strerror or error}): give another --data_dir or make room"
    ) from error
  finally:
    with contextlib.suppress(OSError):  # A folder that holds something stays, and so do its parents.
      for folder in made:
        folder.rmdir()


def _write(staged: "tfds.core.DatasetBuilder", manual_dir: str | None) -> None:
  import tensorflow_datasets as tfds

  config = tfds.download.DownloadConfig(
    manual_dir=manual_dir and os.path.expanduser(manual_dir), try_download_gcs=False
  )
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # a bar in a log file is a line for every moment
  # TFDS announces on stdout a download that is none, and a folder that is only the temporary one.
  with contextlib.redirect_stdout(io.StringIO()):
    staged.download_and_prepare(download_config=config, file_format="array_record")


def _move(
  staged: "tfds.core.DatasetBuilder",
  builder: "tfds.core.DatasetBuilder",
  staging: pathlib.Path,
  overwrite: bool,
) -> None:
  """Moves a finished dataset to its place, unless another process was first and nothing is to be replaced."""
  target = pathlib.Path(builder.data_dir)
  target.parent.mkdir(parents=True, exist_ok=True)
  # Where a dataset has configurations, TFDS notes here which of them is the default.
  default = pathlib.Path(staged.data_dir).parents[1] / ".config"
  if default.is_dir():
    shutil.copytree(default, target.parents[1] / ".config", dirs_exist_ok=True)
  if overwrite and target.exists():
    os.replace(target, staging / "replaced")
  try:
    os.replace(staged.data_dir, target)
  except OSError:
    if not target.exists():
      raise
