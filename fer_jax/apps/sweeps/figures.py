"""The figures of a sweep's page: curves over steps, a line for each member, and points, a value for each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

import numpy as np
from matplotlib.ticker import MaxNLocator

from fer_jax.apps.report_page.curves import OTHER_COLOURS, other_colour
from fer_jax.apps.report_page.figures import Chart, Line, line_of
from fer_jax.apps.report_page.markup import chart_figure, said
from fer_jax.apps.report_page.quantities import percent
from fer_jax.apps.report_page.run_files import Metrics, Record
from fer_jax.sweep import Figure

Curve = tuple[np.ndarray, np.ndarray]  # steps, values


def curves(figure: Figure, members: Mapping[str, Sequence[Metrics]]) -> str:
  """Draws a quantity over the steps, for each member the mean of its runs; empty where none logged it.

  Args:
    figure: of kind "curves".
    members: what the runs of each member logged, a run for each seed.
  """
  lines = []
  for position, (name, runs) in enumerate(members.items()):
    known = [curve for curve in (_curve(metrics, figure.quantity) for metrics in runs) if len(curve[0])]
    if known:
      lines.append(_line(name, position, known))
  if not lines:
    return ""
  if len(lines) > OTHER_COLOURS + 1:  # bands of more lines hide one another
    lines = [replace(line, bands=()) for line in lines]
  band = "; band: one standard deviation" if any(line.bands for line in lines) else ""
  several = any(len(runs) > 1 for runs in members.values())
  note = " ".join([*([figure.note] if figure.note else []), *([f"Line: mean of the seeds{band}."] if several else [])])
  chart = Chart(figure.quantity.capitalize(), lines, note, as_percent="accuracy" in figure.quantity)
  return chart_figure(chart, phases=())


def _curve(metrics: Metrics, quantity: str) -> Curve:
  split, _, key = quantity.partition(" ")
  records = metrics.train if split == "training" else metrics.evaluations.get(split, [])
  known = [(record["step"], value) for record in records if (value := _value(record, split, key)) is not None]
  steps, values = zip(*known, strict=True) if known else ((), ())
  return np.array(steps, float), np.array(values, float)


def _value(record: Record, split: str, key: str) -> float | None:
  if split == "training" and key == "loss":
    # An objective of hidden layers logs the classifier's cross-entropy apart. Where it logs neither that nor an
    # accuracy, the classifier was not run, and its loss is of another kind.
    return record.get("cross_entropy", record["loss"] if "accuracy" in record else None)
  return record.get(key)


def _line(name: str, position: int, runs: Sequence[Curve]) -> Line:
  """Makes a line of the mean over runs, at the steps of the first; of those runs that have come so far."""
  steps = runs[0][0]
  values = np.stack([np.interp(steps, *run, left=np.nan, right=np.nan) for run in runs])
  count = np.isfinite(values).sum(0)
  mean = np.nansum(values, 0) / count
  variance = np.nansum((values - mean) ** 2, 0) / np.maximum(count - 1, 1)
  keys = {"mean": mean, "low": mean - np.sqrt(variance), "high": mean + np.sqrt(variance)}
  records = [
    {"step": step, **{key: float(one) for key, one in zip(keys, at, strict=True)}}
    for step, *at in zip(steps, *keys.values(), strict=True)
  ]
  # As many colours as a reader can tell apart, then the same dashed.
  turn, hue = divmod(position, OTHER_COLOURS + 1)
  colour = "var(--accent)" if hue == 0 else other_colour(hue - 1)
  line = line_of(name, colour, records, "mean", dashed=turn % 2 == 1)
  if len(runs) == 1:
    return line
  low, high = (line_of(name, colour, records, key) for key in ("low", "high"))
  bands = [(x, below, above) for (x, below), (_, above) in zip(low.pieces, high.pieces, strict=True)]
  return Line(name, colour, line.pieces, line.dashed, bands)


def points(figure: Figure, rows: Sequence[Record]) -> str:
  """Draws a share in [0, 1] of each member with its 95 % interval, and what the paper prints.

  It is made of elements that follow the page's width, not of a picture.

  Args:
    figure: of kind "points".
    rows: of a sweep.json.
  """
  name = figure.quantity
  known = [value for row in rows for value in _numbers(row, name)]
  if not known:
    return ""
  ticks = [float(tick) for tick in MaxNLocator(nbins=3, steps=[1, 2, 5, 10]).tick_values(min(known), max(known))]
  low, high = ticks[0], ticks[-1]

  def at(value: float) -> str:
    return f"--at: {100 * (value - low) / (high - low):.2f}%"

  lines = []
  for row in rows:
    mean, interval, printed = row["measured"].get(name), row["interval_95"].get(name), row["reported"].get(name)
    marks = ""
    if interval:
      long = 100 * (interval[1] - interval[0]) / (high - low)
      marks += f'<i class="span" style="{at(interval[0])}; --long: {long:.2f}%"></i>'
    marks += f'<i class="print" style="{at(printed)}"></i>' if printed is not None else ""
    marks += f'<i class="dot" style="{at(mean)}"></i>' if mean is not None else ""
    lines.append(
      f'<div><span>{escape(row["name"])}</span><span class="track">{marks}</span>'
      f'<span class="value">{said(percent(mean))}</span></div>'
    )
  axis = "".join(f'<span style="{at(tick)}">{100 * tick:g} %</span>' for tick in ticks)
  lines.append(f'<div class="axis"><span></span><span class="track">{axis}</span><span></span></div>')
  note = f"<small>{escape(figure.note)}</small>" if figure.note else ""
  return (
    f"<figure><figcaption>{escape(name.capitalize())}{note}</figcaption>"
    f'<div class="points">{"".join(lines)}</div>{_legend(rows, name)}</figure>'
  )


def _numbers(row: Record, name: str) -> list[float]:
  """Returns every number that a row puts on the axis."""
  found = [row["measured"].get(name), row["reported"].get(name), *(row["interval_95"].get(name) or [])]
  return [value for value in found if value is not None]


def _legend(rows: Sequence[Record], name: str) -> str:
  entries = [("dot", "mean of the seeds" if any(len(row["seeds"]) > 1 for row in rows) else "measured")]
  entries += [("span", "95 % interval")] * any(row["interval_95"].get(name) for row in rows)
  entries += [("print", "paper")] * any(name in row["reported"] for row in rows)
  items = "".join(f'<li><i class="{kind}"></i>{text}</li>' for kind, text in entries)
  return f'<ul class="legend">{items}</ul>'
