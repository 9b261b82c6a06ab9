"""The charts of a run: one for each quantity that it logged."""

from collections.abc import Sequence
from dataclasses import replace

from fer_jax.apps.pages.charts import Chart, Line, curve_of, depth_colour, line_of, mean_line, other_colour
from fer_jax.training.run_files import Record, RunFiles, training_cross_entropy

_LAYER_TITLES = {
  "hsic_label": ("HSIC with the label, by layer", "Dependence between each layer's activations and the label."),
  "hsic_input": ("HSIC with the input, by layer", "Dependence between each layer's activations and the input."),
}


def charts_of(run: RunFiles, others: Sequence[tuple[str, RunFiles]]) -> list[Chart]:
  """Returns the charts of the run's curves over its steps; those without a finite value are left out.

  Args:
    run: Run to draw.
    others: Names of the compared runs, each with its run; their validation accuracy is added to the accuracy chart.
  """
  charts = _replica_charts(run, others) if run.replicas else _charts(run, others)
  drawable = [replace(chart, lines=[line for line in chart.lines if line.drawable]) for chart in charts]
  return [chart for chart in drawable if chart.lines]


def _charts(run: RunFiles, others: Sequence[tuple[str, RunFiles]]) -> list[Chart]:
  train = run.metrics.train
  selected = run.result.validation if run.result else None
  ringed = (float(selected.step), selected.accuracy) if selected and selected.step is not None else None

  def lines(key: str, training: Sequence[Record] = train) -> list[Line]:
    return [
      line_of("training", "var(--quiet)", training, key),
      line_of("validation", "var(--accent)", run.validation, key),
    ]

  cross_entropies = [(record, training_cross_entropy(record)) for record in train]
  comparable = [record | {"loss": value} for record, value in cross_entropies if value is not None]
  of_layers = [record for record, value in cross_entropies if value != record.get("loss")]
  return [
    Chart("Accuracy", [*lines("accuracy"), *_others(others)], as_percent=True, ringed=ringed),
    Chart("Loss", lines("loss", comparable)),
    Chart("Loss of the layers", [line_of("training", "var(--quiet)", of_layers, "loss")]),
    *_layer_charts(train),
    Chart("Learning rate", [line_of("learning rate", "var(--accent)", train, "learning_rate")]),
    Chart("Images a second", [line_of("images a second", "var(--accent)", train, "images_per_second")]),
  ]


def _layer_charts(train: Sequence[Record]) -> list[Chart]:
  """Returns one chart for each family of per-layer scalars (keys `family/layer`), in the order logged."""
  families: dict[str, dict[str, None]] = {}  # the inner dict is an ordered set of layers
  for record in train:
    for key in record:
      family, slash, layer = key.partition("/")
      if slash:
        families.setdefault(family, {})[layer] = None
  charts = []
  for family, layers in families.items():
    title, note = _LAYER_TITLES.get(family, (f"{family}, by layer", ""))
    lines = [
      line_of(layer, depth_colour(position, len(layers)), train, f"{family}/{layer}")
      for position, layer in enumerate(layers)
    ]
    charts.append(Chart(title, lines, note))
  return charts


def _replica_charts(run: RunFiles, others: Sequence[tuple[str, RunFiles]]) -> list[Chart]:
  """Returns the charts of a run with several replicas: a thin line for each replica, and their mean."""
  validations = [replica.validation for replica in run.replicas]
  charts = []
  for key in ("accuracy", "loss"):
    lines = [replace(line, thin=True) for records in validations for line in _mean("", "var(--accent)", [records], key)]
    # Only the first thin line has a name, so that the legend has one entry for all of them.
    lines[:1] = [replace(line, name=f"each of {len(lines)} replicas") for line in lines[:1]]
    lines += [replace(line, bands=()) for line in _mean("mean of the replicas", "var(--accent)", validations, key)]
    lines += _others(others) if key == "accuracy" else []
    charts.append(Chart(f"Validation {key}", lines, as_percent=key == "accuracy"))
  logged = [replica.metrics.train for replica in run.replicas]
  lines = _mean("mean of the replicas", "var(--quiet)", logged, "accuracy")
  return [*charts, Chart("Training accuracy", lines, "Band: one standard deviation.", as_percent=True)]


def _others(others: Sequence[tuple[str, RunFiles]]) -> list[Line]:
  """Returns the validation accuracy of each compared run as a dashed line; for several replicas, their mean."""
  lines = []
  for position, (name, other) in enumerate(others):
    named, colour = f"validation, {name}", other_colour(position)
    if other.replicas:
      lines += _mean(named, colour, [replica.validation for replica in other.replicas], "accuracy", dashed=True)
    else:
      lines.append(line_of(named, colour, other.validation, "accuracy", dashed=True))
  return [replace(line, bands=()) for line in lines]  # bands of several runs would hide one another


def _mean(name: str, colour: str, replicas: Sequence[Sequence[Record]], key: str, dashed: bool = False) -> list[Line]:
  """Returns the mean of several replicas as one line; an empty list if no replica logged the key."""
  known = [curve for curve in (curve_of(records, key) for records in replicas) if len(curve[0])]
  return [mean_line(name, colour, known, dashed)] if known else []
