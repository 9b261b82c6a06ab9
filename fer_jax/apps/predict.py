"""Recognises facial expressions in images and videos.

Example:
  python -m fer_jax.apps.predict --checkpoint=WORKDIR --out=FILE.csv faces/ clip.mp4
"""

import argparse
import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from fer_jax.apps.predictions.answers import Answerer, Counts
from fer_jax.apps.predictions.copies import Copies
from fer_jax.apps.predictions.gallery import Gallery
from fer_jax.apps.predictions.images import Looker
from fer_jax.apps.predictions.inputs import Listing, listing
from fer_jax.apps.predictions.options import (
  add_checkpoint_option,
  add_detector_options,
  add_views_option,
  detector_of,
)
from fer_jax.apps.predictions.rows import Output, check_output
from fer_jax.data.images import MOST_PIXELS
from fer_jax.inference import predictor
from fer_jax.inference.trained_model import LARGEST_BATCH
from fer_jax.runtime import errors, provenance
from fer_jax.runtime.errors import UserError

_NAMED_AT_MOST = 6
_MOST_THREADS = 8  # each keeps images in memory
_SECONDS_A_LINE = 30  # between progress lines if stderr is not a terminal


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program; returns 1 if a file could not be read, else 0."""
  options = _options(arguments)
  check_output(options.out)
  if isinstance(sys.stdin, io.TextIOWrapper):
    sys.stdin.reconfigure(errors="surrogateescape")  # file names may not be valid UTF-8
  files = listing(options.inputs, sys.stdin)
  _check_copies(options, files)
  model = predictor.load(options.checkpoint, face=options.face, detector=detector_of(options), views=options.views)
  if model.classifier.caution:
    print(f"warning: {model.classifier.caution}", file=sys.stderr)
  started = time.monotonic()
  with contextlib.ExitStack() as stack:
    copies = None
    if options.annotate is not None:
      copies = Copies(stack.enter_context(Gallery(options.annotate)), model, options.batch_size, options.explain)
    output = stack.enter_context(Output(options.out, model.classifier.class_names))
    bar = stack.enter_context(_bar(len(files.files)))
    look = Looker(
      model,
      most_pixels=round(1e6 * options.megapixels),
      every=options.every,
      keep=copies is not None,
      threads=min(max(2, provenance.cores()), _MOST_THREADS),
      announce=lambda images: _lengthen(bar, images - 1),
    )
    answer = Answerer(model, options.batch_size, options.smoothing, copies)
    for rows in answer(look(files.files)):
      for row in rows:
        output.write(row)
      bar.update()
  print(_summary(answer.counts, files, time.monotonic() - started))
  print(f"rows: {options.out}" + (f"; annotated copies: {options.annotate}" if options.annotate else ""))
  return 1 if answer.counts.unreadable else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.predict",
    description="Recognise facial expressions in images and videos. Writes one row per face, one row for an image "
    "without faces, and one row with the reason for a file that cannot be read (exit status 1).",
  )
  parser.add_argument(
    "inputs", nargs="+", metavar="INPUT", help="file, folder, quoted pattern, or - for paths on stdin"
  )
  add_checkpoint_option(parser)
  add_views_option(parser)
  parser.add_argument("--out", type=_path, required=True, metavar="FILE", help="output file, .csv or .jsonl")
  add_detector_options(parser)
  parser.add_argument("--annotate", type=_path, metavar="DIR", help="also write annotated copies to this folder")
  parser.add_argument("--explain", action="store_true", help="overlay Grad-CAM saliency maps on the annotated copies")
  parser.add_argument(
    "--smoothing",
    type=float,
    default=0.5,
    metavar="SECONDS",
    help="half-life of the smoothing over a video's frames; 0 disables it (default: %(default)s)",
  )
  parser.add_argument("--every", type=int, default=1, metavar="N", help="process every N-th frame of a video")
  parser.add_argument("--batch_size", type=int, default=LARGEST_BATCH, help="faces per batch (default: %(default)s)")
  parser.add_argument(
    "--megapixels", type=float, default=MOST_PIXELS / 1e6, help="maximum size of an image (default: %(default)s)"
  )
  options = parser.parse_args(arguments)
  for name, least in (("every", 1), ("batch_size", 1), ("smoothing", 0.0)):
    if not getattr(options, name) >= least:
      raise UserError(f"--{name}={getattr(options, name)}: expected {least:g} or more")
  if not 0 < options.megapixels < 1e6:
    raise UserError(f"--megapixels={options.megapixels}: expected millions of pixels, above 0 and below 1e6")
  if options.explain and options.annotate is None:
    raise UserError("--explain needs annotated copies: expected --annotate=DIR as well")
  return options


def _check_copies(options: argparse.Namespace, files: Listing) -> None:
  """Raises UserError if an annotated copy would overwrite an input file."""
  if options.annotate is None:
    return
  read = {_real(file.path) for file in files.files}
  for file in files.files:
    copy = options.annotate / (file.name + Gallery.ending(file.is_video))
    if _real(copy) in read:
      raise UserError(f"--annotate={options.annotate}: {copy} is one of the inputs; give another folder")


def _real(path: Path) -> str:
  try:
    return os.path.realpath(path)
  except ValueError:  # not a valid path (such as a null byte); its row will have the error
    return str(path)


def _path(text: str) -> Path:
  # Shells do not expand the ~ in --out=~/faces.csv.
  return Path(os.path.expanduser(text))


def _bar(images: int) -> tqdm:
  if sys.stderr.isatty():
    return tqdm(total=images, unit=" images", leave=False, dynamic_ncols=True)
  return tqdm(total=images, unit=" images", mininterval=_SECONDS_A_LINE, delay=_SECONDS_A_LINE)


def _lengthen(bar: tqdm, images: int) -> None:
  bar.total += images  # displayed at the next update


def _summary(counts: Counts, files: Listing, seconds: float) -> str:
  rate = f"{counts.images / seconds:.0f} per second" if seconds > 0 else "at once"
  text = (
    f"{counts.images} images in {seconds:.1f} s ({rate}): {counts.faces} faces, "
    f"{counts.faceless} images without a face, {counts.unreadable} unreadable files"
  )
  if files.passed_over:
    endings = ", ".join(f"{count} {ending}" for ending, count in files.passed_over.most_common(_NAMED_AT_MOST))
    text += f"; skipped: {files.passed_over.total()} ({endings})"
  return text


if __name__ == "__main__":
  # SIGTERM, sent by schedulers, ends the program like Ctrl-C, so partial files are removed.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  errors.run(main)
