"""The section of curves: which charts a run's records can fill."""

import math
from collections.abc import Sequence
from html import escape

from fer_jax.apps.report_page.figures import Chart, Line, Phase, depth_colour, line_of, phases_of
from fer_jax.apps.report_page.markup import Section, chart_figure
from fer_jax.apps.report_page.quantities import count
from fer_jax.apps.report_page.run_files import Run, mapping

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


def _accuracy(run: Run, beside: Sequence[tuple[str, Run]]) -> Chart:
  others = [
    line_of(f"validation, {name}", other_colour(position), other.validation, "accuracy", dashed=True)
    for position, (name, other) in enumerate(beside)
  ]
  selected = mapping(mapping(run.result).get("validation"))
  ringed = None
  if selected.get("step") is not None and selected.get("accuracy") is not None:
    ringed = (float(selected["step"]), float(selected["accuracy"]))
  return Chart(
    "Accuracy",
    [
      line_of("training", "var(--quiet)", run.metrics.train, "accuracy"),
      line_of("validation", "var(--accent)", run.validation, "accuracy"),
      *others,
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
  return Chart(chart.title, lines, chart.note, chart.as_percent, chart.ringed) if lines else None


def _lead(phases: Sequence[Phase]) -> str:
  if len(phases) < 2:
    return ""
  named = "; ".join(f"<b>{escape(phase.name)}</b> to step {count(phase.last)}" for phase in phases)
  return f'<p class="lead">Phases of the training, shaded by turns: {named}.</p>'


def curves(run: Run, beside: Sequence[tuple[str, Run]]) -> Section | None:
  """Draws the run's curves over its steps; the runs beside lend their validation accuracy."""
  phases = phases_of(run.metrics.train)
  train = run.metrics.train
  charts = [
    _accuracy(run, beside),
    _loss(run),
    *_layers(run),
    Chart("Learning rate", [line_of("learning rate", "var(--accent)", train, "learning_rate")]),
    Chart("Images a second", [line_of("images a second", "var(--accent)", train, "images_per_second")]),
  ]
  figures = [chart_figure(chart, phases) for chart in map(_drawable, charts) if chart is not None]
  if not figures:
    return None
  return Section("curves", "Curves", f'{_lead(phases)}<div class="columns">{"".join(figures)}</div>')
