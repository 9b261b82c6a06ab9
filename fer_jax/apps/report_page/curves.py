"""The section of curves: which charts a run's records can fill."""

import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape

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
from fer_jax.apps.report_page.quantities import count
from fer_jax.apps.report_page.run_files import Record, Run, mapping

OTHER_COLOURS = 4  # --other-0 .. --other-3 in the style sheet
_LAYER_TITLES = {
  "hsic_label": ("HSIC with the label, by layer", "How much of the label each layer's activations hold."),
  "hsic_input": (
    "HSIC with the input, by layer",
    "How much of the input each layer's activations still hold.",
  ),
}


def first_loss_not_finite(run: Run) -> int | None:
  """Returns the first step whose logged training loss is no finite number, or None."""
  for record in run.metrics.train:
    if "loss" in record:
      loss = record["loss"]
      if not isinstance(loss, int | float) or not math.isfinite(loss):
        return int(record["step"])
  return None


def other_colour(position: int) -> str:
  """Returns the CSS colour of the run beside at this position."""
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
  """Makes the line of each run beside: its validation accuracy, of several trainings their mean."""
  lines = []
  for position, (name, other) in enumerate(beside):
    named, colour = f"validation, {name}", other_colour(position)
    if other.replicas:
      lines += _mean(named, colour, [training.validation for training in other.replicas], "accuracy", dashed=True)
    else:
      lines.append(line_of(named, colour, other.validation, "accuracy", dashed=True))
  return [replace(line, bands=()) for line in lines]


def _mean(name: str, colour: str, trainings: Sequence[Sequence[Record]], key: str, dashed: bool = False) -> list[Line]:
  """Makes the line of several trainings' mean; none where none of them logged it."""
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
  """Makes one chart of each family of per-layer scalars, keys `family/layer`, in the order logged."""
  families: dict[str, dict[str, None]] = {}
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
  return f'<p class="lead">Phases of the training, shaded by turns: {named}.</p>'


def _of_several(run: Run, beside: Sequence[tuple[str, Run]]) -> list[Chart]:
  """Makes the charts of a run of several trainings: each by a thin line, and their mean."""
  validations = [training.validation for training in run.replicas]
  charts = []
  for key in ("accuracy", "loss"):
    lines = [replace(line, thin=True) for of in validations for line in _mean("", "var(--accent)", [of], key)]
    lines[:1] = [replace(line, name=f"each of {len(lines)} trainings") for line in lines[:1]]
    lines += [replace(line, bands=()) for line in _mean("their mean", "var(--accent)", validations, key)]
    lines += _others(beside) if key == "accuracy" else []
    charts.append(Chart(f"Validation {key}", lines, as_percent=key == "accuracy"))
  logged = [training.metrics.train for training in run.replicas]
  lines = _mean("mean of the trainings", "var(--quiet)", logged, "accuracy")
  return [*charts, Chart("Training accuracy", lines, "Band: one standard deviation.", as_percent=True)]


def _common_phases(run: Run) -> list[Phase]:
  """Returns the phases of the training that came farthest, where all others changed from one to the next as it did."""
  phases = [phases_of(training.metrics.train) for training in run.trainings]
  farthest = max(phases, key=lambda of: of[-1].last if of else 0)
  begun = {phase.name: phase.first for phase in farthest}
  return farthest if all(begun.get(phase.name) == phase.first for of in phases for phase in of) else []


def curves(run: Run, beside: Sequence[tuple[str, Run]]) -> Section | None:
  """Draws the run's curves over its steps; the runs beside lend their validation accuracy."""
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
