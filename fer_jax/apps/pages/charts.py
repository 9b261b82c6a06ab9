"""Charts as values: curves of logged records, means over replicas, training phases and legends."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fer_jax.training.run_files import Record

_POINTS = 240  # about one point for each pixel of a figure's width on a phone
OTHER_COLOURS = 4  # --other-0 .. --other-3 in the style sheet


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

  @property
  def legend(self) -> list[tuple[str, str, str]]:
    """Entries (CSS class of the sign, its CSS colour, text); empty for a single curve that the title names."""
    entries = [
      ("dashed" if line.dashed else "thin" if line.thin else "", line.colour, line.name)
      for line in self.lines
      if line.name
    ]
    if self.ringed is not None:
      entries.append(("ring", "var(--accent)", f"selected, step {self.ringed[0]:,.0f}"))
    return [] if [text for *_, text in entries] == [self.title.lower()] else entries


Curve = tuple[np.ndarray, np.ndarray]  # steps and values, float arrays of shape [N]


def curve_of(records: Iterable[Record], key: str) -> Curve:
  """Returns the steps and values of the records in which `key` is present and not null."""
  known = [(float(record["step"]), _number(record[key])) for record in records if record.get(key) is not None]
  steps, values = zip(*known, strict=True) if known else ((), ())
  return np.array(steps, float), np.array(values, float)


def _number(value: object) -> float:
  return float(value) if isinstance(value, int | float) else float("nan")


def line_of(name: str, colour: str, records: Sequence[Record], key: str, dashed: bool = False) -> Line:
  """Returns the curve of one key of the records, with one piece for each phase.

  A curve of more than 240 points is reduced to about 240 means over consecutive records. A value that is not finite
  leaves a gap.
  """
  known = [record for record in records if key in record]
  points = min(len(known), _POINTS)
  pieces = []
  for _, phase in itertools.groupby(known, lambda record: record.get("phase")):
    steps, values = zip(*((float(record["step"]), _number(record[key])) for record in phase), strict=True)
    # A phase gets points in proportion to its records, at least one.
    share = max(1, round(points * len(steps) / len(known)))
    pieces.append((_means(steps, share), _means(values, share)))
  return Line(name, colour, pieces, dashed)


def _means(values: Sequence[float] | np.ndarray, parts: int) -> np.ndarray:
  """Returns the means of `parts` parts of about equal length, float [parts]."""
  return np.array([part.mean() for part in np.array_split(np.asarray(values), parts)])


def mean_line(name: str, colour: str, curves: Sequence[Curve], dashed: bool = False) -> Line:
  """Returns the mean of several curves as a line, with a band of one standard deviation for two or more.

  The line has the steps of the curve with the highest last step. At each step it is the mean of the curves that reach
  it, interpolated linearly. It is reduced like that of `line_of`.
  """
  steps = max((steps for steps, _ in curves), key=lambda steps: steps[-1])
  values = np.stack([np.interp(steps, *curve, left=np.nan, right=np.nan) for curve in curves])
  # values: [curves, steps], NaN where a curve has ended or not yet started
  count = np.isfinite(values).sum(0)
  mean = np.nansum(values, 0) / np.where(count, count, np.nan)
  deviation = np.sqrt(np.nansum((values - mean) ** 2, 0) / np.maximum(count - 1, 1))
  points = min(len(steps), _POINTS)
  x, middle, low, high = (_means(each, points) for each in (steps, mean, mean - deviation, mean + deviation))
  return Line(name, colour, [(x, middle)], dashed, bands=[(x, low, high)] if len(curves) > 1 else ())


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


def common_phases(runs: Iterable[Iterable[Record]]) -> list[Phase]:
  """Returns the phases of the run with the most steps, read from training records; [] if another changed elsewhere."""
  phases = [phases_of(records) for records in runs]
  longest = max(phases, key=lambda found: found[-1].last if found else 0)
  first = {phase.name: phase.first for phase in longest}
  return longest if all(first.get(phase.name) == phase.first for found in phases for phase in found) else []


def other_colour(position: int) -> str:
  """Returns the CSS colour of the compared run at this position; the colours repeat."""
  return f"var(--other-{position % OTHER_COLOURS})"


def depth_colour(position: int, layers: int) -> str:
  """Returns the CSS colour of a layer, on a scale from the network's input (shallow) to its output (deep)."""
  share = 100 * position / max(1, layers - 1)
  return f"color-mix(in oklab, var(--deep) {share:.0f}%, var(--shallow))"
