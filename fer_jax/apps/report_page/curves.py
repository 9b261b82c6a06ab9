"""The section of curves: one chart for each quantity that the run logged."""

import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape

from fer_jax.apps.formatting import count
from fer_jax.apps.report_page.figures import (
  Chart,
  Line,
  Phase,
  curve_of,
  depth_colour,
  line_of,
  mean_line,
  phases_of,
)
from fer_jax.apps.report_page.markup import Section, chart_figure
from fer_jax.training.run_files import Record, Run, mapping

OTHER_COLOURS = 4  # --other-0 .. --other-3 in the style sheet
_LAYER_TITLES = {
  "hsic_label": ("HSIC with the label, by layer", "Dependence between each layer's activations and the label."),
  "hsic_input": (
    "HSIC with the input, by layer",
    "Dependence between each layer's activations and the input.",
  ),
}


def first_loss_not_finite(run: Run) -> int | None:
  """Returns the first step whose logged training loss is not a finite number, or None."""
  for record in run.metrics.train:
    if "loss" in record:
      loss = record["loss"]
      if not isinstance(loss, int | float) or not math.isfinite(loss):
        return int(record["step"])
  return None


def other_colour(position: int) -> str:
  """Returns the CSS colour of the compared run at this position; the colours repeat."""
  return f"var(--other-{position % OTHER_COLOURS})"


def _loss(run: Run) -> Chart:
  train, validation = run.metrics.train, run.validation
  return Chart(
    "Loss",
    [
      line_of("training", "var(--quiet)", train, "loss"),
      line_of("validation", "var(--accent)", validation, "loss"),
    ],
  )


def _others(beside: Sequence[tuple[str, Run]]) -> list[Line]:
  """Returns the validation accuracy of each compared run as a dashed line; for several replicas, their mean."""
  lines = []
  for position, (name, other) in enumerate(beside):
    named, colour = f"validation, {name}", other_colour(position)
    if other.replicas:
      lines += _mean(named, colour, [training.validation for training in other.replicas], "accuracy", dashed=True)
    else:
      lines.append(line_of(named, colour, other.validation, "accuracy", dashed=True))
  return [replace(line, bands=()) for line in lines]  # bands of several runs would hide one another


def _mean(name: str, colour: str, trainings: Sequence[Sequence[Record]], key: str, dashed: bool = False) -> list[Line]:
  """Returns the mean of several replicas as one line; an empty list if no replica logged the key."""
  known = [curve for curve in (curve_of(records, key) for records in trainings) if len(curve[0])]
  return [mean_line(name, colour, known, dashed)] if known else []


def _accuracy(run: Run, beside: Sequence[tuple[str, Run]]) -> Chart:
  selected = mapping(mapping(run.result).get("validation"))
  ringed = None
  if selected.get("step") is not None and selected.get("accuracy") is not None:
    ringed = (float(selected["step"]), float(selected["accuracy"]))
  return Chart(
    "Accuracy",
    [
      line_of("training", "var(--quiet)", run.metrics.train, "accuracy"),
      line_of("validation", "var(--accent)", run.validation, "accuracy"),
      *_others(beside),
    ],
    as_percent=True,
    ringed=ringed,
  )


def _layers(run: Run) -> list[Chart]:
  """Returns one chart for each family of per-layer scalars (keys `family/layer`), in the order logged."""
  families: dict[str, dict[str, None]] = {}  # the inner dict is an ordered set of layers
  for record in run.metrics.train:
    for key in record:
      family, slash, layer = key.partition("/")
      if slash:
        families.setdefault(family, {})[layer] = None
  charts = []
  for family, layers in families.items():
    title, note = _LAYER_TITLES.get(family, (f"{family}, by layer", ""))
    lines = [
      line_of(layer, depth_colour(position, len(layers)), run.metrics.train, f"{family}/{layer}")
      for position, layer in enumerate(layers)
    ]
    charts.append(Chart(title, lines, note))
  return charts


def _drawable(chart: Chart) -> Chart | None:
  lines: list[Line] = [line for line in chart.lines if line.drawable]
  return replace(chart, lines=lines) if lines else None


def _lead(phases: Sequence[Phase]) -> str:
  if len(phases) < 2:
    return ""
  named = "; ".join(f"<b>{escape(phase.name)}</b> to step {count(phase.last)}" for phase in phases)
  return f'<p class="lead">Training phases, every second one shaded: {named}.</p>'


def _of_several(run: Run, beside: Sequence[tuple[str, Run]]) -> list[Chart]:
  """Returns the charts of a run with several replicas: a thin line for each replica, and their mean."""
  validations = [training.validation for training in run.replicas]
  charts = []
  for key in ("accuracy", "loss"):
    lines = [replace(line, thin=True) for of in validations for line in _mean("", "var(--accent)", [of], key)]
    # Only the first thin line has a name, so that the legend has one entry for all of them.
    lines[:1] = [replace(line, name=f"each of {len(lines)} replicas") for line in lines[:1]]
    lines += [replace(line, bands=()) for line in _mean("mean of the replicas", "var(--accent)", validations, key)]
    lines += _others(beside) if key == "accuracy" else []
    charts.append(Chart(f"Validation {key}", lines, as_percent=key == "accuracy"))
  logged = [training.metrics.train for training in run.replicas]
  lines = _mean("mean of the replicas", "var(--quiet)", logged, "accuracy")
  return [*charts, Chart("Training accuracy", lines, "Band: one standard deviation.", as_percent=True)]


def _common_phases(run: Run) -> list[Phase]:
  """Returns the phases of the replica with the most steps; an empty list if another replica changed phase elsewhere."""
  phases = [phases_of(training.metrics.train) for training in run.trainings]
  farthest = max(phases, key=lambda of: of[-1].last if of else 0)
  begun = {phase.name: phase.first for phase in farthest}
  return farthest if all(begun.get(phase.name) == phase.first for of in phases for phase in of) else []


def curves(run: Run, beside: Sequence[tuple[str, Run]]) -> Section | None:
  """Returns the section with the run's curves over its steps.

  Args:
    run: Run to draw.
    beside: Names of the compared runs, each with its run; their validation accuracy is added to the accuracy chart.
  """
  phases = _common_phases(run)
  train = run.metrics.train
  charts = [
    _accuracy(run, beside),
    _loss(run),
    *_layers(run),
    Chart("Learning rate", [line_of("learning rate", "var(--accent)", train, "learning_rate")]),
    Chart("Images a second", [line_of("images a second", "var(--accent)", train, "images_per_second")]),
  ]
  if run.replicas:
    charts = _of_several(run, beside)
  figures = [chart_figure(chart, phases) for chart in map(_drawable, charts) if chart is not None]
  if not figures:
    return None
  return Section("curves", "Curves", f'{_lead(phases)}<div class="columns">{"".join(figures)}</div>')
