"""The table of a sweep's members, for its page and for the README: measured, and what the paper prints."""

from collections.abc import Mapping
from typing import Any

from fer_jax.apps.report_page.quantities import count, percent, percent_range, quantity
from fer_jax.apps.report_page.run_files import Record

_ALWAYS = ("test accuracy", "validation accuracy", "parameters", "seconds a step")


def quantities_of(content: Mapping[str, Any]) -> list[str]:
  """Returns the names of the quantities to show: the usual ones, and what the paper prints besides."""
  reported = (name for row in content["rows"] for name in row["reported"])
  return list(dict.fromkeys([*_ALWAYS, *reported]))


def member_table(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
  """Returns the head and the rows, as plain text, of a sweep.json's content."""
  names = quantities_of(content)
  printed = {name for name in names for row in content["rows"] if name in row["reported"]}
  gaps = bool(content.get("reference"))
  spread = any("test accuracy" in row["std"] for row in content["rows"])
  head = [content["swept"] or "member"]
  for name in names:
    head += [f"{name} (95 % interval)" if name == "test accuracy" else name]
    head += ["standard deviation"] * (spread and name == "test accuracy")
    head += [f"paper: {name}"] * (name in printed)
    head += [f"gap to {content.get('reference')} (95 % interval)"] * (gaps and name == "test accuracy")
  rows = []
  for row in content["rows"]:
    cells = [row["name"]]
    for name in names:
      cells.append(_measured(row, name))
      if spread and name == "test accuracy":
        cells.append(percent(row["std"].get(name)))
      if name in printed:
        reported = row["reported"].get(name)
        cells.append("" if reported is None else quantity(name, reported))
      if gaps and name == "test accuracy":
        cells.append(_gap(row.get("gap")))
    rows.append([*cells, count(row["steps"]), _seeds(row)])
  return [*head, "steps", "seeds"], rows


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
