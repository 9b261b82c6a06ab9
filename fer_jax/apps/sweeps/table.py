"""The tables of a sweep's candidates for its page and for the README: measured values and the paper's."""

from fer_jax.apps.formatting import count, percent, percent_range, quantity
from fer_jax.apps.sweeps.sweep_result import CandidateResult, ClassRecall, Gap, Interval, SweepResult
from fer_jax.config.sweep import Figure

_ALWAYS = ("test accuracy", "validation accuracy", "parameters", "seconds a step")


def quantities_of(sweep: SweepResult) -> list[str]:
  """Returns the names of the quantities to show: the defaults, those of the sweep, and those that the paper reports."""
  return list(dict.fromkeys([*_ALWAYS, *sweep.shown, *(name for row in sweep.candidates for name in row.reported)]))


def candidate_table(sweep: SweepResult) -> tuple[list[str], list[list[str]]]:
  """Returns the header and the rows of the table of candidates, as plain text; the chosen one is marked "(chosen)"."""
  names = quantities_of(sweep)
  # Optional columns: the paper's figures, the gap to the reference, and the standard deviation.
  reported = {name for row in sweep.candidates for name in row.reported}
  spread = any("test accuracy" in row.std for row in sweep.candidates)
  head = ["candidate" if any(row.series for row in sweep.candidates) else sweep.swept or "candidate"]
  for name in names:
    head += [f"{name} (95 % interval)" if name == "test accuracy" else name]
    head += ["standard deviation"] * (spread and name == "test accuracy")
    head += [f"paper: {name}"] * (name in reported)
    head += [f"gap to {sweep.reference} (95 % interval)"] * (bool(sweep.reference) and name == "test accuracy")
  rows = []
  for row in sweep.candidates:
    cells = [f"{row.name} (chosen)" if row.name == sweep.chosen else row.name]
    for name in names:
      cells.append(_measured(row, name))
      if spread and name == "test accuracy":
        cells.append(percent(row.std.get(name)))
      if name in reported:
        cells.append(quantity(name, row.reported[name]) if name in row.reported else "")
      if sweep.reference and name == "test accuracy":
        cells.append(_gap(row.gap))
    rows.append([*cells, count(row.steps), _replicas(row) or _seeds(row)])
  return [*head, "steps", "replicas" if any(map(_replicas, sweep.candidates)) else "seeds"], rows


def class_table(sweep: SweepResult, figure: Figure) -> tuple[list[str], list[list[str]]]:
  """Returns the header and the rows of the table of recall by class, as plain text.

  The paper's figures are in a column before their candidate. Without figures for any class there are no rows.

  Args:
    sweep: Result of the sweep.
    figure: Figure of kind "classes", with the candidates to show.
  """
  shown = sweep.shown_in(figure)
  reported = [row for row in shown if any(each.reported is not None for each in row.classes)]
  head = ["recall"]
  for row in shown:
    head += [f"paper: {row.name}"] * (row in reported) + [f"{row.name} (95 % interval)"]
  rows = []
  for name in dict.fromkeys(each.name for row in shown for each in row.classes):
    cells = [name]
    for row in shown:
      absent = ClassRecall(name, None, None, 0, None)
      recall = next((each for each in row.classes if each.name == name), absent)
      if row in reported:
        cells.append("" if recall.reported is None else percent(recall.reported))
      cells.append(with_interval(percent(recall.recall), recall.interval_95))
    rows.append(cells)
  return head, rows


def with_interval(value: str, interval: Interval | None) -> str:
  """Returns a formatted value, followed by its 95 % interval if there is one."""
  return f"{value} ({percent_range(*interval)})" if interval else value


def _replicas(row: CandidateResult) -> str:
  """Returns the number of folds or seeds in a candidate's finished runs; empty if each run is a single replica."""
  runs = [run.replicas for run in row.runs if run.replicas]
  if not runs or row.status != "finished":
    return ""
  return f"{len(runs)} \N{MULTIPLICATION SIGN} {runs[0]}" if len(runs) > 1 else runs[0]


def _measured(row: CandidateResult, name: str) -> str:
  interval = row.interval_95.get(name) if name == "test accuracy" else None
  return with_interval(quantity(name, row.measured.get(name)), interval)


def _gap(gap: Gap | None) -> str:
  if gap is None or gap.mean is None:
    return ""
  interval = " ({:.2f} to {:.2f})".format(*(100 * end for end in gap.interval_95)) if gap.interval_95 else ""
  return f"{100 * gap.mean:.2f} points{interval}"


def _seeds(row: CandidateResult) -> str:
  finished = sum(run.status == "finished" for run in row.runs)
  return str(finished) if row.status == "finished" else f"{finished} of {len(row.runs)}, {row.status}"
