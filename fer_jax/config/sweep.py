"""Specification of a sweep: the configurations to compare, the results that a paper reports, the figures to draw."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

CURVES = ("validation accuracy", "validation loss", "training accuracy", "training loss")
POINTS = ("test accuracy", "validation accuracy")
CHOOSING = tuple(name for name in POINTS if not name.startswith("test"))  # never select on the test split
COSTS = ("seconds an epoch", "multiply-adds", "milliseconds for an image", "parameters")
# Quantities that a figure can show, by the figure's kind.
QUANTITIES = {"curves": CURVES, "points": POINTS, "lines": POINTS, "classes": ("recall",), "scatter": POINTS}


@dataclass(frozen=True)
class Member:
  """One of the configurations that a sweep compares; trained once per seed.

  Attributes:
    name: Name in tables and legends.
    config: Config file and variant, FILE.py or FILE.py:VARIANT.
    overrides: Overrides of config keys, as on the command line: "--config.model.blocks=2".
    seeds: Random seeds, at least one. Results are reported as mean, standard deviation and 95 % interval over the
      seeds, or over the folds if there is a single run of several folds.
    value: Value of the swept quantity; None if members differ in more than one value.
    reported: Results reported in the paper, by quantity, e.g. {"test accuracy": 0.97}.
    timing: Name of the member's row in the timings of the sweep.
    begins_with: Name of an earlier member whose run with the same seed provides the initial weights.
    series: Name of the line that this member belongs to in a figure of kind "lines".
    by_class: Recall reported in the paper, by class name.
  """

  name: str
  config: str
  overrides: tuple[str, ...] = ()
  seeds: tuple[int, ...] = (0,)
  value: float | str | None = None
  reported: Mapping[str, float] = field(default_factory=dict)
  timing: str = ""
  begins_with: str = ""
  series: str = ""
  by_class: Mapping[str, float] = field(default_factory=dict)

  def __post_init__(self) -> None:
    if not self.seeds or len(set(self.seeds)) != len(self.seeds):
      raise ValueError(f"member {self.name!r}: seeds {self.seeds}: expected one or more, each once")
    for override in self.overrides:
      if not re.match(r"--config\.[^=]+=", override) or override.startswith("--config.seed="):
        raise ValueError(f"member {self.name!r}: override {override!r}: expected --config.KEY=VALUE, seeds in `seeds`")


@dataclass(frozen=True)
class Figure:
  """A figure on the page of a sweep.

  Attributes:
    kind: Kind of the figure: "curves" (a line per member over training steps), "points" (a value per member), "lines"
      (a line per series over the members' values), "scatter" (a point per member over a cost) or "classes" (a table
      with a column per member).
    quantity: Quantity to show; one of QUANTITIES[kind].
    note: Text below the title.
    title: Title of the figure; defaults to the quantity.
    members: Names of the members to show; empty for all.
    over: Cost on the horizontal axis of a scatter plot; one of COSTS.
  """

  kind: str
  quantity: str
  note: str = ""
  title: str = ""
  members: tuple[str, ...] = ()
  over: str = ""

  def __post_init__(self) -> None:
    if self.kind not in QUANTITIES:
      raise ValueError(f"figure of kind {self.kind!r}: expected one of {', '.join(QUANTITIES)}")
    if self.quantity not in QUANTITIES[self.kind]:
      raise ValueError(f"{self.kind} of {self.quantity!r}: expected one of {', '.join(QUANTITIES[self.kind])}")
    if (self.kind == "scatter") != (self.over in COSTS):
      raise ValueError(
        f"{self.kind} over {self.over!r}: expected one of {', '.join(COSTS)} for a scatter, else nothing"
      )


@dataclass(frozen=True)
class Sweep:
  """A comparison of configurations, with the paper that it reproduces.

  Attributes:
    title: Title of the page.
    citation: Citation of the paper, with the number of its figure or table.
    claim: Summary of the result that the paper reports.
    members: Configurations, in the order in which they are trained and shown.
    figures: Figures of the page, in order.
    swept: Name of the swept quantity, whose values are the members' `value`.
    timings: Path of a benchmark's JSON file. Its rows provide `seconds_a_step` of the members, or `seconds_1500`, the
      seconds for evaluating 1,500 images, if the benchmark was given a config of the sweep. Without it, the seconds per
      step are those measured during training.
    shown: Names of additional quantities in the table, next to accuracies, parameters and seconds per step.
    reference: Name of the member whose accuracies are subtracted from those of the others, seed by seed; empty for
      none.
    choose: Quantity of CHOOSING whose mean selects one member, if the members are candidates for one value; empty
      otherwise.
  """

  title: str
  citation: str
  claim: str
  members: tuple[Member, ...]
  figures: tuple[Figure, ...]
  swept: str = ""
  timings: str = ""
  shown: tuple[str, ...] = ()
  reference: str = ""
  choose: str = ""

  def __post_init__(self) -> None:
    names = [member.name for member in self.members]
    if not names or len(set(names)) != len(names):
      raise ValueError(f"members {', '.join(names) or 'absent'}: expected one or more, each name once")
    for position, member in enumerate(self.members):
      earlier = {other.name: other.seeds for other in self.members[:position]}
      if member.begins_with and not set(member.seeds) <= set(earlier.get(member.begins_with, ())):
        raise ValueError(
          f"member {member.name!r} begins with {member.begins_with!r}: expected an earlier member with the same seeds"
        )
    for figure in self.figures:
      if not set(figure.members) <= set(names):
        raise ValueError(f"figure of {', '.join(figure.members)}: expected names of members, {', '.join(names)}")
      for member in self.members:
        shown = figure.kind == "lines" and member.name in (figure.members or names)
        if shown and not (member.series and isinstance(member.value, int | float)):
          raise ValueError(f"member {member.name!r} in a figure of lines: expected a series and a number as its value")
    if self.reference and self.reference not in names:
      raise ValueError(f"reference {self.reference!r}: expected one of the members {', '.join(names)}")
    if self.choose and self.choose not in CHOOSING:
      raise ValueError(f"choose={self.choose!r}: expected {' or '.join(CHOOSING)}; never select on the test split")
