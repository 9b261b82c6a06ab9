"""Recognises facial expressions in images and videos.

Examples:
  python -m fer_jax.apps.predict party.jpg
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

from fer_jax.apps.predictions.annotation import Annotator
from fer_jax.apps.predictions.classification import ClassificationPipeline, Counts
from fer_jax.apps.predictions.detection import DetectionPipeline
from fer_jax.apps.predictions.gallery import Gallery
from fer_jax.apps.predictions.inputs import FileList, list_files
from fer_jax.apps.predictions.options import (
  add_checkpoint_option,
  add_detector_options,
  add_views_option,
  print_detector_note,
)
from fer_jax.apps.predictions.rows import check_output, open_rows
from fer_jax.data.images import MAX_PIXELS
from fer_jax.faces.detectors import SMALLEST_FACE
from fer_jax.inference.predictor import load_predictor
from fer_jax.inference.trained_model import LARGEST_BATCH
from fer_jax.runtime import errors, provenance
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import local_path

_MAX_SUFFIXES = 6  # number of skipped suffixes that the summary lists
_MAX_THREADS = 8  # each keeps images in memory
_PROGRESS_SECONDS = 30  # between progress lines if stderr is not a terminal


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program; returns 1 if a file could not be read, else 0."""
  options = _options(arguments)
  if options.out is not None:
    check_output(options.out)
  if isinstance(sys.stdin, io.TextIOWrapper):
    sys.stdin.reconfigure(errors="surrogateescape")  # file names may not be valid UTF-8
  files = list_files(options.inputs, sys.stdin)
  _check_copies(options, files)
  predictor = load_predictor(
    options.checkpoint,
    detector=options.detector,
    yunet=options.yunet,
    smallest_face=options.smallest_face,
    views=options.views,
  )
  print_detector_note(options.detector, predictor.detector)
  if predictor.model.caution:
    print(f"warning: {predictor.model.caution}", file=sys.stderr)
  started = time.monotonic()
  with contextlib.ExitStack() as stack:
    annotator = None
    if options.annotate is not None:
      gallery = stack.enter_context(Gallery(options.annotate))
      annotator = Annotator(gallery, predictor, options.batch_size, options.explain)
    write = stack.enter_context(open_rows(options.out, predictor.model.class_names))
    bar = stack.enter_context(_progress_bar(len(files.files)))

    def add_frames(frames: int) -> None:
      bar.total += frames - 1  # a video was counted as one image; displayed at the next update

    detect = DetectionPipeline(
      predictor,
      max_pixels=round(1e6 * options.megapixels),
      every=options.every,
      keep_images=annotator is not None,
      threads=min(max(2, provenance.cores()), _MAX_THREADS),
      on_video=add_frames,
    )
    classify = ClassificationPipeline(predictor, options.batch_size, options.smoothing, annotator)
    for rows in classify(detect(files.files)):
      for row in rows:
        write(row)
      bar.update()
  print(_summary(classify.counts, files, time.monotonic() - started))
  written = {"rows": options.out, "annotated copies": options.annotate}
  if listed := [f"{name}: {path}" for name, path in written.items() if path is not None]:
    print("; ".join(listed))
  return 1 if classify.counts.unreadable else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.predict",
    description="Recognise facial expressions in images and videos. Prints or writes one row per face, one row for an "
    "image without faces, and one row with the reason for a file that cannot be read (exit status 1).",
  )
  parser.add_argument(
    "inputs", nargs="+", metavar="INPUT", help="file, folder, quoted pattern, or - for paths on stdin"
  )
  add_checkpoint_option(parser)
  add_views_option(parser)
  parser.add_argument(
    "--out",
    type=local_path,
    metavar="FILE",
    help="output file, .csv or .jsonl (default: a line per face on the terminal)",
  )
  add_detector_options(parser)
  parser.add_argument(
    "--smallest_face",
    type=float,
    default=SMALLEST_FACE,
    metavar="SHARE",
    help="minimum face size as a fraction of the image's shorter side; YuNet has no such limit (default: %(default)s)",
  )
  parser.add_argument("--annotate", type=local_path, metavar="DIR", help="also write annotated copies to this folder")
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
    "--megapixels", type=float, default=MAX_PIXELS / 1e6, help="maximum size of an image (default: %(default)s)"
  )
  options = parser.parse_args(arguments)
  for name, least in (("every", 1), ("batch_size", 1), ("smoothing", 0.0)):
    if not getattr(options, name) >= least:
      raise UserError(f"--{name}={getattr(options, name)}: expected {least:g} or more")
  if not 0 < options.megapixels < 1e6:
    raise UserError(f"--megapixels={options.megapixels}: expected millions of pixels, above 0 and below 1e6")
  if not 0 < options.smallest_face <= 1:
    raise UserError(f"--smallest_face={options.smallest_face}: expected a fraction above 0 and at most 1")
  if options.explain and options.annotate is None:
    raise UserError("--explain needs annotated copies: expected --annotate=DIR as well")
  return options


def _check_copies(options: argparse.Namespace, files: FileList) -> None:
  """Raises UserError if an annotated copy would overwrite an input file."""
  if options.annotate is None:
    return
  inputs = {_real_path(file.path) for file in files.files}
  for file in files.files:
    copy = options.annotate / (file.name + Gallery.suffix(file.is_video))
    if _real_path(copy) in inputs:
      raise UserError(f"--annotate={options.annotate}: {copy} is one of the inputs; give another folder")


def _real_path(path: Path) -> str:
  try:
    return os.path.realpath(path)
  except ValueError:  # not a valid path (such as a null byte); its row will have the error
    return str(path)


def _progress_bar(images: int) -> tqdm:
  if sys.stderr.isatty():
    return tqdm(total=images, unit=" images", leave=False, dynamic_ncols=True)
  return tqdm(total=images, unit=" images", mininterval=_PROGRESS_SECONDS, delay=_PROGRESS_SECONDS)


def _many(number: int, noun: str) -> str:
  return f"{number} {noun}" + "s" * (number != 1)


def _summary(counts: Counts, files: FileList, seconds: float) -> str:
  rate = f"{counts.images / seconds:.3g} per second" if seconds > 0 else "at once"
  text = (
    f"{_many(counts.images, 'image')} in {seconds:.1f} s ({rate}): {_many(counts.faces, 'face')}, "
    f"{_many(counts.faceless, 'image')} without a face, {_many(counts.unreadable, 'unreadable file')}"
  )
  if files.skipped:
    endings = ", ".join(f"{count} {ending}" for ending, count in files.skipped.most_common(_MAX_SUFFIXES))
    text += f"; skipped: {files.skipped.total()} ({endings})"
  return text


if __name__ == "__main__":
  # SIGTERM, sent by schedulers, ends the program like Ctrl-C, so partial files are removed.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  errors.run(main)
