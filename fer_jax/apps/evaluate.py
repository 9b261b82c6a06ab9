"""Evaluates a trained network on any prepared dataset; classes are matched by their names.

Examples:
  python -m fer_jax.apps.evaluate --dataset=image_folder/own
  python -m fer_jax.apps.evaluate --checkpoint=WORKDIR --dataset=ck_plus --out=evaluation

Prints the accuracy and a table of the classes. With --out=DIR, also writes evaluation.json and index.html, a
self-contained page with the confusion matrix.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np

from fer_jax.apps.formatting import count, metric_name, percent, percent_range, quantity
from fer_jax.apps.pages.render import render
from fer_jax.apps.predictions.options import (
  add_checkpoint_option,
  add_detector_options,
  add_views_option,
  print_detector_note,
)
from fer_jax.data import arrays, builders, decoding
from fer_jax.inference.predictor import Predictor, load_predictor, stack_faces
from fer_jax.runtime import provenance, typed_json
from fer_jax.runtime.errors import UserError, run
from fer_jax.runtime.files import local_path, write_text
from fer_jax.training.intervals import wilson_interval
from fer_jax.training.metrics import METRICS, confusion_matrix, per_class
from fer_jax.training.run_result import ClassMetrics

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

_IMAGES_AT_ONCE = 512
# Other names of the classes of the networks in this package.
_SYNONYMS = {
  "anger": "angry",
  "disgusted": "disgust",
  "fearful": "fear",
  "happiness": "happy",
  "joy": "happy",
  "sadness": "sad",
  "surprised": "surprise",
}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
  """Result of a network on a dataset; K is the number of the network's classes.

  Attributes:
    dataset: Name of the dataset.
    splits: Names of the evaluated splits.
    network: Description of the network.
    views: Test-time augmentation, see `Predictor`.
    detector: Face detector; "whole" if the images are cropped faces.
    images: Number of evaluated images.
    without_face: Number of photographs in which no face was found, which are evaluated whole; None for cropped faces.
    metrics: Metrics by name (`metrics.METRICS`).
    interval_95: Wilson interval of the accuracy.
    class_names: Names of the K classes.
    confusion_matrix: Confusion matrix, K rows of true classes.
    per_class: Metrics of each class.
    notes: Remarks, such as classes that the network does not know.
    device: Kind and number of devices.
    versions: Versions of the packages, by name.
    commit: Commit of the package.
  """

  dataset: str
  splits: tuple[str, ...]
  network: str
  views: str
  detector: str
  images: int
  without_face: int | None
  metrics: Mapping[str, float]
  interval_95: tuple[float, float]
  class_names: tuple[str, ...]
  confusion_matrix: tuple[tuple[int, ...], ...]
  per_class: tuple[ClassMetrics, ...]
  notes: tuple[str, ...]
  device: str
  versions: Mapping[str, str]
  commit: str


def evaluate(predictor: Predictor, dataset: str, data_dir: str | None = None, split: str | None = None) -> Evaluation:
  """Evaluates a network on a prepared dataset.

  Photographs are cropped to their largest face. A photograph in which the detector finds none is evaluated whole.

  Args:
    predictor: Network with a face detector, which is not used on datasets of cropped faces.
    dataset: Name of the dataset, see `builders.make_builder`.
    data_dir: Folder of the prepared datasets; None for the default.
    split: Split to evaluate; None for the test split if there is one, else for all images.

  Raises:
    UserError: The dataset is not prepared or has no such split, or the network knows none of its classes.
  """
  builder = arrays.prepared_builder(dataset, data_dir)
  splits = _splits(builder, dataset, split)
  names = builder.info.features["label"].names
  known = _matched(names, predictor.model.class_names)
  if not known:
    raise UserError(
      f"{dataset}: the network knows none of the classes {', '.join(names)}; expected some of "
      f"{', '.join(predictor.model.class_names)}"
    )
  is_photograph = (builder.info.metadata or {}).get("framing") == "photograph"
  predictor = predictor if is_photograph else Predictor(predictor.model, None, predictor.views)
  whole = Predictor(predictor.model, None)
  probability, labels, left_out, faceless = [], [], dict.fromkeys(names, 0), 0
  for images, image_labels in _batches(builder, splits):
    faces = []
    for image, label in zip(images, image_labels, strict=True):
      if label not in known:
        left_out[names[label]] += 1
        continue
      boxes = predictor.find(image)
      faceless += not boxes
      faces.append(predictor.cut(image, boxes[0]) if boxes else whole.cut(image, whole.find(image)[0]))
      labels.append(known[label])
    probability.append(predictor.probability(stack_faces(faces, predictor.model.shape)))
  if not labels:
    raise UserError(f"{dataset}: the split {', '.join(splits)} has no images of classes that the network knows")
  return _evaluation(
    predictor, np.concatenate(probability), np.array(labels), dataset, splits, left_out, faceless, is_photograph
  )


def _evaluation(
  predictor: Predictor,
  probability: np.ndarray,
  label: np.ndarray,
  dataset: str,
  splits: Sequence[str],
  left_out: Mapping[str, int],
  faceless: int,
  is_photograph: bool,
) -> Evaluation:
  model = predictor.model
  confusion = confusion_matrix(probability, label)
  notes = [
    f"{count(n)} images of {name} are left out: the network has no such class" for name, n in left_out.items() if n
  ]
  notes += [model.caution] * bool(model.caution)
  if faceless:
    notes.append(
      f"no face was found in {count(faceless)} of {count(len(label))} photographs, which are evaluated whole"
    )
  return Evaluation(
    dataset=dataset,
    splits=tuple(splits),
    network=str(model.origin.get("config") or "a network"),
    views=predictor.views,
    detector="whole" if predictor.detector is None else type(predictor.detector).__name__,
    images=len(label),
    without_face=faceless if is_photograph else None,
    metrics={name: metric(probability, label) for name, metric in METRICS.items()},
    interval_95=wilson_interval(int(np.trace(confusion)), len(label)),
    class_names=model.class_names,
    confusion_matrix=tuple(map(tuple, confusion.tolist())),
    per_class=per_class(confusion, model.class_names),
    notes=tuple(notes),
    device=provenance.device(jax.local_devices()),
    versions=provenance.versions(),
    commit=provenance.commit(),
  )


def _splits(builder: "tfds.core.DatasetBuilder", dataset: str, split: str | None) -> list[str]:
  available = list(builder.info.splits)
  if split is None:
    return ["test"] if "test" in available else available
  if split not in available:
    raise UserError(f"--split={split}: {dataset} has no such split; expected one of {', '.join(available)}")
  return [split]


def _matched(names: Sequence[str], known: Sequence[str]) -> dict[int, int]:
  """Returns the label of the network for each label of the dataset whose class the network knows."""

  def normalized(name: str) -> str:
    name = name.casefold().strip()
    return _SYNONYMS.get(name, name)

  positions = {normalized(name): position for position, name in enumerate(known)}
  return {label: positions[normalized(name)] for label, name in enumerate(names) if normalized(name) in positions}


def _batches(
  builder: "tfds.core.DatasetBuilder", splits: Sequence[str]
) -> Iterator[tuple[list[np.ndarray], list[int]]]:
  """Yields images of the original size, uint8 [h, w] or [h, w, 3], and their labels."""
  images, labels = [], []
  for image, record in decoding.decoded_records(builder, splits):
    images.append(image)
    labels.append(int(record["label"]))
    if len(images) == _IMAGES_AT_ONCE:
      yield images, labels
      images, labels = [], []
  if images:
    yield images, labels


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the program; raises UserError if a flag is invalid or the dataset is not prepared."""
  flags = _parser().parse_args(arguments)
  predictor = load_predictor(flags.checkpoint, detector=flags.detector, yunet=flags.yunet, views=flags.views)
  found = evaluate(predictor, flags.dataset, flags.data_dir, flags.split)
  if found.detector != "whole":
    print_detector_note(flags.detector, predictor.detector)
  print("\n".join(_lines(found)))
  if flags.out is not None:
    typed_json.write(flags.out / "evaluation.json", found)
    sections = {"classes": "Classes", "provenance": "How it was made"}
    title = f"{found.dataset}: {percent(found.metrics['accuracy'])}"
    write_text(flags.out / "index.html", render("evaluation.html", title=title, sections=sections, evaluation=found))
    print(f"page: {flags.out / 'index.html'}")


def _lines(found: Evaluation) -> list[str]:
  lines = [
    f"{found.network} on {found.dataset} ({', '.join(found.splits)}), {count(found.images)} images",
    f"accuracy {percent(found.metrics['accuracy'])} (95 % interval {percent_range(*found.interval_95)})",
    *(f"{metric_name(name).lower()} {quantity(name, value)}" for name, value in [*found.metrics.items()][1:]),
    "",
    f"{'class':<12}{'precision':>10}{'recall':>10}{'F1':>10}{'images':>10}",
  ]
  lines += [
    f"{each.name:<12}{each.precision:>10.3f}{each.recall:>10.3f}{each.f1:>10.3f}{each.support:>10,}"
    for each in found.per_class
    if each.support
  ]
  return [*lines, *(f"note: {note}" for note in found.notes)]


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.evaluate", description="Evaluate a trained network on a prepared dataset."
  )
  parser.add_argument(
    "--dataset", required=True, metavar="NAME", help=f"one of: {', '.join(builders.names())}; image_folder/NAME"
  )
  parser.add_argument(
    "--data_dir",
    metavar="DIR",
    help="folder of the prepared datasets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)",
  )
  parser.add_argument("--split", metavar="SPLIT", help="split (default: test if there is one, else all images)")
  add_checkpoint_option(parser)
  add_views_option(parser)
  add_detector_options(parser)
  parser.add_argument("--out", type=local_path, metavar="DIR", help="folder for evaluation.json and index.html")
  return parser


if __name__ == "__main__":
  run(main)
