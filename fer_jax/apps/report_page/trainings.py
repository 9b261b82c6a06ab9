"""The section that lists the replicas of a run: its folds, or its seeds."""

from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean, stdev
from typing import Any
from urllib.parse import quote

from fer_jax.apps.formatting import count, duration, percent
from fer_jax.apps.report_page.markup import Section, said, table
from fer_jax.training.run_files import Record, Run, mapping

# By the unit that is not split between folds.
_DIVISIONS = {
  "images": "The folds are split by image: a person, and frames of a sequence, may be in both training and test.",
  "groups": "The folds are split by group: the frames of a sequence, and equal images, are in the same fold, but a "
  "person may be in both training and test.",
  "subjects": "The folds are split by subject: no person is in both training and test.",
  "one_subject_out": "Leave-one-subject-out: each fold tests on one person and trains on all others.",
  "file": "The folds are read from a file.",
}
SHARED = (
  "The training sets of the folds overlap, so the interval over folds is too narrow (Bengio & Grandvalet 2004, JMLR 5)."
)
_SEEDS = (
  "The replicas differ only in their seed, and all are tested on the same images. The 95 % interval is Student's "
  "t over the replicas: it measures how much they differ from one another."
)


def name_of(replica: str) -> str:
  """Returns the name of a replica for readers: "fold 3" for the folder "fold_3"."""
  return replica.replace("_", " ")


def trainings(run: Run) -> Section | None:
  """Returns the section that lists the replicas of a run, each linked to its own page.

  The last row has the mean and the standard deviation over the replicas that have finished.
  """
  result = mapping(run.result)
  listed = result.get("runs") or [_record(replica) for replica in run.replicas]
  if not run.replicas and len(listed) < 2:
    return None
  known = {replica.name for replica in run.replicas}  # replicas whose folder, and so whose page, exists
  seen = any(mapping(one.get("deduplicated")).get("seen") for one in listed)
  rows = [_row(one, known, seen) for one in listed]
  ended = [one for one in listed if one.get("accuracy") is not None]
  if ended:
    rows.append(_last_row(ended, len(listed), seen))
  head = ["training", "seed", "test accuracy", *(["unseen images only"] if seen else []), "validation accuracy"]
  head += ["best step", "steps", "test images", "time", "ended"]
  body = f'<p class="lead">{escape(_lead(run))}</p>{table(head, rows, marked=len(listed) if ended else None)}'
  return Section("trainings", "Trainings", body)


def _lead(run: Run) -> str:
  by = mapping(mapping(run.result).get("folds")).get("by") or mapping(run.settings.get("folds")).get("by")
  return f"{_DIVISIONS[by]} The 95 % interval is Student's t over the folds. {SHARED}" if by else _SEEDS


def _record(replica: Run) -> Record:
  """Returns the entry that a replica will have in the run's result; None for values that do not exist yet."""
  result = mapping(replica.result)
  (run,) = result.get("runs") or [{}]
  validation = mapping(result.get("validation"))
  return {
    "name": replica.name,
    "seed": replica.settings.get("seed"),
    "accuracy": run.get("accuracy"),
    "validation_accuracy": validation.get("accuracy"),
    "best_step": validation.get("step"),
    "images": sum(map(sum, result["confusion_matrix"])) if "confusion_matrix" in result else None,
    "steps": result.get("steps", replica.last_step),
    **{key: result.get(key) for key in ("stopped", "seconds", "deduplicated")},
  }


def _row(one: Mapping[str, Any], known: set[str], seen: bool) -> list[str]:
  name = str(one.get("name") or "")
  heading = escape(name_of(name))
  if name in known:
    heading = f'<a href="../replicas/{quote(name)}/report/index.html">{heading}</a>'
  fresh = mapping(one.get("deduplicated"))
  unseen = "no image" if fresh and fresh.get("accuracy") is None else said(percent(fresh.get("accuracy")))
  return [
    f'<span class="nowrap">{heading}</span>',
    escape(str(one.get("seed", ""))),
    said(percent(one.get("accuracy"))),
    *([unseen] if seen else []),
    said(percent(one.get("validation_accuracy"))),
    *(said(count(one.get(key))) for key in ("best_step", "steps", "images")),
    said(duration(one.get("seconds"))),
    escape(str(one.get("stopped") or "not yet")),
  ]


def _last_row(ended: Sequence[Mapping[str, Any]], of: int, seen: bool) -> list[str]:
  """Returns the row of means and standard deviations.

  Args:
    ended: Entries of the replicas that have finished.
    of: Number of all replicas.
    seen: Whether the table has a column for test images that do not appear in training.
  """
  unseen = [{"accuracy": mapping(one.get("deduplicated")).get("accuracy")} for one in ended]
  which = "" if len(ended) == of else f" of the {len(ended)} that have finished"
  return [
    f"mean \N{PLUS-MINUS SIGN} standard deviation{which}",
    "",
    _spread(ended, "accuracy", 100, "{:.2f}", " %"),
    *([_spread(unseen, "accuracy", 100, "{:.2f}", " %")] if seen else []),
    _spread(ended, "validation_accuracy", 100, "{:.2f}", " %"),
    *(_spread(ended, key, 1, "{:,.0f}", "") for key in ("best_step", "steps", "images")),
    "",
    "",
  ]


def _spread(rows: Sequence[Mapping[str, Any]], key: str, times: float, form: str, unit: str) -> str:
  values = [times * row[key] for row in rows if row.get(key) is not None]
  if not values:
    return ""
  mean = form.format(fmean(values))
  return f"{mean}{unit}" if len(set(values)) == 1 else f"{mean} \N{PLUS-MINUS SIGN} {form.format(stdev(values))}{unit}"
