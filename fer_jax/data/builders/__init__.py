"""Registry of the datasets by name, and their preparation on disk."""

import contextlib
import dataclasses
import importlib
import io
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import logging

from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import local_path

if TYPE_CHECKING:
  import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True)
class _Dataset:
  """Registry entry of one dataset.

  Attributes:
    module: Import path of the module with the builder class.
    builder: Name of the builder class.
    files: Description of the files that the user must provide; "" if none are required.
    config: Config file and variant that `prepare` suggests for training.
  """

  module: str
  builder: str
  files: str = ""
  config: str = "configs/hsic.py"


_CONFIGURATION = re.compile(r"[A-Za-z0-9][\w-]*")
_DATASETS = {
  "ck_plus": _Dataset(
    "fer_jax.data.builders.ck_plus.builder",
    "CkPlus",
    "cohn-kanade-images/ and Emotion/ (or Emotion_labels/), or CK+48/<class>/*.png, or ckextended.csv",
    "configs/obsr.py:ck_plus,small,scratch",
  ),
  "drawn_jaffe": _Dataset(
    "fer_jax.data.builders.jaffe.builder", "DrawnJaffe", config="configs/separable_se.py:drawn,demo"
  ),
  "drawn_kdef_ck_plus": _Dataset(
    "fer_jax.data.builders.kdef_ck_plus.builder", "DrawnKdefCkPlus", config="configs/resnet.py:demo"
  ),
  "fer2013": _Dataset(
    "fer_jax.data.builders.fer2013.builder",
    "Fer2013",
    "fer2013.csv or icml_face_data.csv (with fer2013new.csv next to it for FER+), or Kaggle's train/ and test/",
  ),
  "image_folder": _Dataset(
    "fer_jax.data.builders.image_folder.builder",
    "ImageFolder",
    "your images as <class>/*.jpg, or <split>/<class>/*.jpg (NAME in --dataset=image_folder/NAME is free)",
    "configs/hsic.py:demo",
  ),
  "jaffe": _Dataset(
    "fer_jax.data.builders.jaffe.builder",
    "Jaffe",
    "images such as KA.AN1.39.tiff, in any subfolder",
    "configs/separable_se.py:jaffe",
  ),
  "kdef": _Dataset(
    "fer_jax.data.builders.kdef.builder",
    "Kdef",
    "the folders AF01/ to BM35/ (or KDEF_and_AKDEF/KDEF/, which contains them)",
    "configs/resnet.py",
  ),
  "kdef_ck_plus": _Dataset(
    "fer_jax.data.builders.kdef_ck_plus.builder",
    "KdefCkPlus",
    "KDEF's folders AF01/ to BM35/ and CK+'s cohn-kanade-images/ and Emotion/, in any subfolder",
    "configs/resnet.py",
  ),
  "oulu_casia": _Dataset(
    "fer_jax.data.builders.oulu_casia.builder",
    "OuluCasia",
    "OriginalImg/VL/Strong/P001/<expression>/*.jpeg, or PreProcess_Img/VL_Acropped/Strong/P001/<expression>/*.jpeg",
    "configs/separable_se.py:oulu_casia",
  ),
  "synthetic_faces": _Dataset(
    "fer_jax.data.builders.synthetic_faces.builder", "SyntheticFaces", config="configs/hsic.py:demo"
  ),
}


def names() -> tuple[str, ...]:
  """Returns the names of the registered datasets, sorted."""
  return tuple(sorted(_DATASETS))


def required_files(name: str) -> str:
  """Returns a description of the files that a user must provide to prepare a dataset; "" if none are required."""
  return _lookup(name).files


def suggested_config(name: str) -> str:
  """Returns the config file, with variant, that suits a dataset; `config.data.name` selects the dataset."""
  return _lookup(name).config


def configurations(name: str) -> tuple[str, ...]:
  """Returns the names of a dataset's configurations, the default first; () if it has none."""
  return tuple(config.name for config in _builder_class(name).BUILDER_CONFIGS)


def make_builder(name: str, data_dir: str | None = None, **options: str | None) -> "tfds.core.DatasetBuilder":
  """Returns the TFDS builder of a dataset, which may or may not be prepared yet.

  Args:
    name: One of `names()`, optionally with a configuration such as "ck_plus/neutral"; the default configuration is
      used otherwise. A configuration of "image_folder" can have any name.
    data_dir: Folder of the prepared datasets; None selects the TFDS default (the environment variable
      TFDS_DATA_DIR, or ~/tensorflow_datasets).
    **options: Options of "image_folder", see `ImageFolder.configured`.

  Raises:
    UserError: The name or the configuration is unknown, or the dataset has no options.
  """
  dataset, slash, config = name.partition("/")
  builder_class = _builder_class(name)
  if hasattr(builder_class, "configured"):
    if not _CONFIGURATION.fullmatch(config or "default"):
      raise UserError(f"dataset {name!r}: expected letters, digits, - and _ after the slash")
    selected = builder_class.configured(config or "default", **options)
  elif options:
    raise UserError(f"--{next(iter(options))} applies to image_folder, not to {dataset}")
  elif slash and config not in configurations(name):
    known = ", ".join(configurations(name)) or "none"
    raise UserError(f"dataset {name!r} is unknown; expected one of the configurations of {dataset}: {known}")
  else:
    selected = config or None
  # TFDS would not expand the ~ in its environment variable.
  folder = local_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # TFDS warns of configurations that it has not seen
  try:
    return builder_class(config=selected, data_dir=str(folder))
  finally:
    logging.set_verbosity(verbosity)


def is_prepared(builder: "tfds.core.DatasetBuilder") -> bool:
  """Returns whether a builder's dataset is complete on disk."""
  # TFDS's own method logs a warning if the dataset is not prepared.
  return pathlib.Path(builder.data_dir, "dataset_info.json").is_file()


def prepare(
  name: str,
  data_dir: str | None = None,
  manual_dir: str | None = None,
  *,
  overwrite: bool = False,
  **options: str,
) -> "tfds.core.DatasetBuilder":
  """Prepares a dataset atomically.

  The records are written to a temporary folder inside `data_dir` and moved to their final location at the end. A
  failure therefore leaves no partial dataset, and with `overwrite` the old dataset stays until the new one is complete.

  Args:
    name: Name of the dataset; see `make_builder`.
    data_dir: Folder of the prepared datasets; see `make_builder`.
    manual_dir: Folder with the files that the user provides.
    overwrite: Whether to prepare an already prepared dataset again; otherwise it is left unchanged.
    **options: Options of "image_folder": `framing` and `subjects`; see `image_folder.source.read`.

  Returns:
    The builder of the prepared dataset.

  Raises:
    UserError: The name is unknown, files are missing or wrong, or `data_dir` is not writable.
  """
  builder = make_builder(name, data_dir)
  if is_prepared(builder) and not overwrite:
    return builder
  files = required_files(name)
  if files and manual_dir is None:
    raise UserError(f"{name} needs --manual_dir=DIR, the folder that contains {files}")
  if manual_dir is not None:
    folder = local_path(manual_dir)
    if not folder.is_dir() or not any(folder.iterdir()):
      problem = "is a file" if folder.is_file() else "is empty" if folder.is_dir() else "does not exist"
      raise UserError(f"--manual_dir={folder} {problem}; expected the folder that contains {files or 'nothing'}")
  with _staging_folder(pathlib.Path(builder.data_dir_root)) as staging:
    if hasattr(_builder_class(name), "configured"):
      options["manual_dir"] = manual_dir or ""
    staged = make_builder(name, str(staging), **options)
    _write(staged, manual_dir)
    _move(staged, builder, staging, overwrite)
  return make_builder(name, data_dir)


def _lookup(name: str) -> _Dataset:
  """Returns the registry entry of a dataset name, with or without a configuration."""
  dataset = _DATASETS.get(name.partition("/")[0])
  if dataset is None:
    raise UserError(f"dataset {name!r} is unknown; expected one of {', '.join(names())}")
  return dataset


def _builder_class(name: str) -> "type[tfds.core.DatasetBuilder]":
  dataset = _lookup(name)
  # Imported on demand, because the builder modules import TFDS, which is slow.
  builder_class: type[tfds.core.DatasetBuilder] = getattr(importlib.import_module(dataset.module), dataset.builder)
  return builder_class


@contextlib.contextmanager
def _staging_folder(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """Creates a temporary folder in `root`; on exit removes it and every folder created for it that is still empty."""
  created = [folder for folder in (root, *root.parents) if not folder.exists()]
  try:
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=root) as staging:
      yield pathlib.Path(staging)
  except OSError as error:
    raise UserError(
      f"cannot write a dataset into {root} ({error.strerror or error}): pass another --data_dir or free disk space"
    ) from error
  finally:
    with contextlib.suppress(OSError):  # A folder that is not empty stays, and so do its parents.
      for folder in created:
        folder.rmdir()


def _write(staged: "tfds.core.DatasetBuilder", manual_dir: str | None) -> None:
  import tensorflow_datasets as tfds

  config = tfds.download.DownloadConfig(manual_dir=manual_dir and str(local_path(manual_dir)), try_download_gcs=False)
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # In a log file every update of a progress bar is a line.
  # TFDS prints a download that does not happen, and the staging folder as if it were the final one.
  with contextlib.redirect_stdout(io.StringIO()):
    staged.download_and_prepare(download_config=config, file_format="array_record")


def _move(
  staged: "tfds.core.DatasetBuilder",
  builder: "tfds.core.DatasetBuilder",
  staging: pathlib.Path,
  overwrite: bool,
) -> None:
  """Moves a finished dataset to its final location.

  If another process has prepared the dataset in the meantime and `overwrite` is False, that dataset is kept.
  """
  target = pathlib.Path(builder.data_dir)
  target.parent.mkdir(parents=True, exist_ok=True)
  # For a dataset with configurations, TFDS stores the name of the default one in this folder.
  default = pathlib.Path(staged.data_dir).parents[1] / ".config"
  if default.is_dir():
    shutil.copytree(default, target.parents[1] / ".config", dirs_exist_ok=True)
  if overwrite and target.exists():
    os.replace(target, staging / "replaced")  # Deleted together with the staging folder.
  try:
    os.replace(staged.data_dir, target)
  except OSError:
    if not target.exists():
      raise
