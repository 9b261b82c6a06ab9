"""Specification of a sweep: the configurations to compare, the results that a paper reports, the figures to draw."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

CURVES = ("validation accuracy", "validation loss", "training accuracy", "training loss")
POINTS = ("test accuracy", "validation accuracy")
SELECTABLE = tuple(name for name in POINTS if not name.startswith("test"))  # never select on the test split
COSTS = (
  "minutes of training",
  "seconds an epoch",
  "multiply-adds",
  "milliseconds for an image",
  "parameters",
  "temporary megabytes",
)
# Quantities that a figure can show, by the figure's kind.
QUANTITIES = {"curves": CURVES, "points": POINTS, "lines": POINTS, "classes": ("recall",), "scatter": POINTS}


@dataclass(frozen=True)
class Candidate:
  """One of the configurations that a sweep compares; trained once per seed.

  Attributes:
    name: Name in tables and legends.
    config: Config file and variant, FILE.py or FILE.py:VARIANT.
    overrides: Overrides of config keys, as on the command line: "--config.model.blocks=2".
    seeds: Random seeds, at least one. Results are reported as mean, standard deviation and 95 % interval over the
      seeds, or over the folds if there is a single run of several folds.
    value: Value of the swept quantity; None if candidates differ in more than one value.
    reported: Results reported in the paper, by quantity, e.g. {"test accuracy": 0.97}.
    timing: Name of the candidate's row in the timings of the sweep.
    init_from: Name of an earlier candidate whose run with the same seed provides the initial parameters.
    series: Name of the line that this candidate belongs to in a figure of kind "lines" or "scatter".
    by_class: Recall reported in the paper, by class name.
  """

  name: str
  config: str
  overrides: tuple[str, ...] = ()
  seeds: tuple[int, ...] = (0,)
  value: float | str | None = None
  reported: Mapping[str, float] = field(default_factory=dict)
  timing: str = ""
  init_from: str = field(default="", metadata={"keys": ("init_from", "begins_with")})
  series: str = ""
  by_class: Mapping[str, float] = field(default_factory=dict)

  def __post_init__(self) -> None:
    where = f"candidate {self.name!r}"
    if not self.seeds or len(set(self.seeds)) != len(self.seeds):
      raise ValueError(f"{where}: seeds {self.seeds}: expected one or more, each once")
    for override in self.overrides:
      if not re.match(r"--config\.[^=]+=", override) or override.startswith("--config.seed="):
        raise ValueError(f"{where}: override {override!r}: expected --config.KEY=VALUE, seeds in `seeds`")


@dataclass(frozen=True)
class Figure:
  """A figure on the page of a sweep.

  Attributes:
    kind: Kind of the figure: "curves" (a line per candidate over training steps), "points" (a value per candidate),
      "lines" (a line per series over the candidates' values), "scatter" (a point per candidate over a cost; those of
      a series are joined) or "classes" (a table with a column per candidate).
    quantity: Quantity to show; one of QUANTITIES[kind].
    note: Text below the title.
    title: Title of the figure; defaults to the quantity.
    candidates: Names of the candidates to show; empty for all.
    over: Cost on the horizontal axis of a scatter plot; one of COSTS.
  """

  kind: str
  quantity: str
  note: str = ""
  title: str = ""
  candidates: tuple[str, ...] = field(default=(), metadata={"keys": ("candidates", "members")})
  over: str = ""

  def __post_init__(self) -> None:
    if self.kind not in QUANTITIES:
      raise ValueError(f"figure of kind {self.kind!r}: expected one of {', '.join(QUANTITIES)}")
    if self.quantity not in QUANTITIES[self.kind]:
      raise ValueError(f"{self.kind} of {self.quantity!r}: expected one of {', '.join(QUANTITIES[self.kind])}")
    if (self.kind == "scatter") != (self.over in COSTS):
      costs = ", ".join(COSTS)
      raise ValueError(f"{self.kind} over {self.over!r}: expected one of {costs} for a scatter, else nothing")


@dataclass(frozen=True)
class Sweep:
  """A comparison of configurations, with the paper that it reproduces.

  Attributes:
    title: Title of the page.
    citation: Citation of the paper, with the number of its figure or table.
    claim: Summary of the result that the paper reports.
    candidates: Configurations, in the order in which they are trained and shown.
    figures: Figures of the page, in order.
    swept: Name of the swept quantity, whose values are the candidates' `value`.
    timings: Path of a benchmark's JSON file. Its rows provide `seconds_a_step` and `temporary_bytes` of the candidates,
      or `seconds_1500`, the seconds for evaluating 1,500 images, if the benchmark was given a config of the sweep.
      Without it, the seconds per step are those measured during training.
    shown: Names of additional quantities in the table, next to accuracies, parameters and seconds per step.
    reference: Name of the candidate whose accuracies are subtracted from those of the others, seed by seed; empty for
      none.
    choose: Quantity of SELECTABLE whose mean selects one candidate, if they are candidates for one value; empty
      otherwise.
  """

  title: str
  citation: str
  claim: str
  candidates: tuple[Candidate, ...]
  figures: tuple[Figure, ...]
  swept: str = ""
  timings: str = ""
  shown: tuple[str, ...] = ()
  reference: str = ""
  choose: str = ""

  def __post_init__(self) -> None:
    names = [candidate.name for candidate in self.candidates]
    if not names or len(set(names)) != len(names):
      raise ValueError(f"candidates {', '.join(names) or 'absent'}: expected one or more, each name once")
    earlier: dict[str, tuple[int, ...]] = {}  # name -> seeds
    for each in self.candidates:
      if each.init_from and not set(each.seeds) <= set(earlier.get(each.init_from, ())):
        where = f"candidate {each.name!r}: init_from {each.init_from!r}"
        raise ValueError(f"{where}: expected an earlier candidate with the same seeds")
      earlier[each.name] = each.seeds
    for figure in self.figures:
      if not set(figure.candidates) <= set(names):
        raise ValueError(f"figure of {', '.join(figure.candidates)}: expected names of candidates, {', '.join(names)}")
      for each in self.candidates if figure.kind == "lines" else ():
        has_point = each.series and isinstance(each.value, int | float)
        if each.name in (figure.candidates or names) and not has_point:
          raise ValueError(f"candidate {each.name!r} in a figure of lines: expected a series and a number as its value")
    if self.reference and self.reference not in names:
      raise ValueError(f"reference {self.reference!r}: expected one of the candidates {', '.join(names)}")
    if self.choose and self.choose not in SELECTABLE:
      raise ValueError(f"choose={self.choose!r}: expected {' or '.join(SELECTABLE)}; never select on the test split")
