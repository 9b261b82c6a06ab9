"""What a sweep is: trainings that differ in one thing, what a paper says of them, and the figure that shows it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

CURVES = ("validation accuracy", "validation loss", "training accuracy", "training loss")
POINTS = ("test accuracy", "validation accuracy")
CHOOSING = tuple(name for name in POINTS if not name.startswith("test"))  # nothing is chosen on the test split
COSTS = ("seconds an epoch", "multiply-adds", "milliseconds for an image", "parameters")
# By a figure's kind.
QUANTITIES = {"curves": CURVES, "points": POINTS, "lines": POINTS, "classes": ("recall",), "scatter": POINTS}


@dataclass(frozen=True)
class Member:
  """One of the settings that a sweep compares; it is run once for each seed, and a run may be of several folds.

  Attributes:
    name: by which tables and legends speak of it.
    config: its config, FILE.py or FILE.py:VARIANT.
    overrides: of the config's keys, as on the command line: "--config.model.blocks=2".
    seeds: at least one; figures are their mean, with standard deviation and 95 % interval. Of one run of several folds
      they are those over the folds.
    value: of what is swept; None where members differ in more than a value.
    reported: what the paper prints for it, by quantity, e.g. {"test accuracy": 0.97}.
    timing: name of its row in the sweep's timings.
    begins_with: name of an earlier member, whose run with the same seed it takes its first weights from.
    series: of the members that make one line in a figure of lines.
    by_class: recall that the paper prints for it, by the name of a class.
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
  """A figure of the sweep's page.

  Attributes:
    kind: "curves" over training steps, a line for each member; "points", a value for each member; "lines" over the
      members' values, a line for each series; "scatter" over a cost, a point for each member; or "classes", a table
      with a column for each member.
    quantity: what is drawn; one of QUANTITIES[kind].
    note: below its title.
    title: in place of the quantity.
    members: names of those to show; all when empty.
    over: Cost on the horizontal axis of a scatter, one of COSTS.
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
  """A comparison of trainings.

  Attributes:
    title: of the page.
    citation: the paper, and which figure or table of it.
    claim: what the paper says came out, in words.
    members: in the order in which they are trained and shown.
    figures: of the page, in order.
    swept: name of what the members' values are values of.
    timings: a benchmark's JSON, whose rows give the members' `seconds_a_step`, or `seconds_1500` for so many images in
      evaluation, if it was given a config of theirs; otherwise seconds a step are those of the trainings.
    shown: Names of further quantities in its table, beside accuracies, parameters and seconds a step.
    reference: name of the member that the others' accuracies are subtracted from, seed by seed; empty for none.
    choose: where the members are candidates for one value, the quantity of CHOOSING by whose mean one of them is
      chosen; empty where they are not.
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
          f"member {member.name!r} begins with {member.begins_with!r}: expected an earlier member with its seeds"
        )
    for figure in self.figures:
      if not set(figure.members) <= set(names):
        raise ValueError(f"figure of {', '.join(figure.members)}: expected names of members, {', '.join(names)}")
      for member in self.members:
        shown = figure.kind == "lines" and member.name in (figure.members or names)
        if shown and not (member.series and isinstance(member.value, int | float)):
          raise ValueError(f"member {member.name!r} in a figure of lines: expected a series, and a number as its value")
    if self.reference and self.reference not in names:
      raise ValueError(f"reference {self.reference!r}: expected one of the members {', '.join(names)}")
    if self.choose and self.choose not in CHOOSING:
      raise ValueError(f"choose={self.choose!r}: expected {' or '.join(CHOOSING)}; the test split has no say")
