"""The figures of a sweep's page: curves over steps, points by candidate, lines over the swept value, scatter plots."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from fer_jax.apps.pages.charts import OTHER_COLOURS, Chart, Curve, Line, mean_line, other_colour
from fer_jax.apps.pages.plots import Point
from fer_jax.apps.sweeps.sweep_result import CandidateResult, Interval
from fer_jax.config.sweep import Figure
from fer_jax.training.run_files import Metrics, Record, training_cross_entropy


def curves(figure: Figure, candidates: Mapping[str, Sequence[Metrics]]) -> Chart | None:
  """Returns a chart of a quantity over the steps, one line for each candidate; None if none logged it.

  Args:
    figure: Figure of kind "curves".
    candidates: Logs of each candidate, by name; one log for each seed or fold. A line is their mean.
  """
  lines = []
  for position, (name, runs) in enumerate(candidates.items()):
    if known := [curve for curve in (_curve(metrics, figure.quantity) for metrics in runs) if len(curve[0])]:
      lines.append(_line(name, position, known))
  if not lines:
    return None
  if len(lines) > OTHER_COLOURS + 1:  # bands of more lines hide one another
    lines = [replace(line, bands=()) for line in lines]
  band = "; band: one standard deviation" if any(line.bands for line in lines) else ""
  mean = f"Line: mean of the replicas{band}." if any(len(runs) > 1 for runs in candidates.values()) else ""
  note = " ".join(filter(None, [figure.note, mean]))
  return Chart(title_of(figure), lines, note, as_percent="accuracy" in figure.quantity)


def title_of(figure: Figure) -> str:
  """Returns the title of a figure, by default its quantity."""
  return figure.title or figure.quantity.capitalize()


def _curve(metrics: Metrics, quantity: str) -> Curve:
  split, _, key = quantity.partition(" ")  # "validation accuracy" -> "validation", "accuracy"
  records = metrics.train if split == "training" else metrics.evaluations.get(split, [])
  known = [(record["step"], value) for record in records if (value := _value(record, split, key)) is not None]
  steps, values = zip(*known, strict=True) if known else ((), ())
  return np.array(steps, float), np.array(values, float)


def _value(record: Record, split: str, key: str) -> float | None:
  return training_cross_entropy(record) if split == "training" and key == "loss" else record.get(key)


def _line(name: str, position: int, runs: Sequence[Curve]) -> Line:
  # After OTHER_COLOURS + 1 lines the colours repeat, dashed.
  turn, hue = divmod(position, OTHER_COLOURS + 1)
  return mean_line(name, _colour(hue), runs, dashed=turn % 2 == 1)


def _colour(hue: int) -> str:
  return "var(--accent)" if hue == 0 else other_colour(hue - 1)


class DotPlot(NamedTuple):
  """A dot plot of shares in [0, 1], one row for each candidate.

  Attributes:
    title: Caption.
    note: Small print below the caption.
    rows: Tuples (name, measured value or None, 95 % interval or None, paper's figure or None).
    ticks: Values to label on the axis, which ends at the first and at the last.
    legend: Triples (CSS class of the sign, "", text).
  """

  title: str
  note: str
  rows: list[tuple[str, float | None, Interval | None, float | None]]
  ticks: list[float]
  legend: list[tuple[str, str, str]]


def points(figure: Figure, candidates: Sequence[CandidateResult]) -> DotPlot | None:
  """Returns a dot plot by candidate, with 95 % intervals and the paper's figures; None without values.

  Args:
    figure: Figure of kind "points".
    candidates: Candidates to show.
  """
  name = figure.quantity
  rows = [(row.name, row.measured.get(name), row.interval_95.get(name), row.reported.get(name)) for row in candidates]
  # The axis includes measured and reported values, and the ends of the intervals.
  known = [value for _, mean, interval, reported in rows for value in (mean, reported, *(interval or ()))]
  known = [value for value in known if value is not None]
  if not known:
    return None
  means = any(len(row.seeds) > 1 for row in candidates)
  legend = [("dot", "", "mean of the seeds" if means else "measured")]
  legend += [("span", "", "95 % interval")] * any(interval for _, _, interval, _ in rows)
  legend += [("print", "", "paper")] * any(reported is not None for *_, reported in rows)
  ticks = [float(tick) for tick in MaxNLocator(nbins=3, steps=[1, 2, 5, 10]).tick_values(min(known), max(known))]
  return DotPlot(title_of(figure), figure.note, rows, ticks, legend)


def lines(figure: Figure, rows: Sequence[CandidateResult], swept: str) -> Chart | None:
  """Returns a chart of a share in [0, 1] over the candidates' values, one line for each series; None without values.

  The paper's figures of a series are a dashed line of the same colour.

  Args:
    figure: Figure of kind "lines".
    rows: Candidates to show.
    swept: Name of the swept quantity, the label of the horizontal axis.
  """
  series: dict[str, list[tuple[float, CandidateResult]]] = {}  # name -> (value, candidate)
  for row in sorted(rows, key=_value_of):
    series.setdefault(row.series, []).append((_value_of(row), row))
  at = sorted({_value_of(row) for row in rows})
  offset = 0.006 * (at[-1] - at[0])  # horizontal, so that whiskers at the same value do not overlap
  drawn = []
  for position, (name, of) in enumerate(series.items()):
    colour, shift = _colour(position % (OTHER_COLOURS + 1)), offset * (2 * position - len(series) + 1)
    measured = [(value + shift, row.measured.get(figure.quantity)) for value, row in of]
    reported = [(value, row.reported.get(figure.quantity)) for value, row in of]
    intervals = [(value + shift, row.interval_95.get(figure.quantity)) for value, row in of]
    bars = [(x, *interval) for x, interval in intervals if interval]
    drawn.append(replace(_through(name, colour, measured), whiskers=bars))
    drawn.append(replace(_through(f"{name}, paper", colour, reported), dashed=True))
  drawn = [line for line in drawn if line.drawable]
  if not drawn:
    return None
  whiskers = "Whiskers: 95 % interval." if any(line.whiskers for line in drawn) else ""
  note = " ".join(filter(None, [figure.note, whiskers]))
  return Chart(title_of(figure), drawn, note, as_percent=True, along=swept or "value", at=at)


def _value_of(row: CandidateResult) -> float:
  assert isinstance(row.value, int | float)  # checked by `Sweep` for figures of lines
  return float(row.value)


def points_of(figure: Figure, rows: Sequence[CandidateResult]) -> list[Point]:
  """Returns a scatter plot's points (name, cost, share in [0, 1]); candidates that lack a value are left out."""
  known = [(row, row.measured.get(figure.over), row.measured.get(figure.quantity)) for row in rows]
  return [Point(row.name, float(x), float(y), row.series) for row, x, y in known if x is not None and y is not None]


def _through(name: str, colour: str, points: Sequence[tuple[float, float | None]]) -> Line:
  known = [(x, y) for x, y in points if y is not None]
  x, y = zip(*known, strict=True) if known else ((), ())
  return Line(name, colour, [(np.array(x, float), np.array(y, float))])
