"""Plots as inline SVG, with colours and fonts from the page around them.

Matplotlib supports neither CSS variables nor light and dark colour schemes. A figure is therefore drawn in placeholder
colours, each of which is then replaced by a CSS colour.
"""

import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator

from fer_jax.apps.pages.charts import Chart, Line, Phase

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
Colour = Callable[[str], str]  # from a CSS colour to the one that matplotlib draws


class _Placeholders:
  """Colours for matplotlib, `#fe0100`, `#fe0101`, ..., one for each CSS colour."""

  def __init__(self) -> None:
    self._css: list[str] = []

  def __call__(self, css: str) -> str:
    if css not in self._css:
      self._css.append(css)
    return f"#fe01{self._css.index(css):02x}"

  def replace_in(self, svg: str) -> str:
    return re.sub("#fe01([0-9a-f]{2})", lambda match: self._css[int(match[1], 16)], svg)


def draw(chart: Chart, phases: Sequence[Phase]) -> Markup:
  """Returns the chart as one self-contained `<svg>` element.

  Args:
    chart: Chart to draw.
    phases: Training phases to shade.
  """
  colour = _Placeholders()
  lines = [line for line in chart.lines if line.drawable]

  def plot(axes: Axes) -> None:
    if len(phases) > 1:
      _draw_phases(axes, phases, colour)
    _draw_lines(axes, chart, colour)
    axes.grid(axis="y", color=colour("var(--rule)"), linewidth=0.6)
    axes.set_xlim(*_range(chart, lines, phases))
    axes.xaxis.set_major_locator(FixedLocator(chart.at) if chart.at else MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(_tick(chart.as_percent))

  names = ", ".join(line.name for line in lines if line.name)
  along = "training steps" if chart.along == "step" else chart.along
  svg = _svg(chart.title, (5.6, 3.1), chart.along, colour, plot)
  return _element(svg, f"{chart.title} over {along}: {names}", colour)


class Point(NamedTuple):
  """A named point of a scatter plot; points of a series, unless it is "", are joined in the order of x."""

  name: str
  x: float
  y: float
  series: str = ""


def draw_scatter(title: str, points: Sequence[Point], along: str) -> Markup:
  """Returns shares over a cost, on a logarithmic axis, as one self-contained `<svg>` element."""
  colour = _Placeholders()
  return _element(_scatter(title, points, along, colour), f"{title} over {along}", colour)


def scatter_file(title: str, points: Sequence[Point], along: str) -> str:
  """Returns the plot of `draw_scatter` as an SVG file, in fixed colours that are legible on white and on black."""
  fixed = {"var(--muted)": "#77838f", "var(--rule)": "#c9d0d6", "var(--accent)": "#0f8a6d"}
  return _scatter(title, points, along, lambda css: fixed[css])


def _scatter(title: str, points: Sequence[Point], along: str, colour: Colour) -> str:
  def plot(axes: Axes) -> None:
    axes.set_xscale("log")
    names = dict.fromkeys(point.series for point in points if point.series)
    for series, style in zip(names, itertools.cycle(("-", "--", ":", "-."))):
      joined = sorted((point for point in points if point.series == series), key=lambda point: point.x)
      axes.plot([p.x for p in joined], [p.y for p in joined], style, color=colour("var(--accent)"), linewidth=0.8)
    for name, x, y, _ in points:
      axes.plot(x, y, "o", color=colour("var(--accent)"), markersize=4.5)
      muted = colour("var(--muted)")
      axes.annotate(name, (x, y), (5, 3), textcoords="offset points", fontsize=8, color=muted, annotation_clip=False)
    axes.grid(color=colour("var(--rule)"), linewidth=0.6)
    axes.margins(x=0.12, y=0.1)
    axes.yaxis.set_major_formatter(_tick(True))
    axes.xaxis.set_minor_formatter(_tick(False))
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))

  return _svg(title, (7.2, 4.2), along, colour, plot)


def _svg(title: str, size: tuple[float, float], along: str, colour: Colour, plot: Callable[[Axes], None]) -> str:
  """Returns a figure of one diagram as an SVG file.

  Args:
    title: Title of the figure, which distinguishes it from the others of its page.
    size: Width and height in inches.
    along: Label of the horizontal axis.
    colour: Function from a CSS colour to the colour to draw.
    plot: Function that draws the content of the diagram.
  """
  # The identifiers of clip paths and markers are hashes with this salt; they must differ between figures of a page.
  with mpl.rc_context({**_SETTINGS, "svg.hashsalt": title}):
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    plot(axes)
    axes.set_axisbelow(True)
    axes.set_xlabel(along, color=colour("var(--muted)"))
    axes.tick_params(which="both", colors=colour("var(--muted)"))
    axes.spines["bottom"].set_color(colour("var(--muted)"))
    axes.xaxis.set_major_formatter(_tick(False))
    target = io.StringIO()
    figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
  return target.getvalue()


def _element(svg: str, description: str, colour: _Placeholders) -> Markup:
  """Returns matplotlib's SVG file as an element of a page, without metadata, repeated identifiers and fonts."""
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
  svg = re.sub(r'<g id="[^"]*"', "<g", svg)
  svg = re.sub(r'font: (?:\w+ )*?([\d.]+)px [^;"]*', r"font-size: \1px", svg)
  svg = svg.replace("xlink:href", "href")
  box = re.search(r'viewBox="[^"]*"', svg)
  start = f'<svg role="img" aria-label="{escape(description)}" {box[0] if box else ""}>'
  return Markup(colour.replace_in(re.sub(r"<svg[^>]*>", lambda _: start, svg, count=1).strip()))


def _draw_phases(axes: Axes, phases: Sequence[Phase], colour: Colour) -> None:
  length = max(1, phases[-1].last - phases[0].first)
  for position, phase in enumerate(phases):
    if position % 2 == 0:
      axes.axvspan(phase.first, phase.last, color=colour("var(--shade)"), linewidth=0, zorder=0)
    # A name needs about 2 % of the width for each letter. Names that do not fit are only in the text above the charts.
    if (phase.last - phase.first) / length > 0.02 * len(phase.name):
      above = axes.get_xaxis_transform()
      axes.text(phase.first, 1.03, f" {phase.name}", transform=above, color=colour("var(--muted)"), fontsize=8)


def _draw_lines(axes: Axes, chart: Chart, colour: Colour) -> None:
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
    accent = colour("var(--accent)")
    axes.plot(
      *chart.ringed, color=accent, marker="o", markersize=8, markerfacecolor="none", markeredgewidth=1.3, clip_on=False
    )


def _tick(as_percent: bool) -> Callable[[float, float], str]:
  return lambda value, _: f"{100 * value:g} %" if as_percent else f"{value:,.6g}"


def _range(chart: Chart, lines: Sequence[Line], phases: Sequence[Phase]) -> tuple[float, float]:
  """Returns the limits of the horizontal axis: all phases and all curves, so that charts of one run line up."""
  if chart.at:
    margin = 0.06 * (max(chart.at) - min(chart.at) or 1)
    return min(chart.at) - margin, max(chart.at) + margin
  ends = [float(step) for phase in phases for step in (phase.first, phase.last)]
  ends += [float(step) for line in lines for steps, _ in line.pieces for step in (steps[0], steps[-1])]
  first, last = min(ends, default=0.0), max(ends, default=0.0)
  return first, last if last > first else first + 1
