"""Prepares a dataset: checks the raw files, writes them as a TFDS dataset, and prints a summary.

Example:
  python -m fer_jax.apps.prepare --dataset=fer2013 --manual_dir=/data/fer2013
"""

import argparse
import shlex
import signal
import sys
import textwrap
import time
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from fer_jax.data import arrays, builders
from fer_jax.data.audit import audit
from fer_jax.runtime.errors import run
from fer_jax.runtime.files import local_path


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the program; raises UserError if a flag or a raw file is invalid."""
  flags = _parser().parse_args(arguments)
  start = time.monotonic()
  options = {"subjects": flags.subjects, "framing": flags.framing}
  options = {name: value for name, value in options.items() if value is not None}
  builder = builders.make_builder(flags.dataset, flags.data_dir, **options)
  if builders.is_prepared(builder) and not flags.overwrite:
    print(f"{flags.dataset} is already prepared in {builder.data_dir} (use --overwrite to prepare it again)")
    if flags.manual_dir is not None:
      print(f"warning: --manual_dir={flags.manual_dir} was not read; this is the dataset prepared earlier")
  else:
    print(f"Reading and checking {flags.dataset}, and writing it to {builder.data_dir} ...", flush=True)
    builder = builders.prepare(flags.dataset, flags.data_dir, flags.manual_dir, overwrite=flags.overwrite, **options)
    print(f"Written after {time.monotonic() - start:.0f} s. Decoding it for training ...", flush=True)
  dataset = arrays.load(flags.dataset, flags.data_dir)
  print(f"Ready after {time.monotonic() - start:.0f} s.")
  print(f"\n{class_table(dataset)}\n")
  comparison = (builder.info.metadata or {}).get("comparison")
  if comparison:
    print("\n".join([*comparison, ""]))
  warnings = [f"warning: {text}" for text in (*dataset.notes, *audit(dataset))]
  for line in [*_origin(builder), *warnings]:
    print(textwrap.fill(line, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
  print(f"\nPrepared data: {builder.data_dir}")
  print(f"Next: {_next_command(flags.dataset, flags.data_dir, dataset)}")


def class_table(dataset: arrays.Arrays) -> str:
  """Returns the number of examples by class and split, with totals, as a text table."""
  splits = [split for split in arrays.SPLITS if len(dataset.rows(split))]
  counts = np.array(
    [np.bincount(dataset.label[dataset.rows(split)], minlength=dataset.num_classes) for split in splits]
  )
  # [splits, classes] -> [classes, splits + 1], with the total of each class as the last column.
  counts = np.column_stack([counts.T, counts.sum(axis=0)])
  rows = [("class", *splits, "total")]
  rows += [(name, *map(str, line)) for name, line in zip(dataset.class_names, counts, strict=True)]
  rows += [("total", *map(str, counts.sum(axis=0)))]
  width = max(len(cell) for row in rows for cell in row) + 2
  return "\n".join(f"{row[0]:<{width}}" + "".join(f"{cell:>{width}}" for cell in row[1:]) for row in rows)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.prepare",
    description="Check a dataset's files, write them as a TFDS dataset and print a summary. "
    "Run this once per dataset, before training.",
    epilog=_files_help(),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--dataset", required=True, metavar="NAME", help=f"one of: {', '.join(builders.names())} (details below)"
  )
  parser.add_argument("--manual_dir", metavar="DIR", help="folder with the files you downloaded (see below)")
  parser.add_argument(
    "--data_dir",
    metavar="DIR",
    help="folder of the prepared datasets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)",
  )
  parser.add_argument("--subjects", metavar="REGEX", help="image_folder: the subject in a file's path, as a group")
  parser.add_argument(
    "--framing", choices=("face", "photograph"), help="image_folder: photographs are cropped to the detected face"
  )
  parser.add_argument("--overwrite", action="store_true", help="prepare the dataset again, replacing the prepared one")
  return parser


def _files_help() -> str:
  lines = ["files required in --manual_dir:"]
  for name in builders.names():
    files = builders.required_files(name) or "none: the dataset is built in, leave --manual_dir out"
    variants = builders.configurations(name)[1:]
    also = f" (also {', '.join(f'{name}/{config}' for config in variants)})" if variants else ""
    lines += textwrap.wrap(f"{name}{also}: {files}", 90, initial_indent="  ", subsequent_indent="    ")
  return "\n".join(
    ["example:", "  python -m fer_jax.apps.prepare --dataset=fer2013 --manual_dir=$HOME/fer2013", "", *lines]
  )


def _origin(builder: tfds.core.DatasetBuilder) -> list[str]:
  """Returns lines with the source of a dataset and, for FER2013, whether the FER+ votes were found."""
  origin = (builder.info.metadata or {}).get("origin")
  if not origin:
    return []
  lines = [f"source: {origin['path']} (form: {origin['form']}; SHA-256 {origin['sha256']})"]
  if "contents" in origin:
    lines.append(f"found: {origin['contents']}")
  if builder.name == "fer2013":
    found = "found: labels=ferplus_hard and ferplus_soft are available"
    missing = "not found; for FER+ labels copy fer2013new.csv next to the CSV file and prepare again with --overwrite"
    lines.append(f"FER+ votes: {found if 'ferplus_sha256' in origin else missing}")
  return lines


def _next_command(name: str, data_dir: str | None, dataset: arrays.Arrays) -> str:
  """Returns the command that trains on a prepared dataset; absolute paths make it work from any folder."""
  # A user's folder without a training or test split is divided into folds; the configs of other datasets say how.
  by = "subjects" if all(dataset.subject) else "images"
  own = name.startswith("image_folder")
  needs_folds = own and not (len(dataset.rows("train")) and len(dataset.rows("test")))
  folds = f" --config.folds.by={by} --config.folds.count=4" if needs_folds else ""
  # The suggested config's own folder may contain a run on other data.
  workdir = f" --workdir=workdir/{name.rpartition('/')[2]}" if own else ""
  folder = f" --config.data.data_dir={shlex.quote(str(local_path(data_dir).absolute()))}" if data_dir else ""
  command = f"python -m fer_jax.main --config={builders.suggested_config(name)} --config.data.name={name}"
  return f"{command}{folds}{folder}{workdir}"


if __name__ == "__main__":
  # Exit on a scheduler's SIGTERM as on Ctrl-C, so that the temporary folder is removed.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  run(main)
