"""The tables of a sweep's members for its page and for the README: measured values and the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

from fer_jax.apps.formatting import count, percent, percent_range, quantity
from fer_jax.training.run_files import Record

_ALWAYS = ("test accuracy", "validation accuracy", "parameters", "seconds a step")


def quantities_of(content: Mapping[str, Any]) -> list[str]:
  """Returns the names of the quantities to show: the defaults, those of the sweep, and those that the paper reports.

  Args:
    content: Content of a sweep.json.
  """
  reported = (name for row in content["rows"] for name in row["reported"])
  return list(dict.fromkeys([*_ALWAYS, *content.get("shown", ()), *reported]))


def member_table(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
  """Returns the header and the rows of the table of members, as plain text; the chosen member is marked "(chosen)".

  Args:
    content: Content of a sweep.json.
  """
  names = quantities_of(content)
  # Optional columns: the paper's figures, the gap to the reference, and the standard deviation.
  printed = {name for name in names for row in content["rows"] if name in row["reported"]}
  gaps = bool(content.get("reference"))
  spread = any("test accuracy" in row["std"] for row in content["rows"])
  head = ["member" if any(row.get("series") for row in content["rows"]) else content["swept"] or "member"]
  for name in names:
    head += [f"{name} (95 % interval)" if name == "test accuracy" else name]
    head += ["standard deviation"] * (spread and name == "test accuracy")
    head += [f"paper: {name}"] * (name in printed)
    head += [f"gap to {content.get('reference')} (95 % interval)"] * (gaps and name == "test accuracy")
  several = any(_trainings(row) for row in content["rows"])
  rows = []
  for row in content["rows"]:
    cells = [f"{row['name']} (chosen)" if row["name"] == content.get("chosen") else row["name"]]
    for name in names:
      cells.append(_measured(row, name))
      if spread and name == "test accuracy":
        cells.append(percent(row["std"].get(name)))
      if name in printed:
        reported = row["reported"].get(name)
        cells.append("" if reported is None else quantity(name, reported))
      if gaps and name == "test accuracy":
        cells.append(_gap(row.get("gap")))
    rows.append([*cells, count(row["steps"]), _trainings(row) or _seeds(row)])
  return [*head, "steps", "trainings" if several else "seeds"], rows


def class_table(content: Mapping[str, Any], members: Sequence[str]) -> tuple[list[str], list[list[str]]]:
  """Returns the header and the rows of the table of recall by class, as plain text.

  The paper's figures are in a column before their member. Without figures for any class there are no rows.

  Args:
    content: Content of a sweep.json.
    members: Names of the members to show; all if empty.
  """
  chosen = [row for row in content["rows"] if row["name"] in (members or [row["name"]])]
  printed = [row for row in chosen if any(one["printed"] is not None for one in row["classes"])]
  head = ["recall"]
  for row in chosen:
    head += [f"paper: {row['name']}"] * (row in printed) + [f"{row['name']} (95 % interval)"]
  classes = dict.fromkeys(one["class"] for row in chosen for one in row["classes"])
  rows = []
  for name in classes:
    cells = [name]
    for row in chosen:
      one = next((one for one in row["classes"] if one["class"] == name), {"recall": None, "printed": None})
      if row in printed:
        cells.append("" if one["printed"] is None else percent(one["printed"]))
      interval = one.get("interval_95")
      cells.append(percent(one["recall"]) + (f" ({percent_range(*interval)})" if interval else ""))
    rows.append(cells)
  return head, rows


def _trainings(row: Record) -> str:
  """Returns the number of folds or seeds in a member's finished runs; empty if each run is a single replica."""
  runs = [run for run in row["runs"] if run.get("trainings")]
  if not runs or row["status"] != "finished":
    return ""
  return f"{len(runs)} \N{MULTIPLICATION SIGN} {runs[0]['trainings']}" if len(runs) > 1 else str(runs[0]["trainings"])


def _measured(row: Record, name: str) -> str:
  value = quantity(name, row["measured"].get(name))
  interval = row["interval_95"].get(name) if name == "test accuracy" else None
  return f"{value} ({percent_range(*interval)})" if interval else value


def _gap(gap: Record | None) -> str:
  if gap is None or gap["mean"] is None:
    return ""
  interval = " ({:.2f} to {:.2f})".format(*(100 * end for end in gap["interval_95"])) if gap["interval_95"] else ""
  return f"{100 * gap['mean']:.2f} points{interval}"


def _seeds(row: Record) -> str:
  finished = sum(run["status"] == "finished" for run in row["runs"])
  return str(finished) if row["status"] == "finished" else f"{finished} of {len(row['runs'])}, {row['status']}"
