"""The top of the page: the result, notices about its limits, and comparisons with the paper and with other runs."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from fer_jax.apps.formatting import (
  NOT_MEASURED,
  accuracy_estimate,
  count,
  device_of,
  duration,
  memory,
  percent,
  percent_range,
  quantity,
  trainings_of,
)
from fer_jax.apps.report_page.curves import first_loss_not_finite, other_colour
from fer_jax.apps.report_page.markup import Section, facts, said, table
from fer_jax.apps.report_page.trainings import name_of
from fer_jax.training.run_files import Record, Run, mapping


def best_validation(run: Run) -> Record | None:
  """Returns the validation record of the selected step, or the best one so far; None without an evaluation.

  The record has "accuracy" and "step"; of several steps with the best accuracy it is the first.
  """
  selected = mapping(mapping(run.result).get("validation"))
  if selected.get("accuracy") is not None:
    return dict(selected)
  return max(
    (record for record in run.validation if record.get("accuracy") is not None),
    key=lambda record: (record["accuracy"], -record["step"]),
    default=None,
  )


def seconds_of(run: Run) -> float | None:
  """Returns the run's total seconds, or those until the last record of an unfinished run; None if not logged."""
  if run.result is not None:
    return run.result.get("seconds")
  logged = [*run.metrics.train, *run.validation]
  return max((record["seconds"] for record in logged if record.get("seconds") is not None), default=None)


def _merit(run: Run) -> str:
  estimate = accuracy_estimate(mapping(run.result))
  interval, besides = "", _besides(mapping(run.result))
  if estimate is not None:
    name, value, below = "Test accuracy", estimate.value, estimate.meaning
    if estimate.interval is not None:
      interval = f'<p class="interval">95 % interval {percent_range(*estimate.interval)}</p>'
  elif run.finished:
    name, value = "Mean test accuracy so far", fmean(_accuracies(run))
    below = f"over {len(run.finished)} of {run.planned} replicas; the others have not finished"
  else:
    best = best_validation(run)
    if best is None:
      return f'<div class="figure-of-merit"><p class="name">Test accuracy</p>{said(NOT_MEASURED)}</div>'
    name, value = "Best validation accuracy so far", float(best["accuracy"])
    below = f"at step {count(best['step'])}; test accuracy {NOT_MEASURED}"
  number = percent(value).removesuffix(" %")
  lines = "".join(f'<p class="muted">{escape(line)}</p>' for line in (below, *besides))
  return (
    f'<div class="figure-of-merit"><p class="name">{name}</p><div class="value">{number}<span> %</span></div>'
    f"{interval}{lines}</div>"
  )


def _accuracies(run: Run) -> list[float]:
  return [mapping(training.result)["accuracy"] for training in run.finished]


def _besides(result: Mapping[str, Any]) -> list[str]:
  """Returns further lines on accuracy: pooled over all folds, and without test images that also appear in training."""
  found = []
  if result.get("pooled_accuracy") is not None and result.get("folds"):
    images = sum(map(sum, result["confusion_matrix"]))
    found.append(f"pooled over the {count(images)} test images of all folds: {percent(result['pooled_accuracy'])}")
  fresh = mapping(result.get("deduplicated"))
  if fresh.get("seen"):
    mean = "a mean of " * (len(result.get("runs") or []) > 1)
    found.append(
      f"without the {count(fresh['seen'])} test images that also appear in training: "
      f"{mean}{percent(fresh['accuracy'])} over {count(fresh['images'])}"
      if fresh["images"]
      else f"all {count(fresh['seen'])} test images also appear in training, themselves or as copies"
    )
  return found


def _facts(run: Run) -> str:
  result = mapping(run.result)
  best = best_validation(run)
  selected = "selected" if result else "best so far"
  ended = f"{len(run.finished)} of {run.planned} replicas have finished" if run.replicas else "no result yet"
  stopped = str(result.get("stopped") or "finished") if result else ended
  kind = "state good" if stopped == "finished" else "state"
  if best and best.get("step") is not None:
    of_best = f"{selected}: step {count(best['step'])}"
  else:
    of_best = "mean of the replicas" if best else ""
  whole = "processor time of the whole run" if result.get("clock") == "cpu" else "whole run"
  listed = facts(
    [
      *_division(run),
      ("Validation accuracy", percent(best["accuracy"]) if best else NOT_MEASURED, of_best),
      *_calibration(result),
      ("Steps", count(result.get("steps", run.last_step)), "of each replica" if run.replicas else ""),
      ("Time", duration(seconds_of(run)), whole if result else "" if run.replicas else "until the last record"),
      ("Dataset", str(result.get("dataset") or "not stated"), ""),
      ("Parameters", count(result.get("parameters")), ""),
      ("Peak memory", memory(result.get("peak_memory_bytes")), ""),
      ("Device", device_of({**run.config, **result}), ""),
    ]
  )
  ended = f'<div><dt>Ended</dt><dd class="{kind}">{escape(stopped)}</dd></div>'
  return listed.removesuffix("</dl>") + ended + "</dl>"


def _calibration(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """Returns the calibration error as a fact (name, value, small print); empty if it was not measured."""
  known = mapping(result.get("calibration"))
  errors = mapping(mapping(known.get("test")).get("single"))
  if not errors:
    return []
  before = f"{percent(errors['error'])} before scaling by the temperature {known['temperature']:.2f}"
  return [("Calibration error", percent(errors["error_scaled"]), before)]


def _division(run: Run) -> list[tuple[str, str, str]]:
  """Returns the number of replicas or of the fold as a fact (name, value, small print); empty for a single run."""
  result, folds = mapping(run.result), mapping(run.settings.get("folds"))
  if run.replicas:
    number = trainings_of(len(result["runs"]), result) if result else str(run.planned)
    together = mapping(result.get("strategy")).get("together")
    return [("Trainings", number, f"{together} at a time" if together else "")]
  if folds.get("by"):
    return [("Test split", f"fold {folds.get('number')}", f"by {folds['by'].replace('_', ' ')}")]
  return []


def notices(run: Run) -> list[str]:
  """Returns warnings that limit what the page shows, as plain sentences."""
  found = []
  if run.result is None and run.planned > 1:
    waiting = [training for training in run.replicas if training.result is None]
    on = "".join(f", {name_of(training.name)} is at step {count(training.last_step)}" for training in waiting)
    found.append(
      f"This run has no result.json: it was interrupted or is still running. {len(run.finished)} of its {run.planned} "
      f"replicas have finished{on}. The page shows what they have logged so far."
    )
  elif run.result is None:
    found.append(
      "This run has no result.json: it was interrupted or is still running. The page shows what it "
      f"logged up to step {count(run.last_step)}; nothing was measured on the test split."
    )
  elif run.predictions is None:
    found.append("This run has no predictions.npz, so its worst mistakes and augmented samples are not shown.")
  for training in run.trainings:
    broken = first_loss_not_finite(training)
    if broken is not None:
      whose = f" of {name_of(training.name)}" if run.replicas else ""
      found.append(f"The training loss{whose} is not a finite number at step {count(broken)}.")
  for logged in (run, *run.replicas):
    found += _unreadable(logged, "" if logged is run else f"{logged.name}/")
  return found


def _unreadable(run: Run, where: str) -> list[str]:
  unreadable = run.metrics.unreadable
  if not unreadable:
    return []
  lines = ", ".join(str(number) for number in unreadable[:20])
  more = ", \N{HORIZONTAL ELLIPSIS}" if len(unreadable) > 20 else ""
  few = len(unreadable) == 1
  return [
    f"{len(unreadable)} {'line' if few else 'lines'} of {where}metrics.jsonl could not be read and "
    f"{'is' if few else 'are'} skipped, as after a crash (line {lines}{more})."
  ]


def headline(run: Run, whole: Run | None = None) -> str:
  """Returns the page's header: the run's name, its figure of merit, its facts, and any notices.

  Args:
    run: Run that the page is about.
    whole: Run that it is a replica of, to whose page the header links; None if it is not a replica.
  """
  paper = mapping(mapping(run.config.get("config")).get("paper"))
  title, reference = paper.get("title"), paper.get("reference")
  about = " \N{MIDDLE DOT} ".join(escape(str(part)) for part in (title, reference) if part)
  warned = "".join(f'<p class="notice" role="note">{escape(text)}</p>' for text in notices(run))
  part_of = f'<a href="../../../report/index.html">{escape(whole.name)}</a> / ' if whole else ""
  return (
    f'<header><div class="eyebrow">{part_of}{escape(run.name)}</div><h1>{escape(run.source)}</h1>'
    + (f'<div class="muted">{about}</div>' if about else "")
    + f'{warned}<div class="headline">{_merit(run)}{_facts(run)}</div></header>'
  )


def paper_table(run: Run) -> Section | None:
  """Returns the section that compares every quantity that the paper reports with the run's own value."""
  paper = mapping(mapping(run.config.get("config")).get("paper"))
  reported = mapping(paper.get("reported"))
  if not reported:
    return None
  measured = mapping(mapping(run.result).get("measured"))
  rows = [
    [escape(name), escape(quantity(name, value)), said(quantity(name, measured.get(name)))]
    for name, value in reported.items()
  ]
  note = f'<p class="lead" style="margin-top: 0.75rem">{escape(str(paper["note"]))}</p>' if paper.get("note") else ""
  return Section(
    "paper",
    "Paper and measured",
    f'<div class="narrow">{table(["quantity", "paper", "this run"], rows)}</div>{note}',
  )


def names_of(runs: Sequence[Run]) -> list[str]:
  """Returns a name for each run: the last part of its workdir, or the whole path if two runs share that part."""
  last = [run.name for run in runs]
  return [run.name if last.count(run.name) == 1 else str(run.workdir) for run in runs]


def _row(name: str, run: Run, own: float | None) -> list[str]:
  result = mapping(run.result)
  estimate = accuracy_estimate(result)
  best = best_validation(run)
  if estimate is None:
    accuracy, difference = said(NOT_MEASURED), ""
  else:
    interval = "" if estimate.interval is None else f" ({percent_range(*estimate.interval)})"
    accuracy = f'{percent(estimate.value)}<span class="muted">{interval}</span>'
    difference = "" if own is None else f"{100 * (estimate.value - own):+.2f}".replace("-", "\N{MINUS SIGN}")
  return [
    f'<span class="nowrap">{name}</span>',
    accuracy,
    difference,
    percent(best["accuracy"]) if best else said(NOT_MEASURED),
    duration(seconds_of(run)),
    count(result.get("steps", run.last_step)),
    f"<code>{escape(run.source)}</code>",
  ]


def beside_table(run: Run, beside: Sequence[tuple[str, Run]]) -> Section | None:
  """Returns the section that lists the run and the compared runs, each linked to its own page if that exists."""
  if not beside:
    return None
  estimate = accuracy_estimate(mapping(run.result))
  own = None if estimate is None else estimate.value  # differences are taken to this accuracy
  rows = [_row("this run", run, None)]
  for position, (name, other) in enumerate(beside):
    page = other.workdir.resolve() / "report" / "index.html"
    linked = escape(name)
    if page.is_file():
      address = Path(os.path.relpath(page, run.workdir.resolve() / "report")).as_posix()
      linked = f'<a href="{quote(address)}">{linked}</a>'
    chip = f'<i class="dashed chip" style="--colour: {other_colour(position)}"></i>'
    rows.append(_row(f"{chip}{linked}", other, own))
  head = ["run", "test accuracy (95 %)", "points", "validation", "time", "steps", "config"]
  lead = '<p class="lead">Points: difference to the test accuracy of this run, in percentage points.</p>'
  return Section("beside", "Compared runs", lead + table(head, rows, marked=0))
