"""Charts as inline SVG, with colours and fonts from the page around them.

Matplotlib supports neither CSS variables nor light and dark colour schemes. A figure is therefore drawn in placeholder
colours, each of which is then replaced by a CSS colour.
"""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator

from fer_jax.training.run_files import Record

_POINTS = 240  # about one point for each pixel of a figure's width on a phone
_SETTINGS: dict[Any, Any] = {  # Any: matplotlib's stubs give every key its own type
  "svg.fonttype": "none",
  "text.parse_math": False,
  "font.size": 9.0,
  "axes.linewidth": 0.6,
  "xtick.major.width": 0.6,
  "ytick.major.width": 0.6,
  "xtick.major.size": 3.0,
  "ytick.major.size": 0.0,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.spines.left": False,
  "lines.linewidth": 1.4,
}


@dataclass(frozen=True)
class Phase:
  """A range of steps trained with one objective, from step `first` to step `last`."""

  name: str
  first: int
  last: int


@dataclass(frozen=True)
class Line:
  """A curve of a chart.

  Attributes:
    name: Name in the legend; a line without a name has no legend entry.
    colour: CSS colour.
    pieces: Pairs (steps, values) of float arrays of shape [N], drawn without a connection between the pairs.
    dashed: Whether the line is dashed.
    bands: Filled bands as (steps, low, high), float arrays of shape [N].
    whiskers: Vertical error bars as (x, low, high).
    thin: Whether the line is thin and pale: one of several replicas, drawn under their mean.
  """

  name: str
  colour: str
  pieces: list[tuple[np.ndarray, np.ndarray]]
  dashed: bool = False
  bands: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]] = ()
  whiskers: Sequence[tuple[float, float, float]] = ()
  thin: bool = False

  @property
  def drawable(self) -> bool:
    """True if at least one value is finite."""
    return any(np.isfinite(values).any() for _, values in self.pieces)


@dataclass(frozen=True)
class Chart:
  """A figure to draw.

  Attributes:
    title: Caption of the figure.
    lines: Curves to draw.
    note: Small print below the caption.
    as_percent: Whether the vertical axis is a share in [0, 1], labelled in percent.
    ringed: Point (x, y) to mark with a ring; None marks nothing.
    along: Label of the horizontal axis.
    at: Tick positions of the horizontal axis, for values other than steps; if empty, ticks are chosen automatically.
  """

  title: str
  lines: Sequence[Line]
  note: str = ""
  as_percent: bool = False
  ringed: tuple[float, float] | None = None
  along: str = "step"
  at: Sequence[float] = ()


def phases_of(records: Iterable[Record]) -> list[Phase]:
  """Returns the phases of a run in order, read from its training records."""
  phases: list[Phase] = []
  for record in records:
    name, step = str(record.get("phase") or ""), int(record["step"])
    if phases and phases[-1].name == name:
      phases[-1] = Phase(name, phases[-1].first, step)
    else:
      # A phase starts where the previous one ends, so that the shading has no gaps between records.
      phases.append(Phase(name, phases[-1].last if phases else 0, step))
  return phases


def _number(value: object) -> float:
  return float(value) if isinstance(value, int | float) else float("nan")


def _averaged(values: np.ndarray, bins: int) -> np.ndarray:
  return np.array([part.mean() for part in np.array_split(values, bins)])


def line_of(name: str, colour: str, records: Sequence[Record], key: str, dashed: bool = False) -> Line:
  """Returns the curve of one key of the records, with one piece for each phase.

  A curve of more than 240 points is reduced to about 240 means over consecutive records. A value that is not finite
  leaves a gap.
  """
  pieces: list[tuple[np.ndarray, np.ndarray]] = []
  group: list[Record] = []
  known = [record for record in records if key in record]
  bins = min(len(known), _POINTS)
  for position, record in enumerate(known):
    group.append(record)
    following = known[position + 1] if position + 1 < len(known) else None
    if following is not None and following.get("phase") == record.get("phase"):
      continue
    # The phase ends here. It gets points in proportion to its records, at least one.
    share = max(1, round(bins * len(group) / len(known)))
    steps = np.array([float(one["step"]) for one in group])
    values = np.array([_number(one[key]) for one in group])
    pieces.append((_averaged(steps, share), _averaged(values, share)))
    group = []
  return Line(name, colour, pieces, dashed)


Curve = tuple[np.ndarray, np.ndarray]  # steps and values, float arrays of shape [N]


def curve_of(records: Iterable[Record], key: str) -> Curve:
  """Returns the steps and values of the records in which `key` is present and not null."""
  known = [(float(record["step"]), _number(record[key])) for record in records if record.get(key) is not None]
  steps, values = zip(*known, strict=True) if known else ((), ())
  return np.array(steps, float), np.array(values, float)


def mean_line(name: str, colour: str, curves: Sequence[Curve], dashed: bool = False) -> Line:
  """Returns the mean of several curves as a line, with a band of one standard deviation for two or more.

  The line has the steps of the curve with the highest last step. At each step it is the mean of the curves that reach
  it, interpolated linearly.
  """
  steps = max((steps for steps, _ in curves), key=lambda steps: steps[-1])
  values = np.stack([np.interp(steps, *curve, left=np.nan, right=np.nan) for curve in curves])
  # values: [curves, steps], NaN where a curve has ended or not yet started
  count = np.isfinite(values).sum(0)
  mean = np.nansum(values, 0) / np.where(count, count, np.nan)
  deviation = np.sqrt(np.nansum((values - mean) ** 2, 0) / np.maximum(count - 1, 1))
  keys = {"mean": mean, "low": mean - deviation, "high": mean + deviation}
  records = [
    {"step": step, **{key: float(one) for key, one in zip(keys, at, strict=True)}}
    for step, *at in zip(steps, *keys.values(), strict=True)
  ]
  # line_of() reduces long curves, and the mean, lower and upper edge in the same way.
  line = line_of(name, colour, records, "mean", dashed)
  if len(curves) == 1:
    return line
  low, high = (line_of(name, colour, records, key) for key in ("low", "high"))
  bands = [(x, below, above) for (x, below), (_, above) in zip(low.pieces, high.pieces, strict=True)]
  return replace(line, bands=bands)


def depth_colour(position: int, layers: int) -> str:
  """Returns the CSS colour of a layer, on a scale from the network's input (shallow) to its output (deep)."""
  share = 100 * position / max(1, layers - 1)
  return f"color-mix(in oklab, var(--deep) {share:.0f}%, var(--shallow))"


class _StandIns:
  """Placeholder colours for matplotlib, `#fe0100`, `#fe0101`, ..., one for each CSS colour."""

  def __init__(self) -> None:
    self._css: dict[str, str] = {}

  def __call__(self, css: str) -> str:
    for hexadecimal, known in self._css.items():
      if known == css:
        return hexadecimal
    hexadecimal = f"#fe01{len(self._css):02x}"
    self._css[hexadecimal] = css
    return hexadecimal

  def replace_in(self, svg: str) -> str:
    return re.sub("#fe01[0-9a-f]{2}", lambda match: self._css[match[0]], svg)


def _draw_phases(axes: Axes, phases: Sequence[Phase], colour: _StandIns) -> None:
  length = max(1, phases[-1].last - phases[0].first)
  for position, phase in enumerate(phases):
    if position % 2 == 0:
      axes.axvspan(phase.first, phase.last, color=colour("var(--shade)"), linewidth=0, zorder=0)
    # A name needs about 2 % of the width for each letter. Names that do not fit are only in the text above the charts.
    if (phase.last - phase.first) / length > 0.02 * len(phase.name):
      axes.text(
        phase.first,
        1.03,
        f" {phase.name}",
        transform=axes.get_xaxis_transform(),
        color=colour("var(--muted)"),
        fontsize=8,
      )


def _draw_lines(axes: Axes, chart: Chart, colour: _StandIns) -> None:
  for line in chart.lines:
    drawn = colour(line.colour)
    for steps, low, high in line.bands:
      axes.fill_between(steps, low, high, color=drawn, alpha=0.15, linewidth=0)
    for x, *ends in line.whiskers:
      axes.plot([x, x], ends, color=drawn, linewidth=1, marker="_", markersize=5, alpha=0.7, clip_on=False)
    for steps, values in line.pieces:
      finite = int(np.isfinite(values).sum())
      axes.plot(
        steps,
        values,
        color=drawn,
        linestyle=(0, (4, 2)) if line.dashed else "solid",
        linewidth=0.8 if line.thin else None,
        alpha=0.55 if line.thin else None,
        marker="o" if finite <= 30 and not (line.thin and finite > 1) else None,
        markersize=(4.4 if chart.at else 2.6) if finite > 1 else 4.0,
        markerfacecolor=colour("var(--paper)") if line.dashed else None,
        clip_on=False,
      )
  if chart.ringed is not None:
    axes.plot(
      *chart.ringed,
      marker="o",
      markersize=8,
      markerfacecolor="none",
      markeredgewidth=1.3,
      color=colour("var(--accent)"),
      clip_on=False,
    )


def _tick(as_percent: bool) -> Callable[[float, float], str]:
  return lambda value, _: f"{100 * value:g} %" if as_percent else f"{value:,.6g}"


def _cleaned(svg: str, description: str) -> str:
  """Returns matplotlib's SVG file as an element of a page, without metadata, repeated identifiers and fonts."""
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
  svg = re.sub(r'<g id="[^"]*"', "<g", svg)
  svg = re.sub(r'font: (?:\w+ )*?([\d.]+)px [^;"]*', r"font-size: \1px", svg)
  svg = svg.replace("xlink:href", "href")
  box = re.search(r'viewBox="[^"]*"', svg)
  start = f'<svg role="img" aria-label="{escape(description)}" {box[0] if box else ""}>'
  return re.sub(r"<svg[^>]*>", lambda _: start, svg, count=1).strip()


def _range(chart: Chart, lines: Sequence[Line], phases: Sequence[Phase]) -> tuple[float, float]:
  """Returns the limits of the horizontal axis: all phases and all curves, so that charts of one run line up."""
  if chart.at:
    beside = 0.06 * (max(chart.at) - min(chart.at) or 1)
    return min(chart.at) - beside, max(chart.at) + beside
  ends = [float(step) for phase in phases for step in (phase.first, phase.last)]
  ends += [float(step) for line in lines for steps, _ in line.pieces for step in (steps[0], steps[-1])]
  first, last = min(ends, default=0.0), max(ends, default=0.0)
  return first, last if last > first else first + 1


def draw(chart: Chart, phases: Sequence[Phase]) -> str:
  """Returns the chart as one self-contained `<svg>` element."""
  colour = _StandIns()
  lines = [line for line in chart.lines if line.drawable]
  # The identifiers of clip paths and markers are hashes with this salt; they must differ between figures of a page.
  with mpl.rc_context({**_SETTINGS, "svg.hashsalt": chart.title}):
    figure = Figure(figsize=(5.6, 3.1), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    if len(phases) > 1:
      _draw_phases(axes, phases, colour)
    _draw_lines(axes, chart, colour)
    axes.grid(axis="y", color=colour("var(--rule)"), linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlim(*_range(chart, lines, phases))
    axes.set_xlabel(chart.along, color=colour("var(--muted)"))
    axes.tick_params(colors=colour("var(--muted)"))
    axes.spines["bottom"].set_color(colour("var(--muted)"))
    axes.xaxis.set_major_locator(FixedLocator(chart.at) if chart.at else MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(_tick(False))
    axes.yaxis.set_major_formatter(_tick(chart.as_percent))
    target = io.StringIO()
    figure.savefig(target, format="svg", transparent=True)
  names = ", ".join(line.name for line in lines if line.name)
  along = "training steps" if chart.along == "step" else chart.along
  return colour.replace_in(_cleaned(target.getvalue(), f"{chart.title} over {along}: {names}"))


class Point(NamedTuple):
  """A named point of a scatter plot."""

  name: str
  x: float
  y: float


def draw_scatter(title: str, points: Sequence[Point], along: str) -> str:
  """Returns shares over a cost, on a logarithmic axis, as one self-contained `<svg>` element."""
  colour = _StandIns()
  return colour.replace_in(_cleaned(_scatter(title, points, along, colour), f"{title} over {along}"))


def scatter_file(title: str, points: Sequence[Point], along: str) -> str:
  """Returns the plot of `draw_scatter` as an SVG file, in fixed colours that are legible on white and on black."""
  fixed = {"var(--muted)": "#77838f", "var(--rule)": "#c9d0d6", "var(--accent)": "#0f8a6d"}
  return _scatter(title, points, along, lambda css: fixed[css])


def _scatter(title: str, points: Sequence[Point], along: str, colour: Callable[[str], str]) -> str:
  with mpl.rc_context({**_SETTINGS, "svg.hashsalt": title}):
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    for name, x, y in points:
      axes.plot(x, y, "o", color=colour("var(--accent)"), markersize=4.5)
      axes.annotate(
        name,
        (x, y),
        (5, 3),
        textcoords="offset points",
        fontsize=8,
        color=colour("var(--muted)"),
        annotation_clip=False,
      )
    axes.grid(color=colour("var(--rule)"), linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.12, y=0.1)
    axes.set_xlabel(along, color=colour("var(--muted)"))
    axes.tick_params(which="both", colors=colour("var(--muted)"))
    axes.spines["bottom"].set_color(colour("var(--muted)"))
    axes.yaxis.set_major_formatter(_tick(True))
    axes.xaxis.set_major_formatter(_tick(False))
    axes.xaxis.set_minor_formatter(_tick(False))
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    target = io.StringIO()
    figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
  return target.getvalue()
