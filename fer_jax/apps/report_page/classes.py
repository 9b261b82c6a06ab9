"""The sections about classes and images: confusion matrix, per-class figures, mistakes, samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from fer_jax.apps.formatting import count, percent
from fer_jax.apps.report_page.markup import Section, image_tag, table
from fer_jax.apps.report_page.trainings import name_of
from fer_jax.training.run_files import Record, Run, mapping

_STRONG = 0.55  # share of the row above which a cell is dark enough to need light digits


@dataclass(frozen=True)
class Explanation:
  """Heat maps of the M worst mistakes, painted over the images.

  Attributes:
    predicted: Images with the evidence for the predicted class, uint8 [M, H, W, 3].
    true: Images with the evidence for the true class, uint8 [M, H, W, 3].
    scale: Colour scale from no evidence to the most, uint8 [1, N, 3].
    reference: Citation of the method.
  """

  predicted: np.ndarray
  true: np.ndarray
  scale: np.ndarray
  reference: str


def _name(names: Sequence[str], label: int) -> str:
  return str(names[label]) if label < len(names) else f"class {label}"


def _confusion(matrix: list[list[int]], names: Sequence[str], of: str) -> str:
  heads = "".join(f'<th scope="col">{escape(_name(names, k))}</th>' for k in range(len(matrix)))
  lines = []
  for true, row in enumerate(matrix):
    total = sum(row)  # 0 for a class without test images
    cells = []
    for predicted, number in enumerate(row):
      share = number / total if total else 0.0
      kinds = ["strong"] * (share > _STRONG) + ["right"] * (true == predicted)
      kind = f' class="{" ".join(kinds)}"' if kinds else ""
      cells.append(f'<td{kind} style="--p:{share:.3f}">{count(number)}<small>{percent(share, 0)}</small></td>')
    lines.append(f'<tr><th scope="row">{escape(_name(names, true))}</th>{"".join(cells)}</tr>')
  return (
    "<figure><figcaption>Confusion matrix<small>Rows: true class; columns: predicted class. Each cell: count and "
    f"share of the row; the colour is the share.{of}</small></figcaption>"
    f'<div class="wide"><table class="confusion"><thead><tr>'
    f'<th class="corner">true \N{RIGHTWARDS ARROW} pred.</th>'
    f"{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></figure>"
  )


def _most_confused(matrix: list[list[int]], names: Sequence[str]) -> str:
  # Off-diagonal cells that are not empty, most frequent first; ties in the order of the classes.
  pairs = [
    (number, true, predicted)
    for true, row in enumerate(matrix)
    for predicted, number in enumerate(row)
    if true != predicted and number
  ]
  items = [
    f"<li><span>{escape(_name(names, true))} \N{RIGHTWARDS ARROW} {escape(_name(names, predicted))}</span>"
    f'<span class="muted">{count(number)} of {count(sum(matrix[true]))}, '
    f"{percent(number / sum(matrix[true]), 1)}</span></li>"
    for number, true, predicted in sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:5]
  ]
  return f'<h3>Most frequent confusions</h3><ol class="ranked">{"".join(items)}</ol>'


def _measure(value: float | None) -> str:
  if value is None:
    return '<span class="missing">undefined</span>'
  return f'<data value="{value!r}">{value:.3f}</data>'


def _reported(value: float | None) -> str:
  return "" if value is None else f'<br><span class="muted">paper {value:.3f}</span>'


def _printed(figures: Sequence[float]) -> Sequence[float | None]:
  """Returns the paper's (precision, recall, F1) of a class; None for what it does not print.

  A paper prints all three figures, the recall alone, or none.
  """
  return figures if len(figures) == 3 else (None, figures[0] if figures else None, None)


def _per_class(rows: Sequence[Record], reported: Mapping[str, Sequence[float]]) -> str:
  """Returns the table of precision, recall and F1 by class, each with the paper's figure below it if there is one."""
  measures = ("precision", "recall", "f1")
  cells = [
    [
      escape(str(row["class"])),
      *(
        _measure(row.get(name)) + _reported(value)
        for name, value in zip(measures, _printed(reported.get(str(row["class"]), ())), strict=True)
      ),
      f'<data value="{row["support"]}">{count(row["support"])}</data>',
    ]
    for row in rows
  ]
  # Unweighted mean over the classes; a measure that is undefined for a class is skipped.
  means = []
  for name in measures:
    known = [row[name] for row in rows if row.get(name) is not None]
    means.append(f"{sum(known) / len(known):.3f}" if known else "")
  cells.append(["mean over classes", *means, count(sum(row["support"] for row in rows))])
  return "<figure><figcaption>By class</figcaption>" + (
    table(["class", "precision", "recall", "F1", "images"], cells, marked=len(cells) - 1) + "</figure>"
  )


def classes(run: Run) -> Section | None:
  """Returns the section with the confusion matrix and the per-class figures of the test split."""
  result = mapping(run.result)
  matrix, names = result.get("confusion_matrix") or [], result.get("class_names") or []
  several = len(result.get("runs") or [])
  left = _confusion(matrix, names, f" Sum over {several} replicas." if several > 1 else "") if matrix else ""
  reported = mapping(mapping(run.settings.get("paper")).get("by_class"))
  right = _per_class(result["per_class"], reported) if result.get("per_class") else ""
  if matrix:
    right += _most_confused(matrix, names)
  if not left and not right:
    return None
  return Section("classes", "Classes", f'<div class="columns">{left}<div>{right}</div></div>')


def _explained(image: np.ndarray, explanation: Explanation, place: int, said: str, names: tuple[str, str]) -> str:
  """Returns three images: evidence for the predicted class, the face itself, evidence for the true class."""
  true, predicted = names
  images = (
    (explanation.predicted[place], f"predicted: {predicted}", f"evidence for {predicted}"),
    (image, "the face", said),
    (explanation.true[place], f"true: {true}", f"evidence for {true}"),
  )
  return "".join(
    f"<figure>{image_tag(pixels, alternative)}<figcaption>{escape(caption)}</figcaption></figure>"
    for pixels, caption, alternative in images
  )


def _legend(explanation: Explanation) -> str:
  scale = image_tag(explanation.scale, "grey, violet, red, yellow")
  return (
    '<p class="lead">Left of each face: the evidence for the predicted class; right: the evidence for the true class. '
    "The colour is the evidence at a position, relative to "
    f'the image\'s strongest position: <span class="scale">none {scale} most</span>. A face that is grey everywhere '
    "has no evidence for the class. The heat maps have the resolution of the network's last feature maps and are "
    "enlarged. For a network that classifies from several layers, the heat maps of these layers are added, which is "
    "this project's extension of the paper's single layer. "
    f"({escape(explanation.reference)})</p>"
  )


def mistakes(run: Run, explanation: Explanation | None = None) -> Section | None:
  """Returns the section with the most confident wrong answers on the test split, the most confident first.

  Args:
    run: Run whose `predictions` list the mistakes.
    explanation: Heat maps of the same mistakes, in the same order; None shows the images alone.
  """
  if run.predictions is None or not len(run.predictions.worst):
    return None
  of = run.predictions
  names = mapping(run.result).get("class_names") or []
  trainings = [str(one.get("name", "")) for one in mapping(run.result).get("runs") or []]
  items = []
  # `position` is a row of the N predictions, `number` a row of the M mistakes and of their heat maps.
  for number, (position, image) in enumerate(zip(of.worst.tolist(), of.worst_image, strict=True)):
    probability = of.probability[position]
    true, predicted = int(of.label[position]), int(np.argmax(probability))
    said = f"{_name(names, true)} \N{RIGHTWARDS ARROW} {_name(names, predicted)}"
    place = f"row {int(of.index[position])}"
    if of.replica is not None:
      place += f", {name_of(trainings[of.replica[position]])}"
    shown = image_tag(image, said)
    if explanation is not None:
      images = _explained(image, explanation, number, said, (_name(names, true), _name(names, predicted)))
      shown = f'<div class="explained">{images}</div>'
    items.append(
      f"<li>{shown}{escape(said)}<br>"
      f'<span class="muted">{percent(float(probability[predicted]), 1)} \N{MIDDLE DOT} '
      f"{percent(float(probability[true]), 1)}<br>{escape(place)}</span></li>"
    )
  lead = (
    '<p class="lead">True \N{RIGHTWARDS ARROW} predicted class, the most confident wrong answer first; '
    "below it, the probabilities of the predicted and of the true class, and the image's row in the "
    "dataset.</p>"
  )
  if explanation is not None:
    lead += _legend(explanation)
  kind = "images" if explanation is None else "images broad"
  return Section("mistakes", "Worst mistakes", f'{lead}<ul class="{kind}">{"".join(items)}</ul>')


def samples(run: Run) -> Section | None:
  """Returns the section with augmented training images, as they are fed to the network."""
  if run.predictions is None or run.predictions.sample_image is None or not len(run.predictions.sample_image):
    return None
  items = "".join(f"<li>{image_tag(image, 'augmented sample')}</li>" for image in run.predictions.sample_image)
  lead = '<p class="lead">Training images after augmentation, as they are fed to the network.</p>'
  return Section("samples", "Augmented samples", f'{lead}<ul class="images small">{items}</ul>')
