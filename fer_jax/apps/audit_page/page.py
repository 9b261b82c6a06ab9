"""HTML page of an audit: tables of counts, and the images that were counted."""

from collections import Counter
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from fer_jax.apps.audit_page.content import labels_differ, splits_differ
from fer_jax.apps.formatting import count, percent, short_commit
from fer_jax.apps.report_page.markup import Section, bullets, document, facts, image_tag, table
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


def audit_page(content: Record, image: Images) -> str:
  """Returns the page of an audit as self-contained HTML.

  Args:
    content: Content of audit.json.
    image: Images of the dataset, uint8 [N, H, W, C].

  Returns:
    HTML document without external resources.
  """
  parts = [
    _classes(content),
    _between_splits(content),
    _folds(content),
    _equal(content, image),
    _similar(content, image),
    _constant(content, image),
    _provenance(content),
  ]
  return document(f"Audit of {content['dataset']}", _header(content), [part for part in parts if part is not None])


def _header(content: Record) -> str:
  height, width, channels = content["image_shape"]
  kind = f"{height}{_TIMES}{width}, {'grey' if channels == 1 else 'colour'}"
  repeated, pairs, subjects = len(content["duplicates"]), len(content["near"]["pairs"]), content["subjects"]
  constants = sum(len(each["rows"]) for each in content["constant"])
  listed = facts(
    [
      ("Images", count(content["examples"]), kind),
      ("Distinct images", count(content["images"]), f"{count(repeated)} appear more than once"),
      ("Conflicting labels", count(content["conflicting_duplicates"]), "groups of identical images"),
      *(
        (f"{found['of'].capitalize()} images in {found['among']}", count(found["image"]), _share(found))
        for found in content["overlaps"]
        if found["among"] == "train"
      ),
      ("Near duplicates", count(pairs), f"pairs, hash distance at most {content['near']['threshold']} of 64 bits"),
      ("Constant images", count(constants), "all pixels equal"),
      ("Subjects", count(subjects) if subjects else "not stated", _shared_subjects(content)),
    ]
  )
  warned = "".join(f'<p class="notice" role="note">{escape(text)}</p>' for text in notices(content))
  return (
    f'<header><div class="eyebrow">Data audit</div><h1>{escape(content["dataset"])}</h1>{warned}'
    f'<div class="apart">{listed}</div></header>'
  )


def _share(found: Record) -> str:
  return f"{percent(found['image'] / found['examples'], 1)} of {count(found['examples'])}"


def _shared_subjects(content: Record) -> str:
  shared = len(content["subjects_in_several_splits"])
  return f"{count(shared)} in more than one split" if content["subjects"] else ""


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


def _classes(content: Record) -> Section:
  counts = content["class_counts"]
  totals = {split: sum(each) for split, each in counts.items()}
  rows = [
    [escape(name), *(_part(counts[split][label], totals[split]) for split in counts), _sum(counts, label)]
    for label, name in enumerate(content["classes"])
  ]
  rows.append(["total", *(count(total) for total in totals.values()), count(sum(totals.values()))])
  lead = '<p class="lead">Number of images of each class, and share of the split.</p>'
  return Section("classes", "Classes", lead + table(["class", *counts, "all"], rows, marked=len(rows) - 1))


def _part(number: int, total: int) -> str:
  return f'{count(number)} <span class="muted">{percent(number / total, 1)}</span>'


def _sum(counts: dict[str, list[int]], label: int) -> str:
  return count(sum(each[label] for each in counts.values()))


def _between_splits(content: Record) -> Section | None:
  if not content["overlaps"]:
    return None
  rows = [[f"{each['of']} in {each['among']}", *_overlap_cells(each)] for each in content["overlaps"]]
  shared = content["subjects_in_several_splits"]
  names = ""
  if shared:
    listed = [f"{who}: {', '.join(splits)}" for who, splits in list(shared.items())[:_SUBJECTS_SHOWN]]
    names = f"<h3>{_of('People in more than one split', len(listed), len(shared))}</h3>{bullets(listed)}"
  return Section("splits", "Between the splits", _OVERLAP_LEAD + table(_overlap_head("splits"), rows) + names)


_OVERLAP_LEAD = (
  '<p class="lead">Number of images that have a match on the other side: an identical image; a near duplicate but no '
  "identical image; the same person; the same group (frames of one sequence, or identical images).</p>"
)


def _overlap_head(first: str) -> list[str]:
  return [first, "images", "identical image", "near duplicate", "same person", "same group"]


def _overlap_cells(found: Record) -> list[str]:
  people = '<span class="missing">not stated</span>' if found["subject"] is None else count(found["subject"])
  return [count(found["examples"]), count(found["image"]), count(found["near"]), people, count(found["group"])]


def _folds(content: Record) -> Section | None:
  if "folds" not in content:
    return None
  rows = [[str(each["fold"]), *_overlap_cells(each)] for each in content["folds"]]
  file = f"<code>{escape(content['splits_file'])}</code>"
  lead = f'<p class="lead">Test images of each fold of {file}, compared with all other images.</p>'
  explained = "" if content["overlaps"] else _OVERLAP_LEAD  # printed once, in the first of the two sections
  return Section("folds", "Folds", lead + explained + table(_overlap_head("fold"), rows))


def _equal(content: Record, image: Images) -> Section | None:
  groups = sorted(content["duplicates"], key=lambda each: (-len(each["rows"]), each["rows"][0]))
  if not groups:
    return None
  conflicts = [each for each in groups if labels_differ([each])]
  leaks = [each for each in groups if splits_differ([each]) and not labels_differ([each])]
  others = [each for each in groups if not splits_differ([each]) and not labels_differ([each])]
  lead = (
    '<p class="lead">Images that appear in the dataset more than once, pixel for pixel. Below each: splits and labels '
    "of its examples, and their zero-based rows in the prepared dataset.</p>"
  )
  shown = (
    _gallery("Different labels", conflicts, image, _CONFLICTS_SHOWN),
    _gallery("One label, different splits", leaks, image),
    _gallery("One label, one split", others, image),
  )
  return Section("equal", "Identical images", lead + "".join(shown))


def _gallery(title: str, groups: Sequence[Record], image: Images, limit: int = _GROUPS_SHOWN) -> str:
  if not groups:
    return ""
  items = "".join(_item([each], image) for each in groups[:limit])
  return f'<h3>{_of(title, min(len(groups), limit), len(groups))}</h3><ul class="images">{items}</ul>'


def _similar(content: Record, image: Images) -> Section | None:
  near = content["near"]
  pairs = near["pairs"]
  if not pairs:
    return None
  lead = (
    f'<p class="lead">Different images whose perceptual hashes differ in at most {near["threshold"]} of 64 bits. In '
    "images collected from the web, most of these are one photograph with another crop or tone; posed faces in one "
    "framing can be as similar without being duplicates. The samples at each distance show which applies. The pairs "
    f"form {count(near['groups'])} groups (the largest has {count(near['largest_group'])} images), of which "
    f"{count(near['conflicting_groups'])} have different labels.</p>"
  )
  rows, samples = [], ""
  for distance in sorted({pair["distance"] for pair in pairs}):
    at = [pair for pair in pairs if pair["distance"] == distance]
    across = sum(splits_differ(pair["images"]) for pair in at)
    differ = sum(labels_differ(pair["images"]) for pair in at)
    rows.append([str(distance), count(len(at)), count(across), count(differ)])
    samples += _pairs(f"Distance {distance}", at, image, _SAMPLE)
  body = lead + f'<div class="narrow">{table(["distance", "pairs", "across splits", "labels differ"], rows)}</div>'
  conflicts = [pair for pair in pairs if labels_differ(pair["images"])]
  leaks = [pair for pair in pairs if splits_differ(pair["images"]) and not labels_differ(pair["images"])]
  body += _pairs("Different labels", conflicts, image) + _pairs("One label, different splits", leaks, image)
  return Section("similar", "Similar images", body + samples)


def _pairs(title: str, pairs: Sequence[Record], image: Images, limit: int = _PAIRS_SHOWN) -> str:
  """Returns HTML of at most `limit` pairs, sampled evenly over all of them."""
  if not pairs:
    return ""
  drawn = np.unique(np.linspace(0, len(pairs) - 1, min(limit, len(pairs))).round().astype(int)).tolist()
  items = "".join(_item(pairs[i]["images"], image, pairs[i]["distance"]) for i in drawn)
  return f'<h3>{_of(title, len(drawn), len(pairs))}</h3><ul class="images">{items}</ul>'


def _constant(content: Record, image: Images) -> Section | None:
  found = content["constant"]
  if not found:
    return None
  number = sum(len(each["rows"]) for each in found)
  lead = f'<p class="lead">{count(number)} images consist of a single grey level or colour and show no face.</p>'
  return Section("constant", "Constant images", lead + _gallery("Distinct images", found, image))


def _item(images: Sequence[Record], image: Images, distance: int | None = None) -> str:
  """Returns a list item of one or two images, with splits, labels and rows below them in the same order."""
  drawn = "".join(image_tag(_small(image[each["rows"][0]]), _caption(each)) for each in images)
  said = [f'{escape(_caption(each))} <span class="muted">{_rows(each)}</span>' for each in images]
  said += [] if distance is None else [f'<span class="muted">distance {distance}</span>']
  return f"<li>{drawn}{'<br>'.join(said)}</li>"


def _caption(shown: Record) -> str:
  """Returns a caption such as "train fear 2x, sad; test sad", from the examples of an image."""
  labels: dict[str, Counter[str]] = {}
  for split, label in zip(shown["splits"], shown["labels"], strict=True):
    labels.setdefault(split, Counter())[label] += 1
  return "; ".join(f"{split} " + ", ".join(_times(*of) for of in counts.items()) for split, counts in labels.items())


def _times(label: str, number: int) -> str:
  return f"{label} {number}{_TIMES}" if number > 1 else label


def _rows(shown: Record) -> str:
  rows = [str(row) for row in shown["rows"]]
  more = [f"and {len(rows) - _ROWS_SHOWN} more"] if len(rows) > _ROWS_SHOWN else []
  return ", ".join([*rows[:_ROWS_SHOWN], *more])


def _small(image: np.ndarray) -> np.ndarray:
  """Returns an image [H, W, C] shrunk to at most `_PIXELS` along its longer side."""
  height, width = image.shape[:2]
  scale = _PIXELS / max(height, width)
  if scale >= 1:
    return image
  size = max(1, round(width * scale)), max(1, round(height * scale))
  # OpenCV takes (width, height), and drops the channel axis of grey images.
  return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], -1)


def _of(title: str, shown: int, total: int) -> str:
  """Returns a heading with the number of items, and of how many are shown if not all are."""
  numbers = count(total) if shown == total else f"{count(shown)} of {count(total)} shown"
  return f'{escape(title)} <span class="muted">{numbers}</span>'


def _provenance(content: Record) -> Section:
  origin = content["origin"] or {}
  known = facts(
    [
      ("Dataset", content["dataset"], f"version {content['dataset_version']}"),
      ("Source", str(origin.get("path", "built in")), ""),
      ("Commit", short_commit(content["commit"]), ""),
    ]
  )
  digests = [f"{name}: {value}" for name, value in origin.items() if "sha256" in name]
  notes = [*content["notes"], *digests]
  rows = [[escape(name), f"<code>{escape(version)}</code>"] for name, version in content["versions"].items()]
  return Section(
    "provenance",
    "How it was made",
    f"{known}{f'<h3>Notes</h3>{bullets(notes)}' if notes else ''}"
    f'<figure class="narrow apart"><figcaption>Versions</figcaption>{table(["package", "version"], rows)}</figure>',
  )
