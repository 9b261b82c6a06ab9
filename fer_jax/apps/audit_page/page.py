"""The values that the template of the audit page lays out: notices, and the images that were counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from fer_jax.apps.audit_page.content import labels_differ, splits_differ
from fer_jax.apps.formatting import count
from fer_jax.apps.pages.render import render
from fer_jax.data.records import Images
from fer_jax.training.run_files import Record

# Maximum number of items shown on the page.
_CONFLICTS_SHOWN = 64  # groups of identical images with different labels
_GROUPS_SHOWN = 32  # groups in any other gallery
_PAIRS_SHOWN = 32  # near-duplicate pairs of each kind
_SAMPLE = 16  # near-duplicate pairs at each distance
_ROWS_SHOWN = 4  # row numbers in a caption
_SUBJECTS_SHOWN = 40
_PIXELS = 96  # maximum length of an image's longer side
_TIMES = "\N{MULTIPLICATION SIGN}"

_SECTIONS = {
  "classes": "Classes",
  "splits": "Between the splits",
  "folds": "Folds",
  "equal": "Identical images",
  "similar": "Similar images",
  "constant": "Constant images",
  "provenance": "How it was made",
}


Item = tuple[Sequence[Record], int | None]  # distinct images; hash distance of a pair


class ShownImage(NamedTuple):
  """A distinct image, uint8 [H, W, C], with the splits and labels of its examples, and their rows."""

  image: np.ndarray
  caption: str
  rows: str


class Gallery(NamedTuple):
  """Shown images under a heading: pairs (images of an item, their hash distance or None), of `total` items found."""

  title: str
  shown: list[tuple[list[ShownImage], int | None]]
  total: int


def audit_page(content: Record, image: Images) -> str:
  """Returns the page of an audit as self-contained HTML.

  Args:
    content: Content of audit.json.
    image: Images of the dataset, uint8 [N, H, W, C].

  Returns:
    HTML document without external resources.
  """
  # One value for each section; a section without one is left out.
  contents = {
    "classes": content["classes"],
    "splits": content["overlaps"],
    "folds": content.get("folds"),
    "equal": [*_equal(content["duplicates"], image)],
    "similar": [*_similar(content["near"]["pairs"], image)],
    "constant": [*_gallery("Distinct images", [([each], None) for each in content["constant"]], image, _GROUPS_SHOWN)],
    "provenance": True,
  }
  origin = content["origin"] or {}
  shared = [f"{who}: {', '.join(splits)}" for who, splits in content["subjects_in_several_splits"].items()]
  return render(
    "audit.html",
    title=f"Audit of {content['dataset']}",
    sections={anchor: heading for anchor, heading in _SECTIONS.items() if contents[anchor]},
    content=content,
    warnings=notices(content),
    constant_images=sum(len(each["rows"]) for each in content["constant"]),
    distances=[
      (distance, len(images), sum(map(splits_differ, images)), sum(map(labels_differ, images)))
      for distance, images in _by_distance(content["near"]["pairs"]).items()
    ],
    origin=origin,
    notes=[*content["notes"], *(f"{name}: {value}" for name, value in origin.items() if "sha256" in name)],
    shared_subjects=shared[:_SUBJECTS_SHOWN],
    **contents,
  )


def notices(content: Record) -> list[str]:
  """Returns warnings about leaks that inflate accuracy on this dataset, as plain sentences."""
  found = []
  for each in content["overlaps"]:
    if each["among"] == "train" and each["image"]:
      found.append(
        f"{count(each['image'])} of the {count(each['examples'])} {each['of']} images also appear in the training "
        "split, pixel for pixel. config.data.drop=train_duplicates removes them from training."
      )
    if each["among"] == "train" and each["subject"]:
      found.append(
        f"{count(each['subject'])} of the {count(each['examples'])} {each['of']} images show people who are also in "
        "the training split: accuracy on them does not measure performance on unseen people."
      )
  for name, what in (("subject", "people"), ("image", "identical images")):
    shared = [each for each in content.get("folds", []) if each[name]]
    if shared:
      found.append(f"In {len(shared)} of the {len(content['folds'])} folds, training and test share {what}.")
  return found


def _equal(duplicates: Sequence[Record], image: Images) -> Iterator[Gallery]:
  groups = sorted(duplicates, key=lambda each: (-len(each["rows"]), each["rows"][0]))
  conflicts, leaks, others = _by_kind([([group], None) for group in groups])
  yield from _gallery("Different labels", conflicts, image, _CONFLICTS_SHOWN)
  yield from _gallery("One label, different splits", leaks, image, _GROUPS_SHOWN)
  yield from _gallery("One label, one split", others, image, _GROUPS_SHOWN)


def _similar(pairs: Sequence[Record], image: Images) -> Iterator[Gallery]:
  conflicts, leaks, _ = _by_kind([(pair["images"], pair["distance"]) for pair in pairs])
  yield from _gallery("Different labels", conflicts, image, _PAIRS_SHOWN, sample=True)
  yield from _gallery("One label, different splits", leaks, image, _PAIRS_SHOWN, sample=True)
  for distance, images in _by_distance(pairs).items():
    items = [(each, distance) for each in images]
    yield from _gallery(f"Distance {distance}", items, image, _SAMPLE, sample=True)


def _by_kind(items: Sequence[Item]) -> tuple[list[Item], list[Item], list[Item]]:
  """Returns the items with different labels; with one label, in different splits; with one label, in one split."""
  same_label = [item for item in items if not labels_differ(item[0])]
  leaks = [item for item in same_label if splits_differ(item[0])]
  others = [item for item in same_label if not splits_differ(item[0])]
  return [item for item in items if labels_differ(item[0])], leaks, others


def _gallery(title: str, items: Sequence[Item], image: Images, limit: int, sample: bool = False) -> Iterator[Gallery]:
  """Yields the gallery of at most `limit` items, the first or an even sample of all; nothing without items."""
  shown = range(min(limit, len(items)))
  if sample and items:
    shown = np.unique(np.linspace(0, len(items) - 1, len(shown)).round().astype(int)).tolist()
  if items:
    yield Gallery(title, [([_shown(each, image) for each in items[i][0]], items[i][1]) for i in shown], len(items))


def _by_distance(pairs: Sequence[Record]) -> dict[int, list[list[Record]]]:
  """Returns the images of each pair by their distance, in ascending order."""
  distances = sorted({pair["distance"] for pair in pairs})
  return {each: [pair["images"] for pair in pairs if pair["distance"] == each] for each in distances}


def _shown(found: Record, image: Images) -> ShownImage:
  """Returns the image that these examples share, with a caption such as "train fear 2x, sad; test sad"."""
  labels: dict[str, Counter[str]] = {}
  for split, label in zip(found["splits"], found["labels"], strict=True):
    labels.setdefault(split, Counter())[label] += 1
  caption = "; ".join(
    f"{split} " + ", ".join(f"{label} {number}{_TIMES}" if number > 1 else label for label, number in counts.items())
    for split, counts in labels.items()
  )
  rows = [str(row) for row in found["rows"]]
  more = [f"and {len(rows) - _ROWS_SHOWN} more"] if len(rows) > _ROWS_SHOWN else []
  return ShownImage(_small(image[found["rows"][0]]), caption, ", ".join([*rows[:_ROWS_SHOWN], *more]))


def _small(image: np.ndarray) -> np.ndarray:
  """Returns an image [H, W, C] shrunk to at most `_PIXELS` along its longer side."""
  height, width = image.shape[:2]
  scale = _PIXELS / max(height, width)
  if scale >= 1:
    return image
  size = max(1, round(width * scale)), max(1, round(height * scale))
  # OpenCV takes (width, height), and drops the channel axis of grey images.
  return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], -1)
