"""Audits a prepared dataset: duplicates, conflicting labels, train/test overlap, class balance.

Examples:
  python -m fer_jax.apps.audit --dataset=fer2013 --out=audit_fer2013
  python -m fer_jax.apps.audit --dataset=kdef_ck_plus --splits=WORKDIR/splits.json --out=audit_folds

Writes audit.json, with the row numbers of all findings, and index.html, a self-contained page with the images.
"""

import argparse
import json
from collections.abc import Sequence

from fer_jax.apps.audit_page.content import audit_content, fold_overlaps
from fer_jax.apps.audit_page.page import audit_page
from fer_jax.apps.formatting import count
from fer_jax.data import arrays, builders
from fer_jax.data.audit import audit
from fer_jax.data.duplicates import BITS, NEAR, find_duplicates
from fer_jax.data.splits import load_folds
from fer_jax.runtime import provenance
from fer_jax.runtime.errors import UserError, run
from fer_jax.runtime.files import local_path, write_text
from fer_jax.training.run_files import Record


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the program; raises UserError if a flag is invalid or the dataset is not prepared."""
  flags = _parser().parse_args(arguments)
  if not 0 <= flags.near <= BITS // 2:
    raise UserError(f"--near={flags.near}: expected a number of bits from 0 to {BITS // 2}; the default is {NEAR}")
  dataset = arrays.load(flags.dataset, flags.data_dir)
  folds = load_folds(flags.splits, dataset) if flags.splits else None
  print(f"Comparing the {count(len(dataset))} images of {flags.dataset} ...", flush=True)
  duplicates = find_duplicates(dataset, flags.near)
  builder = builders.make_builder(flags.dataset, flags.data_dir)
  content: Record = {
    "dataset": flags.dataset,
    "dataset_version": str(builder.version),
    "origin": (builder.info.metadata or {}).get("origin"),
    "commit": provenance.commit(),
    "versions": provenance.versions(),
    **audit_content(dataset, duplicates, flags.near),
  }
  if folds is not None:
    content["splits_file"] = str(flags.splits)
    content["folds"] = fold_overlaps(dataset, duplicates, folds.number)
  write_text(flags.out / "audit.json", json.dumps(content, indent=1) + "\n")
  write_text(flags.out / "index.html", audit_page(content, dataset.image))
  for line in (*audit(dataset), *_near_lines(content), *_fold_lines(content)):
    print(line)
  print(f"Page: {flags.out / 'index.html'}")


def _near_lines(content: Record) -> list[str]:
  near = content["near"]
  if not near["pairs"]:
    return [f"no near duplicates (hash distance at most {near['threshold']} of {BITS} bits)"]
  lines = [
    f"{len(near['pairs'])} pairs of near duplicates (hash distance at most {near['threshold']} of {BITS} bits) in "
    f"{near['groups']} groups, {near['conflicting_groups']} of them with conflicting labels"
  ]
  if near["posed_groups"]:
    lines.append(f"{near['posed_groups']} of these groups show one person with several expressions")
  for pair in content["overlaps"]:
    if pair["near"]:
      lines.append(
        f"{pair['near']} of the {pair['examples']} {pair['of']} images have a near duplicate in {pair['among']}, "
        "but no identical image"
      )
  return lines


def _fold_lines(content: Record) -> list[str]:
  folds = content.get("folds", [])
  names = {"image": "an identical image", "near": "a near duplicate", "subject": "a person", "group": "a group"}
  counts = {key: sum(bool(fold[key]) for fold in folds) for key in names}
  return [
    f"{number} of the {len(folds)} folds share {names[key]} between training and test"
    for key, number in counts.items()
    if number
  ]


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.audit",
    description="Find identical and similar images, conflicting labels and overlaps between the splits of a prepared "
    "dataset, and write a page that shows them.",
  )
  parser.add_argument("--dataset", required=True, metavar="NAME", help=f"one of: {', '.join(builders.names())}")
  parser.add_argument(
    "--data_dir",
    metavar="DIR",
    help="folder of the prepared datasets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)",
  )
  parser.add_argument("--out", required=True, type=local_path, metavar="DIR", help="output folder")
  parser.add_argument(
    "--near",
    type=int,
    default=NEAR,
    metavar="BITS",
    help=f"maximum Hamming distance between the {BITS}-bit hashes of near duplicates (default: {NEAR})",
  )
  parser.add_argument(
    "--splits", type=local_path, metavar="FILE", help="splits.json of a cross-validation; its folds are audited as well"
  )
  return parser


if __name__ == "__main__":
  run(main)
